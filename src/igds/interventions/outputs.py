"""Generated outputs of features on examples: unedited, and edited at each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from igds.features import FeatureId
from igds.interventions.exact import Prefix, push_effects, run_prefix
from igds.interventions.examples import Example
from igds.interventions.generated import generate_always, generate_read
from igds.interventions.rules import Edit
from igds.models.decode import Choose, greedy, keyed_sampling, stop_ids
from igds.reading.activations import Group, group_by_layer
from igds.saes.sae import FeatureEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Texts = list[list[int]]
"""Token ids of each sample."""

CACHED = 4
"""Times `batch_tokens` that a decode batch holds: a step runs one token a row, so that keys and
values are all that it needs memory for."""

OUTPUTS = pa.schema(
    {
        "row_id": pa.string(),
        "position": pa.string(),
        "feature": pa.string(),
        "activation": pa.float64(),
        "push": pa.float64(),
        "kl": pa.float64(),
        "sample": pa.int32(),
        "text": pa.string(),
        "original": pa.string(),
        "tokens": pa.int32(),
        "original_tokens": pa.int32(),
        "ended": pa.bool_(),
        "original_ended": pa.bool_(),
    }
)
"""What workers return: one row an output, beside it that of the unedited row in its own batch;
`activation` is the feature's at t*, `push` and `kl` are what the edit does there (see `SAMPLES`),
`tokens` without the stop token, `ended` whether there was one."""

UNEDITED = pa.schema(
    {
        "row_id": pa.string(),
        "sample": pa.int32(),
        "text": pa.string(),
        "tokens": pa.int32(),
        "ended": pa.bool_(),
    }
)
"""The same of outputs of the model as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """How outputs are generated; plain JSON values."""

    positions: Sequence[str]
    """Where the state is edited: `read`, `generated`."""
    max_new_tokens: int
    samples: int
    temperature: float
    """0 is greedy."""
    seed: int
    batch_tokens: int
    """Tokens of a forward batch; a decode batch holds `CACHED` times as many."""

    def chunks(self, prompt: int, candidates: int) -> list[slice]:
        """Return slices of near equal size that fit a decode batch beside the unedited row."""
        row = (prompt + self.max_new_tokens) * self.samples
        most = max(1, CACHED * self.batch_tokens // row - 1)
        count = max(1, -(-candidates // most))
        ends = [candidates * place // count for place in range(count + 1)]
        return [slice(*pair) for pair in zip(ends, ends[1:], strict=False)]

    def choice(self, row_id: str, rows: int) -> Choose:
        """Return how tokens are picked for a batch of that many rows of samples."""
        if self.temperature == 0:
            return greedy
        owner = list(range(self.samples)) * rows
        return keyed_sampling(self.seed, row_id, owner, self.temperature)


def generated_outputs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId],
    examples: Sequence[Example],
    edit: Edit,
    settings: Generation,
) -> pa.Table:
    """Return one row an example, position, feature and sample, with the columns of `OUTPUTS`.

    Beside each output stands that of the unedited row in the same batch: what batches of another
    size would round otherwise is in both. What adds nothing at t* cannot change anything at
    position `read`: its output is the unedited one, without a run of its own. The positions are
    those of the settings, not the edit's.
    """
    stops, grouped = stop_ids(model.generation_config, tokenizer), group_by_layer(saes, features)
    arms = {"read": read_outputs, "generated": always_outputs}
    rows: list[dict[str, Any]] = []
    for example in examples:
        prefix = run_prefix(model, example.prompt_ids, [sae.layer for sae, _ in grouped])
        at_read = _at_read(model, prefix, grouped, edit, settings.batch_tokens)
        for position in settings.positions:
            found = arms[position](model, prefix, grouped, example.row_id, edit, settings, stops)
            for feature, (edited, plain) in found.items():
                facts = {"row_id": example.row_id, "position": position, "feature": str(feature)}
                facts |= at_read[feature]
                own, other = (_told(tokenizer, side, settings) for side in (edited, plain))
                originals = [
                    {"original": one["text"], "original_tokens": one["tokens"]}
                    | {"original_ended": one["ended"]}
                    for one in other
                ]
                rows += [facts | a | b for a, b in zip(own, originals, strict=True)]
    return pa.Table.from_pylist(rows, schema=OUTPUTS)


def unedited_outputs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    settings: Generation,
) -> pa.Table:
    """Return one row an example and sample of the model as it is, with columns of `UNEDITED`."""
    stops = stop_ids(model.generation_config, tokenizer)
    rows: list[dict[str, Any]] = []
    for example in examples:
        prefix = run_prefix(model, example.prompt_ids, [0])
        nothing = _stacked([], prefix.states[0])
        (found,) = generate_read(
            model, prefix, {0: nothing}, choose=settings.choice(example.row_id, 1),
            samples=settings.samples, max_new_tokens=settings.max_new_tokens, stop_ids=stops,
        )  # fmt: skip
        rows += [{"row_id": example.row_id} | one for one in _told(tokenizer, found, settings)]
    return pa.Table.from_pylist(rows, schema=UNEDITED)


def read_outputs(
    model: PreTrainedModel,
    prefix: Prefix,
    grouped: Sequence[Group],
    row_id: str,
    edit: Edit,
    settings: Generation,
    stops: Sequence[int],
) -> dict[FeatureId, tuple[Texts, Texts]]:
    """Return each feature's outputs edited at t* alone, and the unedited ones of its batch."""
    live, silent = [], []
    for sae, indices in grouped:
        pushes = edit.pushes(sae, indices, model.device)
        vectors = pushes.added(prefix.states[sae.layer][None])[:, 0]
        for index, vector in zip(indices, vectors, strict=True):
            feature = FeatureId(sae.layer, index)
            (live if vector.any() else silent).append((feature, vector))
    found: dict[FeatureId, tuple[Texts, Texts]] = {}
    plain: Texts = []
    for part in settings.chunks(prefix.length, len(live)):
        chunk = live[part]
        layers = sorted({feature.layer for feature, _ in chunk}) or [grouped[0][0].layer]
        ordered = sorted(chunk, key=lambda pair: pair[0].layer)
        edits = {
            layer: _stacked([v for f, v in ordered if f.layer == layer], prefix.states[layer])
            for layer in layers
        }
        plain, *edited = generate_read(
            model, prefix, edits, choose=settings.choice(row_id, 1 + len(chunk)),
            samples=settings.samples, max_new_tokens=settings.max_new_tokens, stop_ids=stops,
        )  # fmt: skip
        for (feature, _), texts in zip(ordered, edited, strict=True):
            found[feature] = (texts, plain)
    return found | {feature: (plain, plain) for feature, _ in silent}


def always_outputs(
    model: PreTrainedModel,
    prefix: Prefix,
    grouped: Sequence[Group],
    row_id: str,
    edit: Edit,
    settings: Generation,
    stops: Sequence[int],
) -> dict[FeatureId, tuple[Texts, Texts]]:
    """Return each feature's outputs edited at t* and later, and the unedited ones of its batch."""
    found: dict[FeatureId, tuple[Texts, Texts]] = {}
    for sae, indices in grouped:
        for part in settings.chunks(prefix.length, len(indices)):
            chunk = indices[part]
            plain, *edited = generate_always(
                model, prefix, sae, chunk, edit,
                choose=settings.choice(row_id, 1 + len(chunk)), samples=settings.samples,
                max_new_tokens=settings.max_new_tokens, stop_ids=stops,
            )  # fmt: skip
            for index, texts in zip(chunk, edited, strict=True):
                found[FeatureId(sae.layer, index)] = (texts, plain)
    return found


def _at_read(
    model: PreTrainedModel,
    prefix: Prefix,
    grouped: Sequence[Group],
    edit: Edit,
    batch_tokens: int,
) -> dict[FeatureId, dict[str, float]]:
    """Return each feature's activation at t*, and the push and the KL of its edit there.

    Later tokens come after it, so at both positions the next token's distribution is the same.
    """
    found: dict[FeatureId, dict[str, float]] = {}
    for sae, indices in grouped:
        pushes = replace(edit, position="read").pushes(sae, indices, model.device)
        state = prefix.states[sae.layer]
        acts = pushes.acts(state[None])
        vectors = pushes.vectors(acts)[:, 0]
        # A response is asked for, and any will do: its tokens come after t*.
        kl = push_effects(
            model, prefix, pushes, vectors, [prefix.token], batch_tokens=batch_tokens
        ).kl
        sizes = vectors.norm(dim=1) / state.norm().to(vectors)
        columns = zip(acts[0].tolist(), sizes.tolist(), kl.tolist(), strict=True)
        for index, (act, size, moved) in zip(indices, columns, strict=True):
            facts = {"activation": act, "push": size, "kl": moved}
            found[FeatureId(sae.layer, index)] = facts
    return found


def _told(
    tokenizer: PreTrainedTokenizerBase, texts: Texts, settings: Generation
) -> list[dict[str, Any]]:
    """Return what is said of each sample: its number, text, length and end."""
    return [
        {
            "sample": sample,
            "text": tokenizer.decode(ids, skip_special_tokens=True),
            "tokens": len(ids),
            "ended": len(ids) < settings.max_new_tokens,
        }
        for sample, ids in enumerate(texts)
    ]


def _stacked(
    vectors: Sequence[Float[Tensor, " d_model"]], like: Float[Tensor, " d_model"]
) -> Float[Tensor, "edits d_model"]:
    """Return the vectors as rows, none where there are none."""
    return torch.stack(list(vectors)) if vectors else like.new_empty(0, len(like))
