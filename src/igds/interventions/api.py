"""Interventions for people with their own loop: effects of features on given rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from igds.data.tokens import check_texts, encode_prompts, encode_responses
from igds.features import FeatureId
from igds.interventions.effects import effects_of
from igds.interventions.examples import make_examples
from igds.interventions.funnel import mean_screen
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
    features: Sequence[FeatureId],
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    coefficient: float = 1.0,
    batch_tokens: int = 4096,
    seed: int = 0,
) -> pa.Table:
    """Return the effect of amplifying each feature at the read position (eq. 3-5), best first.

    One row a feature with the columns of `intervene/effects.parquet`: the mean change of the
    responses' log-probability, nats per token, with its interval over prompts, the contrast to
    other rows' responses, the label and the gradient screen's estimate. `split` is `all`: choosing
    features by this table and quoting its deltas for them is selection on the same rows.

    Args:
        model: a transformers causal model in eval mode.
        tokenizer: the model's own.
        saes: one SAE a block.
        features: the features to amplify, one at a time.
        prompts: rendered prompts, each ending in the cue.
        responses: gold responses, each starting with one space.
        coefficient: multiple of the feature's own contribution that is added.
        batch_tokens: tokens a branch batch.
        seed: of the bootstrap draws.

    Raises:
        ValueError: a list is none or empty, prompts and responses differ in number, a response
            would run into its prompt's last word, a feature has no SAE, a row no token, or the
            model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode, where dropout moves deltas: model.eval()")
    check_head(model)
    check_saes(saes)
    _check_rows(prompts, responses)
    names = [str(place) for place in range(len(prompts))]
    examples = make_examples(
        names, encode_prompts(tokenizer, prompts), encode_responses(tokenizer, responses)
    )
    screen = mean_screen(gradient_screen(model, saes, features, examples, coefficient=coefficient))
    samples = exact_samples(
        model,
        saes,
        features,
        examples,
        coefficient=coefficient,
        batch_tokens=batch_tokens,
        contrast=True,
    )
    effects = effects_of(
        samples,
        dict(zip(names, prompts, strict=True)),
        split="all",
        coefficient=coefficient,
        screen=screen,
        seed=seed,
    )
    return effects.sort_by([("delta", "descending")])


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
