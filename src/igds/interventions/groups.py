"""Several features edited together: what K task features do jointly.

Features of one block share one state, so what they add is summed. Across blocks the activation that
decides how far a feature goes is that of the clean run (`frozen`: each adds what it adds alone), or
is computed again from the state that enters its hook, after the edits of the blocks below (`live`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from igds.features import FeatureId, group_name
from igds.interventions.exact import Prefix, branch_states, response_logprobs, run_prefix
from igds.interventions.examples import Example
from igds.interventions.rules import Edit, Pushes
from igds.interventions.samples import SAMPLES, sample_row
from igds.models.edit import Change
from igds.models.likelihood import kl_from_first
from igds.reading.activations import group_by_layer
from igds.saes.sae import FeatureEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Across = Literal["frozen", "live"]
"""Where the activations of features behind the first block of a group come from."""


def group_samples(
    model: PreTrainedModel,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId],
    examples: Sequence[Example],
    *,
    edit: Edit,
    across: Across,
    contrast: bool,
) -> pa.Table:
    """Return one row an example, with the columns of `SAMPLES`, under the group's name.

    `activation` is the largest of the members', in the clean run; `push` is null, as what is added
    in several blocks has no one length.

    Args:
        model: a causal model in eval mode.
        saes: one SAE a block.
        features: the features to edit together.
        examples: where; their responses are teacher-forced.
        edit: what is done to each feature.
        across: `frozen` or `live`.
        contrast: also measure on the contrast response.
    """
    group = [
        edit.pushes(sae, indices, model.device) for sae, indices in group_by_layer(saes, features)
    ]
    name, rows = group_name(map(str, features)), []
    for example in examples:
        prefix = run_prefix(model, example.prompt_ids, [pushes.sae.layer for pushes in group])
        acts = [pushes.acts(prefix.states[pushes.sae.layer][None]) for pushes in group]
        # Where nothing is added at t*, and nowhere else, the delta is 0 and is not run.
        live = edit.position != "read" or any(
            bool(pushes.amounts(act).any()) for pushes, act in zip(group, acts, strict=True)
        )
        own, kl = _effect(model, prefix, group if live else [], across, example.response_ids)
        far = None
        if contrast and example.contrast_ids is not None:
            other, _ = _effect(model, prefix, group if live else [], across, example.contrast_ids)
            far = float(other.mean())
        active = max(float(act.max()) for act in acts)
        rows.append(sample_row(name, example, own, activation=active, push=None, kl=kl, far=far))
    return pa.Table.from_pylist(rows, schema=SAMPLES)


@torch.no_grad()
def _effect(
    model: PreTrainedModel,
    prefix: Prefix,
    group: Sequence[Pushes],
    across: Across,
    response_ids: Sequence[int],
) -> tuple[Float[Tensor, " tokens"], float]:
    """Return deltas by token, and the KL of the next token at t*; 0 without any feature."""
    if not group:
        return torch.zeros(len(response_ids), dtype=torch.float64), 0.0
    changes = {pushes.sae.layer: _change(pushes, across) for pushes in group}
    whole = group[0].edit.position == "all"
    hidden = branch_states(model, prefix, changes, 1, response_ids, whole=whole)
    logprobs = response_logprobs(model, hidden, torch.tensor(response_ids, device=model.device))
    kl = kl_from_first(model, hidden[:, 0])
    return (logprobs[1] - logprobs[0]).cpu().double(), float(kl[0])


def _change(pushes: Pushes, across: Across) -> Change:
    """Return the change of one block: its features' pushes, added up, in row 1.

    Row 0 is the clean run. In the group's first block it is the only row that arrives.
    """
    tokens = slice(0, 1) if pushes.edit.position == "read" else slice(None)

    def change(hidden: Float[Tensor, "rows seq d_model"]) -> Float[Tensor, "2 seq d_model"]:
        rows = hidden.repeat(2 // hidden.shape[0], 1, 1)
        state = rows[0 if across == "frozen" else 1, tokens]
        rows[1, tokens] += pushes.added(state).sum(dim=0).to(rows)
        return rows

    return change
