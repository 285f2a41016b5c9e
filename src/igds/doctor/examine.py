"""The figures of each SAE: the model is read first and freed, then SAE by SAE is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from igds.data.seeds import seeded_bits
from igds.doctor.measures import CueFit, ScaleFit, best_scale, cue_fit, fit_by_block, typical
from igds.doctor.prompts import Ids, Prompts, leading_bos
from igds.features import FeatureId
from igds.models.blocks import decoder_blocks
from igds.models.load import ModelSpec, load_blocks
from igds.progress import Progress
from igds.reading.residuals import residuals_at_read, residuals_at_tokens
from igds.reading.statistics import summary
from igds.saes.quality import sae_quality
from igds.saes.sae import SAE

TOKENS = 2048
"""Prompt tokens, drawn from all of them, on which an SAE is measured at its own block."""
SCAN_PROMPTS, SCAN_TOKENS = 16, 256
"""Prompts, and tokens drawn from them, on which it is measured at every block and scale."""

Residuals = dict[int, Float[Tensor, "_ d_model"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFigures:
    """What was measured of one SAE; qualities are those of `sae_quality`."""

    layer: int
    """Decoder block it is configured for, from 0."""
    release: str
    """Name of the release or folder."""
    d_sae: int
    """Features."""
    read: Mapping[str, float | None]
    """Quality at the read position of the prior prompts."""
    tokens: Mapping[str, float | None]
    """Quality on their tokens, without BOS and sinks."""
    all_tokens: Mapping[str, float | None]
    """Quality on their tokens, with both."""
    across: float | None
    """Explained variance at the read position, over prior and control prompts together."""
    published_l0: float | None
    """l0 that the release states."""
    prepend_bos: bool | None
    """Whether the release says that a BOS led each text."""
    blocks: Mapping[int, float | None]
    """Block -> explained variance of this SAE there, on fewer tokens, without BOS and sinks."""
    scale: ScaleFit
    """The input scale that suits it best, on the same tokens."""
    cue: CueFit
    """Its features under the cue and its paraphrases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """All residuals that the figures need, on the CPU in float32."""

    tokens: Residuals
    """SAE block -> tokens drawn from the prior prompts."""
    tokens_bos: Bool[Tensor, " tokens"]
    """Which of them are BOS."""
    scan: Residuals
    """Every block -> fewer tokens."""
    scan_bos: Bool[Tensor, " scan"]
    """Which of them are BOS."""
    task: Sequence[Residuals]
    """SAE block -> prior prompts at t*, in the cue and, the first of them, in each paraphrase."""
    control: Sequence[Residuals]
    """SAE block -> control prompts at t*, likewise."""


def read_all(
    spec: ModelSpec,
    prompts: Prompts,
    layers: Sequence[int],
    *,
    batch_tokens: int,
    seed: int,
    progress: Progress,
) -> Readings:
    """Return the residuals of the prompts: of every block for the scan, then of those with SAEs.

    Memory: `TOKENS` residuals a measured block, `SCAN_TOKENS` any block, and one batch. The model
    is loaded whole for the scan, then again without the blocks that no SAE needs.
    """
    cue, bos = prompts.task[0], _bos_tokens(prompts.task[0], prompts.bos_id)
    last = _last_tokens(cue)
    scanned = cue[:SCAN_PROMPTS]
    scan_bos = bos[: sum(map(len, scanned))]
    with progress.task("doctor: reading (sets of prompts)", 1 + 2 * len(prompts.task)) as bar:
        wanted = _draw(len(scan_bos), SCAN_TOKENS, seed, "scan")
        scan = _scan(spec, scanned, wanted, batch_tokens)
        bar.advance()
        model = load_blocks(spec, max(layers) + 1)
        drawn = _draw(len(bos), TOKENS, seed, "tokens")
        read = residuals_at_tokens(model, cue, layers, drawn | last, batch_tokens)
        bar.advance()

        def at_read(ids: Ids) -> Residuals:
            residuals = residuals_at_read(model, ids, layers, batch_tokens)
            bar.advance()
            return residuals

        return Readings(
            tokens=_of(read, drawn[drawn | last]),
            tokens_bos=bos[drawn],
            scan=scan,
            scan_bos=scan_bos[wanted],
            task=[_of(read, last[drawn | last]), *map(at_read, prompts.task[1:])],
            control=list(map(at_read, prompts.control)),
        )


