"""Interventions for people with their own loop: effects of features on given rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from igds.data.tokens import check_texts, encode_prompts, encode_responses
from igds.features import FeatureId, feature_ids
from igds.interventions.effects import effects_of
from igds.interventions.exact import check_branches
from igds.interventions.examples import make_examples
from igds.interventions.funnel import mean_screen
from igds.interventions.rules import Edit, Position, Rule, Screen
from igds.interventions.samples import exact_samples
from igds.interventions.screen import gradient_screen
from igds.models.likelihood import check_head
from igds.saes.sae import FeatureEncoder, check_saes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def intervene(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    saes: Sequence[FeatureEncoder],
    features: Sequence[FeatureId | str],
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    rule: Rule = "amplify",
    coefficient: float = 1.0,
    position: Position = "read",
    maxima: Mapping[FeatureId, float] | Mapping[str, float] | None = None,
    screen: Screen = "attribution",
    batch_tokens: int = 4096,
    seed: int = 0,
) -> pa.Table:
    """Return the effect of editing each feature (eq. 3-5), best first; of ablation, worst first.

    One row a feature with the columns of `intervene/effects.parquet`: the mean change of the
    responses' log-probability, nats per token, with its interval over prompts, the contrast to
    other rows' responses, the label, the gradient screen's estimate, and the size of the push with
    the divergence it causes. `split` is `all`: choosing features by this table and quoting its
    deltas for them is selection on the same rows.

    Args:
        model: a transformers causal model in eval mode.
        tokenizer: the model's own.
        saes: one SAE a block.
        features: the features to edit, one at a time, or their names as `L14/11575`.
        prompts: rendered prompts, each ending in the cue.
        responses: gold responses, each starting with one space.
        rule: amplify adds a feature's own contribution `coefficient` times, clamp sets its
            activation to `maxima`, ablate to 0.
        coefficient: as said; 1 for other rules.
        position: read edits at t* only, generated at the response's tokens too, all at every token.
        maxima: feature or its name -> activation that clamp sets, as `max_activation` of
            `igds.recall`.
        screen: attribution or integrated, see `igds.interventions.screen`.
        batch_tokens: tokens a branch batch.
        seed: of the bootstrap draws.

    Raises:
        ValueError: a list is none or empty, a name is that of no feature, prompts and responses
            differ in number, a response would run into its prompt's last word, a feature has no
            SAE, a row no token, a clamped feature no maximum, a rule but amplify a coefficient, or
            the model is in training mode.
        RequestError: its head or its blocks are of a kind that cannot be edited.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout moves deltas: model.eval()")
    check_head(model)
    check_branches(model)
    check_saes(saes)
    chosen = feature_ids(features)
    _check_rows(prompts, responses)
    names = [str(place) for place in range(len(prompts))]
    examples = make_examples(
        names, encode_prompts(tokenizer, prompts), encode_responses(tokenizer, responses)
    )
    edit = Edit(
        rule=rule,
        coefficient=coefficient,
        position=position,
        maxima={str(feature): float(value) for feature, value in (maxima or {}).items()},
    )
    measured = (model, saes, chosen, examples)
    estimates = gradient_screen(*measured, edit=edit, screen=screen, batch_tokens=batch_tokens)
    samples = exact_samples(*measured, edit=edit, batch_tokens=batch_tokens, contrast=True)
    effects = effects_of(
        samples,
        dict(zip(names, prompts, strict=True)),
        split="all",
        rule=rule,
        position=position,
        coefficient=coefficient,
        screen=mean_screen(estimates),
        seed=seed,
    )
    return effects.sort_by([("delta", "ascending" if rule == "ablate" else "descending")])


def _check_rows(prompts: Sequence[str], responses: Sequence[str]) -> None:
    """Refuse rows that do not pair up, and responses without the space before them."""
    check_texts("prompts", prompts)
    check_texts("responses", responses)
    if len(prompts) != len(responses):
        raise ValueError(f"there are {len(prompts)} prompts but {len(responses)} responses")
    for place, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        if not prompt[-1:].isspace() and not response[:1].isspace():
            raise ValueError(
                f"responses[{place}] begins {response[:20]!r} right behind {prompt[-20:]!r}: start "
                "each response with a space"
            )
