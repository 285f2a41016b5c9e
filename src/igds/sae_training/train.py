"""`igds saes train`: one pass of the model, then an SAE a block by sae_lens' training classes."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from igds.config.identity import digest, to_plain
from igds.config.load import read_settings
from igds.data.seeds import seeded_bits
from igds.data.tokens import added_bos, encode_prompts
from igds.errors import RequestError
from igds.models.load import (
    ModelSpec,
    describe,
    load_blocks,
    load_tokenizer,
    model_identity,
    resolve_model,
)
from igds.progress import Progress, SilentProgress
from igds.runs.files import write_json
from igds.sae_training.activations import Residuals, capture_residuals
from igds.sae_training.config import SAETraining
from igds.sae_training.corpus import Text, read_excluded, read_texts
from igds.saes.formats.saelens import read_config, write_saelens
from igds.saes.load import load_sae
from igds.saes.quality import sae_quality
from igds.saes.sae import SAE
from igds.saes.untrained import random_directions

if TYPE_CHECKING:
    from sae_lens.saes.sae import TrainingSAE
    from sae_lens.training.sae_trainer import SAETrainer

RECIPE = "training_sha256"
"""Key of an SAE's metadata: the digest of the settings, the model and the text that made it."""
_DECAY_SHARE = 0.2
_WARM_UP_SHARE = 0.02
_DEAD_TOKENS = 200_000
"""A feature silent for this many residuals is dead, and pulled back by the auxiliary loss."""
_NORM_ROWS = 20_000


