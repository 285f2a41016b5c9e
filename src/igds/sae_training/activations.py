"""One pass of the model over the text: residuals of all blocks in float16 arrays on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from igds.errors import RequestError, WorkError
from igds.models.capture import capture
from igds.progress import Progress
from igds.reading.batches import plan_batches
from igds.reading.residuals import pad_right
from igds.runs.files import write_json
from igds.sae_training.corpus import Text

_FLUSH_BATCHES = 50
_SPARE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """The captured residuals: one row a token, texts one after the other."""

    folder: Path
    """Where `L<layer>.npy` are."""
    cue: np.ndarray
    """[tokens] whether the token ends a prompt: a read position."""
    held_out: np.ndarray
    """[tokens] whether the token is kept from training."""
    source: np.ndarray
    """[tokens] name of the token's source."""
    plan: dict[str, Any]
    """What the arrays depend on: model, text and batches; JSON values."""

    def layer(self, layer: int) -> np.ndarray:
        """Return the residuals of one block, float16 [tokens, d_model], mapped from disk."""
        return np.load(self.folder / f"L{layer}.npy", mmap_mode="r")


def capture_residuals(
    model: nn.Module,
    texts: Sequence[Text],
    layers: Sequence[int],
    folder: Path,
    *,
    identity: dict[str, Any],
    batch_tokens: int,
    progress: Progress,
) -> Residuals:
    """Return the residuals of every token of the texts, captured now or found in the folder.

    bfloat16 would keep 8 bits of each number and cost explained variance; float16 keeps 11. A
    killed pass goes on from the last flush.

    Args:
        model: the decoder, cut after the deepest of the layers.
        texts: what it reads.
        layers: blocks to capture.
        folder: where the arrays are.
        identity: what else must be equal for the folder's arrays to be these: the model.
        batch_tokens: padded tokens a forward batch.
        progress: where the pass is shown.

    Raises:
        RequestError: the folder holds residuals of another model or text, or the disk is small.
        WorkError: a residual is too large for float16.
    """
    lengths = [len(text.ids) for text in texts]
    ends = np.cumsum(lengths)
    plan = {**identity, "layers": sorted(layers), "batch_tokens": batch_tokens}
    plan |= {"tokens": int(ends[-1]), "text": _digest(texts)}
    batches = plan_batches(lengths, batch_tokens)
    width = int(model.config.hidden_size)  # type: ignore[arg-type, union-attr]
    arrays, done = _open_arrays(folder, plan, (int(ends[-1]), width))
    with progress.task("capture (tokens)", int(ends[-1])) as bar:
        for number, rows in enumerate(batches):
            if number >= done:
                _capture_batch(model, texts, rows, ends, arrays)
            bar.advance(sum(lengths[row] for row in rows))
            if number >= done and (number % _FLUSH_BATCHES == 0 or number + 1 == len(batches)):
                for array in arrays.values():
                    array.flush()
                write_json(folder / "done.json", {"batches": number + 1})
    cue = np.zeros(ends[-1], dtype=bool)
    cue[ends - 1] = [text.cue for text in texts]
    return Residuals(
        folder=folder,
        cue=cue,
        held_out=np.repeat([text.held_out for text in texts], lengths),
        source=np.repeat([text.source for text in texts], lengths),
        plan=plan,
    )


def _capture_batch(
    model: nn.Module,
    texts: Sequence[Text],
    rows: Sequence[int],
    ends: np.ndarray,
    arrays: dict[int, np.memmap],
) -> None:
    """Run one batch and put its residuals in their places."""
    device = next(model.parameters()).device
    ids, mask = (side.to(device) for side in pad_right([texts[row].ids for row in rows]))
    with capture(model, arrays) as kept:
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    for layer, hidden in kept.items():
        half = hidden.to(torch.float16).cpu()
        if not half[mask.bool().cpu()].isfinite().all():
            raise WorkError(f"block {layer} has residuals over 65504, too large for float16")
        for place, row in enumerate(rows):
            length = len(texts[row].ids)
            arrays[layer][ends[row] - length : ends[row]] = half[place, :length].numpy()


def _open_arrays(
    folder: Path, plan: dict[str, Any], shape: tuple[int, int]
) -> tuple[dict[int, np.memmap], int]:
    """Return layer -> array open for writing, and how many batches they already hold."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "plan.json"
    paths = {layer: folder / f"L{layer}.npy" for layer in plan["layers"]}
    if record.exists():
        found = json.loads(record.read_text(encoding="utf-8"))
        other = sorted(key for key in plan | found if plan.get(key) != found.get(key))
        if other:
            raise RequestError(
                f"{folder} holds residuals of another {', '.join(other)}: delete it, or name "
                "another `cache`"
            )
        done = json.loads((folder / "done.json").read_text(encoding="utf-8"))["batches"]
        return {at: np.load(path, mmap_mode="r+") for at, path in paths.items()}, done
    need = 2 * shape[0] * shape[1] * len(paths) + _SPARE_BYTES
    free = shutil.disk_usage(folder).free
    if free < need:
        raise RequestError(f"{folder}: {need >> 20} MB are needed, {free >> 20} MB are free")
    make = np.lib.format.open_memmap
    arrays = {
        at: make(path, mode="w+", dtype=np.float16, shape=shape) for at, path in paths.items()
    }
    write_json(folder / "done.json", {"batches": 0})
    write_json(record, plan)
    return arrays, 0


def _digest(texts: Sequence[Text]) -> str:
    """Return the sha256 of all token ids and what they are for."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(repr(text).encode())
    return digest.hexdigest()