def examine(
    readings: Readings,
    load_sae: Callable[[int], SAE],
    *,
    features: Sequence[FeatureId],
    min_frequency: float,
    progress: Progress,
) -> list[LayerFigures]:
    """Return the figures of each SAE, in block order; one SAE is held at a time.

    Args:
        readings: the residuals.
        load_sae: gives the SAE of a block.
        features: task features of an earlier run; of a block without any, those that recall
            would keep are looked at.
        min_frequency: share of prior prompts, 0-1, from which recall keeps a feature.
        progress: where progress goes.
    """
    layers = sorted(readings.tokens)
    with progress.task("doctor: measuring SAEs", len(layers)) as bar:
        figures = []
        for layer in layers:
            chosen = [feature.index for feature in features if feature.layer == layer]
            figures.append(_figures(readings, load_sae(layer), chosen, min_frequency))
            bar.advance()
    return figures


def _figures(
    readings: Readings, sae: SAE, chosen: Sequence[int], min_frequency: float
) -> LayerFigures:
    """Return the figures of one SAE."""
    layer = sae.layer
    tokens, scan = readings.tokens[layer], readings.scan[layer]
    read, control = readings.task[0][layer], readings.control[0][layer]
    columns = chosen or np.flatnonzero(summary(sae, read)["frequency"] >= min_frequency).tolist()
    return LayerFigures(
        layer=layer,
        release=sae.release,
        d_sae=sae.d_sae,
        read=sae_quality(sae, read),
        tokens=sae_quality(sae, tokens[typical(tokens, readings.tokens_bos)]),
        all_tokens=sae_quality(sae, tokens),
        across=sae_quality(sae, torch.cat([read, control]))["explained_variance"],
        published_l0=sae.published_l0,
        prepend_bos=sae.prepend_bos,
        blocks=fit_by_block(sae, readings.scan, readings.scan_bos),
        scale=best_scale(sae, scan[typical(scan, readings.scan_bos)]),
        cue=cue_fit(
            columns,
            [sae.encode_columns(one[layer], columns) for one in readings.task],
            [sae.encode_columns(one[layer], columns) for one in readings.control],
        ),
    )


def _scan(spec: ModelSpec, ids: Ids, wanted: Tensor, batch_tokens: int) -> Residuals:
    """Return the chosen tokens' residuals at every block."""
    model = load_blocks(spec)
    blocks = range(len(decoder_blocks(model)))
    return residuals_at_tokens(model, ids, blocks, wanted, batch_tokens)


def _of(read: Residuals, rows: Bool[Tensor, " rows"]) -> Residuals:
    """Return some rows of every block's residuals."""
    return {layer: residuals[rows] for layer, residuals in read.items()}


def _bos_tokens(ids: Ids, bos: int | None) -> Bool[Tensor, " tokens"]:
    """Return which tokens of the prompts, one after the other, are a BOS at the start of one."""
    return torch.cat([torch.arange(len(one)) < leading_bos(one, bos) for one in ids])


def _last_tokens(ids: Ids) -> Bool[Tensor, " tokens"]:
    """Return which tokens of the prompts, one after the other, are at a read position."""
    return torch.cat([torch.arange(1, len(one) + 1) == len(one) for one in ids])


def _draw(total: int, n: int, seed: int, item: str) -> Bool[Tensor, " tokens"]:
    """Return a mask over `total` tokens with at most `n` drawn, for this item of the doctor."""
    stream = torch.Generator().manual_seed(seeded_bits(seed, "doctor", item) >> 1)
    drawn = torch.zeros(total, dtype=torch.bool)
    drawn[torch.randperm(total, generator=stream)[:n]] = True
    return drawn
