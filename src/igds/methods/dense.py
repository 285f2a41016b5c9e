"""Dense controls: what the residual at t* says without any SAE."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from safetensors.numpy import load_file
from torch import Tensor

from igds.errors import RequestError
from igds.methods.base import Reading
from igds.stats.auroc import auroc

COLUMN = "cosine"


def centred_cosine(
    h: Float[Tensor, "rows d_model"],
    task: Float[Tensor, "task d_model"],
    control: Float[Tensor, "control d_model"],
) -> Float[Tensor, " rows"]:
    """Return cos(h - mu_control, mu_task - mu_control), in -1 to 1."""
    origin = control.mean(dim=0)
    direction = task.mean(dim=0) - origin
    return torch.nn.functional.cosine_similarity(h - origin, direction[None], dim=1)


def best_layer(residuals: Mapping[int, Mapping[str, np.ndarray]]) -> int:
    """Return the block whose dense cosine parts held-out task from held-out control prompts best.

    Fitted on the prior prompts and every second control prompt; judged by AUROC on validation
    prompts and the other control prompts. Ties go to the earlier block.

    Raises:
        RequestError: there are under two control prompts.
    """
    if any(len(sets["control_task_template"]) < 2 for sets in residuals.values()):
        raise RequestError("cosine-best fits and then judges: data.control needs two usable rows")

    def judged(layer: int) -> float:
        sets = {name: torch.from_numpy(array) for name, array in residuals[layer].items()}
        control = sets["control_task_template"]
        fit = {"task": sets["prior"], "control": control[::2]}
        task = centred_cosine(sets["validation"], **fit).numpy()
        return auroc(task, centred_cosine(control[1::2], **fit).numpy())

    return max(sorted(residuals), key=judged)


class CosineScorer:
    """Centred cosine of a row's residual to the mean task direction at one block."""

    columns: tuple[str, ...] = (COLUMN,)
    parts: frozenset[str] = frozenset()

    def __init__(self, residuals: str, layer: int) -> None:
        """Read the recall stage's residuals of one block.

        Args:
            residuals: safetensors file of that block.
            layer: decoder block, from 0.
        """
        sets = load_file(Path(residuals))
        self._task = torch.from_numpy(sets["prior"])
        self._control = torch.from_numpy(sets["control_task_template"])
        self._layer = layer
        self.layers = frozenset({layer})

    def score(self, rows: pa.Table, reading: Reading) -> dict[str, np.ndarray]:
        """Return the cosine of each row."""
        value = centred_cosine(reading.residuals[self._layer], self._task, self._control)
        return {COLUMN: value.double().numpy()}
