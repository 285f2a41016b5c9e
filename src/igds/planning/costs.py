"""Costs of the stages from counts alone: tokens of each set, the model's sizes, the settings."""

from __future__ import annotations

from collections.abc import Mapping

from igds.config.schema import Config, Intervene
from igds.config.scoring import RATIOS, READ_PROMPTS, READ_RESPONSES, Score
from igds.data.splits import SPLITS
from igds.interventions.budget import CONTRASTED
from igds.interventions.costs import Lengths, funnel_bounds
from igds.interventions.pilot import ROWS
from igds.methods.matched import SAMPLE
from igds.methods.registry import split_draw
from igds.models.sizes import Sizes
from igds.planning.sets import Cost, SetTokens


def stage_costs(
    config: Config, sizes: Sizes, sets: Mapping[str, SetTokens], sae_widths: Mapping[int, int]
) -> list[Cost]:
    """Return the costs of the stages that the configuration has, in run order.

    Where a cost depends on what is found, features are taken to sit at the first SAE block and to
    be active everywhere, and the pool to be read up to the last; controls are those of `top_k`
    features. Validation rows, and the pool's that igds-matched samples, are taken to be of mean
    length.

    Args:
        config: the run.
        sizes: of the identification model.
        sets: set -> its rows and tokens; `control_other` and `task_other` are renderings of the
            control and the task rows in other templates.
        sae_widths: block -> features of its SAE.
    """
    depth = max(sae_widths) + 1
    cut = depth * sizes.block_parameters
    weights = (cut + sizes.vocab * sizes.d_model) * sizes.bytes_a_weight
    costs = []
    if config.recall:
        names = ("prior", "validation", "control", "control_other", "task_other")
        read = [sets[name] for name in names if name in sets]
        tokens = sum(one.prompt for one in read)
        residuals = sum(one.rows for one in read) * sizes.d_model * 4 * len(sae_widths)
        saes = max(sae_widths.values()) * sizes.d_model * 4 * 2
        memory = max(weights, residuals + saes)
        costs.append(
            Cost(step="recall", tokens=tokens, multiply_adds=float(tokens * cut), memory=memory)
        )
    if config.intervene and "validation" in sets and sets["validation"].rows:
        costs += _intervene_costs(config, config.intervene, sizes, sets["validation"], sae_widths)
    if config.score and "pool" in sets:
        methods, pool = config.score.methods, sets["pool"]
        if set(methods) & set(READ_PROMPTS):
            tokens = pool.prompt
            if any(split_draw(name)[0] == "igds-matched" for name in methods):
                tokens += round(pool.prompt * min(1.0, SAMPLE / max(1, pool.rows)))
            costs.append(
                Cost(step="score", tokens=tokens, multiply_adds=float(tokens * cut), memory=weights)
            )
        queries = sets["prior"].prompt if "rds" in methods and "prior" in sets else 0
        costs += _response_costs(config.score, sizes, pool, queries)
    return costs


def _response_costs(settings: Score, sizes: Sizes, pool: SetTokens, queries: int) -> list[Cost]:
    """Return the cost of the one pass over prompt and response, none when no method makes it.

    Taken to be by the identification model, in whose sizes everything is counted.

    Args:
        settings: names the methods.
        sizes: of that model.
        pool: what they score.
        queries: tokens of the prior prompts that rds reads beside it.
    """
    if not set(settings.methods) & set(READ_RESPONSES):
        return []
    sides = 2 if set(settings.methods) & set(RATIOS) else 1  # with the prompt, and without
    tokens = pool.prompt + sides * pool.response + queries
    blocks = sizes.body
    return [
        Cost(
            step="score: responses",
            tokens=tokens,
            multiply_adds=float(tokens * blocks + sides * pool.response * sizes.head_parameters),
            memory=(blocks + sizes.vocab * sizes.d_model) * sizes.bytes_a_weight,
        )
    ]


def _intervene_costs(
    config: Config,
    settings: Intervene,
    sizes: Sizes,
    validation: SetTokens,
    sae_widths: Mapping[int, int],
) -> list[Cost]:
    """Return the costs of the funnel's steps, or of generated outputs."""
    prompt = round(validation.prompt / validation.rows)
    response = round(validation.response / validation.rows)
    memory = (sizes.body + sizes.vocab * sizes.d_model) * sizes.bytes_a_weight
    generated = [
        Cost(
            step=f"intervene: generated outputs, {step}",
            tokens=tokens,
            multiply_adds=float(tokens * sizes.forward),
            memory=memory,
        )
        for step, tokens in _generated_tokens(settings, validation.rows).items()
    ]
    if settings.mode == "paper":
        return generated
    rows = {
        split: [Lengths(prompt=prompt, responses=(response,) * (1 + (split in CONTRASTED)))]
        * getattr(settings, size)
        for split, size in SPLITS.items()
    }
    bounds = funnel_bounds(
        settings,
        sizes,
        rows,
        sae_widths,
        settings.screen_keep + settings.screen_check,
        config.runtime.batch_tokens,
    )
    return generated + [
        Cost(step=f"intervene: {step}", tokens=None, multiply_adds=float(cost), memory=memory)
        for step, cost in bounds.items()
        if cost
    ]


def _generated_tokens(settings: Intervene, rows: int) -> dict[str, int]:
    """Return step -> tokens that are decoded at most; nothing where no output is generated.

    Beside the edited outputs of a row stand the unedited ones of their batch, taken to be one.
    """
    if not settings.generates:
        return {}
    each = settings.samples * settings.max_new_tokens
    if settings.mode == "paper":
        return {"a recalled feature": rows * 2 * each}
    # two arms of samples, and the greedy output where the run itself is greedy
    pilot = 2 * each + (each if settings.temperature == 0 else 0)
    found = {"pilot": min(ROWS, settings.screen_rows) * pilot}
    for split, features in (("S2", settings.exact_keep), ("S3", settings.confirm_n)):
        found[split] = getattr(settings, SPLITS[split]) * (features + 1) * each
    return found


def forward_equivalents(cost: Cost, sizes: Sizes) -> float:
    """Return the cost in tokens that run once through the whole model."""
    return cost.multiply_adds / sizes.forward