def train_saes(
    config_path: Path, overrides: Sequence[str] = (), progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Train and write the SAEs of a configuration; return the quality table, a row a block.

    Each row has layer, tokens, and explained_variance, l0 and dead_share on held-out text and,
    as `read_...`, at the read position of held-out prompts. `<output>/L<layer>` are SAELens
    folders with float16 matrices and float32 thresholds, `<output>/quality.json` is the table.
    A killed run goes on: the captured residuals and the SAEs that were written are kept.

    Raises:
        RequestError: a setting, the model, the text or the cache folder is wrong, or the output
            holds an SAE that other settings made.
    """
    progress = progress or SilentProgress()
    config, base = read_settings(config_path, overrides, SAETraining), config_path.resolve().parent
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = resolve_model(config.model, "auto", base)
    shape = describe(model)
    if max(config.layers) >= shape.n_blocks:
        raise RequestError(f"layers: the model has blocks 0 to {shape.n_blocks - 1}")
    texts = _read_corpus(config, base, model)
    residuals = capture_residuals(
        load_blocks(model, max(config.layers) + 1),
        texts,
        config.layers,
        base / config.cache,
        identity={"model": model_identity(model)},
        batch_tokens=config.batch_tokens,
        progress=progress,
    )
    output = base / config.output
    recipe = _recipe(config, residuals)
    missing = [layer for layer in config.layers if not _is_trained(output / f"L{layer}", recipe)]
    table = []
    for layer in config.layers:
        folder = output / f"L{layer}"
        if layer in missing:
            sae = train_layer(config, residuals, layer, progress, device=model.device)
            part = folder.with_name(f"{folder.name}.part")
            metadata = {**_metadata(config, model), RECIPE: recipe}
            write_saelens(sae, part, weights=torch.float16, metadata=metadata)
            part.rename(folder)
        table.append(measure(config, residuals, load_sae(folder)))
        write_json(output / "quality.json", table)
    return table


def train_layer(
    config: SAETraining,
    residuals: Residuals,
    layer: int,
    progress: Progress,
    *,
    device: str = "cpu",
) -> SAE:
    """Return the SAE of one block, trained on its captured residuals.

    Raises:
        RequestError: there are fewer residuals than one batch.
    """
    rows, usable = residuals.layer(layer), _usable(config, residuals, layer)
    places = np.flatnonzero(usable & ~residuals.held_out)
    places = np.repeat(places, np.where(residuals.cue[places], config.read_weight, 1))
    steps = int(len(places) * config.epochs) // config.batch
    if steps < 1:
        raise RequestError(f"{len(places)} residuals are fewer than one batch of {config.batch}")
    torch.manual_seed(seeded_bits(config.seed, "sae-weights", f"L{layer}"))
    sae = _new_sae(config, rows.shape[1], layer, device)
    if config.decoder == "frozen":
        _freeze_decoder(sae, random_directions(config.seed, layer, *sae.W_dec.shape))
    mean, scale = _mean_and_scale(rows, places)
    # A residual stream's mean is longer than its spread: a short run should not have to learn it.
    sae.b_dec.data = (mean * scale).to(device)
    trainer = _trainer(config, sae, steps, device)
    batches = _batches(config, rows, places, layer)
    with progress.task(f"train L{layer} (steps)", steps) as bar:
        for _ in range(steps):
            trainer.step(next(batches).to(device) * scale)
            trainer.n_training_steps += 1
            bar.advance()
    sae.fold_activation_norm_scaling_factor(scale)
    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        trained = load_sae(Path(folder), release=f"L{layer}")
    if config.architecture not in ("batchtopk", "matryoshka"):
        return trained
    return dataclasses.replace(trained, activation="batchtopk")


def measure(config: SAETraining, residuals: Residuals, sae: SAE) -> dict[str, Any]:
    """Return the quality of a written SAE on held-out text and at held-out read positions."""
    rows = residuals.layer(sae.layer)
    held = residuals.held_out & _usable(config, residuals, sae.layer)
    read = held & residuals.cue & np.isin(residuals.source, config.read_sources)
    quality = sae_quality(sae, _take(rows, np.flatnonzero(held)))
    at_read = sae_quality(sae, _take(rows, np.flatnonzero(read)))
    return {
        "layer": sae.layer,
        "tokens": int((~residuals.held_out).sum()),
        **quality,
        **{f"read_{name}": value for name, value in at_read.items()},
    }


def _recipe(config: SAETraining, residuals: Residuals) -> str:
    """Return the digest of all that an SAE's weights depend on, beside its block."""
    elsewhere = ("layers", "output", "cache", "threads")
    settings = {key: value for key, value in to_plain(config).items() if key not in elsewhere}
    plan = {key: value for key, value in residuals.plan.items() if key != "layers"}
    return digest({"settings": settings, "residuals": plan})


def _is_trained(folder: Path, recipe: str) -> bool:
    """Return whether the folder holds the SAE of this recipe; what a kill left is removed.

    Raises:
        RequestError: it holds another one.
    """
    part = folder.with_name(f"{folder.name}.part")
    if part.exists():
        shutil.rmtree(part)
    if not folder.exists():
        return False
    if read_config(folder).get(RECIPE) != recipe:
        raise RequestError(
            f"{folder} holds an SAE that other settings or text made: move it away, or name "
            "another `output`"
        )
    return True


def _read_corpus(config: SAETraining, base: Path, model: ModelSpec) -> list[Text]:
    tokenizer = load_tokenizer(model)
    excluded = read_excluded(base / path for path in config.exclude)
    texts: list[Text] = []
    for source in config.sources:
        texts += read_texts(
            source,
            base / config.text_root,
            lambda block: encode_prompts(tokenizer, block),
            excluded=excluded,
            holdout=config.holdout,
            context=config.context,
            seed=config.seed,
        )
    if not any(text.held_out and text.cue and text.source in config.read_sources for text in texts):
        raise RequestError(
            f"no prompt of {', '.join(config.read_sources)} is left to measure quality by: all of "
            f"its rows are excluded, blank, or longer than context, {config.context} tokens"
        )
    return texts


def _usable(config: SAETraining, residuals: Residuals, layer: int) -> np.ndarray:
    """Return [tokens] which residuals have an ordinary norm."""
    rows = residuals.layer(layer)
    norms = np.concatenate(
        [
            np.linalg.norm(rows[at : at + _NORM_ROWS].astype(np.float32), axis=1)
            for at in range(0, len(rows), _NORM_ROWS)
        ]
    )
    return norms <= config.max_norm * np.median(norms)


def _new_sae(config: SAETraining, d_in: int, layer: int, device: str) -> TrainingSAE:
    """Return an untrained SAE of sae_lens."""
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    common: dict[str, Any] = {
        "d_in": d_in,
        "d_sae": config.d_sae,
        "device": device,
        # Inputs come scaled; the scale is folded into the weights at the end.
        "normalize_activations": "expected_average_only_in",
        "metadata": SAEMetadata(hook_name=f"blocks.{layer}.hook_resid_post"),
    }
    if config.architecture == "topk":
        settings = sae_lens.TopKTrainingSAEConfig(**common, k=round(config.l0))
        return sae_lens.TopKTrainingSAE(settings)
    # Over a short run the threshold must follow fast: 0.01 leaves l0 at 85 for k = 32.
    batch_topk: dict[str, Any] = {"k": config.l0, "topk_threshold_lr": 0.1}
    if config.architecture == "batchtopk":
        settings = sae_lens.BatchTopKTrainingSAEConfig(**common, **batch_topk)
        return sae_lens.BatchTopKTrainingSAE(settings)
    if config.architecture == "matryoshka":
        widths = config.matryoshka_widths or [config.d_sae // part for part in (8, 4, 2, 1)]
        settings = sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(
            **common, **batch_topk, matryoshka_widths=list(widths)
        )
        return sae_lens.MatryoshkaBatchTopKTrainingSAE(settings)
    # The quadratic loss aims at an l0 instead of trading it against the error.
    sparsity = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": config.l0}
    return sae_lens.JumpReLUTrainingSAE(sae_lens.JumpReLUTrainingSAEConfig(**common, **sparsity))


def _freeze_decoder(sae: TrainingSAE, directions: Float[Tensor, "d_sae d_in"]) -> None:
    """Fix the decoder at the directions; the encoder, which is trained, starts tied to it."""
    sae.W_dec.data = directions.to(sae.W_dec.device)
    sae.W_enc.data = sae.W_dec.data.T.contiguous()
    sae.W_dec.requires_grad_(False)


def _trainer(config: SAETraining, sae: TrainingSAE, steps: int, device: str) -> SAETrainer:
    """Return the trainer of sae_lens, of which only `step` is used: no wandb, no second bar."""
    from sae_lens import LoggingConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    settings = SAETrainerConfig(
        total_training_samples=steps * config.batch,
        train_batch_size_samples=config.batch,
        lr=config.lr,
        device=device,
        lr_end=config.lr / 10,
        lr_warm_up_steps=int(steps * _WARM_UP_SHARE),
        lr_decay_steps=int(steps * _DECAY_SHARE),
        dead_feature_window=max(1, _DEAD_TOKENS // config.batch),
        logger=LoggingConfig(log_to_wandb=False),
    )
    return SAETrainer(cfg=settings, sae=sae, data_provider=iter(()))


def _mean_and_scale(
    rows: np.ndarray, places: Int[np.ndarray, " n"]
) -> tuple[Float[Tensor, " d_in"], float]:
    """Return the mean residual, and the factor that brings norms to sqrt(d_in) on average."""
    x = _take(rows, places[:: max(1, len(places) // _NORM_ROWS)])
    return x.mean(dim=0), float(x.shape[1] ** 0.5 / x.norm(dim=1).mean())


def _batches(
    config: SAETraining, rows: np.ndarray, places: Int[np.ndarray, " n"], layer: int
) -> Iterator[Float[Tensor, "batch d_in"]]:
    """Yield shuffled batches, epoch after epoch, without end."""
    generator = np.random.default_rng(seeded_bits(config.seed, "sae-batches", f"L{layer}"))
    left = np.empty(0, dtype=places.dtype)
    while True:
        if len(left) < config.batch:
            left = np.concatenate([left, generator.permutation(places)])
        yield _take(rows, left[: config.batch])
        left = left[config.batch :]


def _take(rows: np.ndarray, places: np.ndarray) -> Float[Tensor, "n d_in"]:
    return torch.from_numpy(rows[places].astype(np.float32))


def _metadata(config: SAETraining, model: ModelSpec) -> dict[str, Any]:
    """Return what is recorded with each SAE."""
    return {
        "model_name": model.id,
        "model_revision": model.revision,
        "context_size": config.context,
        "prepend_bos": added_bos(load_tokenizer(model)) is not None,
        "training_architecture": config.architecture,
        "decoder": config.decoder,
        "training_text": [
            {"name": one.name, "license": one.license, "url": one.url} for one in config.sources
        ],
    }
