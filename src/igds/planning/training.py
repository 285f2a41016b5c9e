"""Costs of training and evaluation, of a run or of cells of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from igds.config.schema import Config
from igds.config.scoring import Budget
from igds.config.training import Evaluate, Finetune
from igds.models.sizes import Sizes
from igds.planning.sets import Cost, SetTokens

_BACKWARD, _BACKWARD_LORA = 2, 1
"""Products behind each of the forward pass: gradients of states and of weights, or of states."""
_KEPT, _KEPT_LORA = 16, 4
"""Bytes a weight: itself, its gradient and AdamW's two moments in float32, or itself alone."""


@dataclass(frozen=True, slots=True)
class Trainings:
    """How often a model is trained, and measured."""

    budgets: tuple[Budget | None, ...]
    """Budget of each training; None is the whole pool."""
    evaluated: int
    """Models that are measured."""
    words: str = ""
    """What stands behind the names of the steps."""


def of_run(config: Config) -> Trainings:
    """Return those of a run."""
    trained = (config.select.budget,) if config.select and config.finetune else ()
    settings = config.evaluate
    tuned = config.finetune is not None or bool(settings and settings.model)
    original = bool(settings and settings.original)
    return Trainings(budgets=trained, evaluated=tuned + original)


def training_costs(
    config: Config, sizes: Sizes, sets: Mapping[str, SetTokens], trainings: Trainings
) -> list[Cost]:
    """Return the costs of `finetune` and `evaluate`.

    The model to be trained is taken to have the identification model's sizes, chosen rows to be of
    mean length, and outputs to be as long as they may be. Benchmarks are left out.
    """
    found, pool, test = [], sets.get("pool"), sets.get("test")
    settings = config.finetune
    parameters = sizes.body + sizes.vocab * sizes.d_model
    if settings and settings.engine == "trl" and trainings.budgets and pool and pool.rows:
        parts = [_trained(settings, sizes, _chosen(pool, one)) for one in trainings.budgets]
        found.append(
            Cost(
                step=f"finetune{trainings.words}",
                tokens=sum(tokens for tokens, _ in parts),
                multiply_adds=sum(products for _, products in parts),
                memory=parameters * (_KEPT_LORA if settings.lora else _KEPT),
            )
        )
    if config.evaluate and test and test.rows:
        tokens, products = _evaluated(config.evaluate, sizes, test)
        found.append(
            Cost(
                step=f"evaluate{trainings.words}",
                tokens=trainings.evaluated * tokens,
                multiply_adds=trainings.evaluated * products,
                memory=parameters * sizes.bytes_a_weight,
            )
        )
    return found


def _chosen(pool: SetTokens, budget: Budget | None) -> SetTokens:
    """Return what a budget keeps of the pool; all of it without one."""
    if budget is None:
        share = 1.0
    elif budget.tokens is not None:
        share = budget.tokens / (pool.prompt + pool.response)
    elif budget.rows is not None:
        share = budget.rows / pool.rows
    else:
        share = float(budget.ratio or 1)
    share = min(1.0, share)
    return SetTokens(
        rows=max(1, round(share * pool.rows)),
        prompt=round(share * pool.prompt),
        response=round(share * pool.response),
    )


def _trained(settings: Finetune, sizes: Sizes, rows: SetTokens) -> tuple[int, float]:
    """Return the tokens and the multiply-adds of one training."""
    whole = rows.prompt + rows.response
    if settings.tokens is not None:
        passes = settings.tokens / whole
    elif settings.steps is not None:
        passes = settings.steps * settings.batch / rows.rows
    else:
        passes = settings.epochs
    forwards = 1 + settings.gradient_checkpointing
    products = forwards + (_BACKWARD_LORA if settings.lora else _BACKWARD)
    one = whole * sizes.body + rows.response * sizes.head_parameters
    return round(passes * whole), passes * products * one


def _evaluated(settings: Evaluate, sizes: Sizes, rows: SetTokens) -> tuple[int, float]:
    """Return the tokens and the multiply-adds of measuring one model."""
    tokens, products = 0, 0.0
    if settings.likelihood:
        tokens += rows.prompt + rows.response
        products += (rows.prompt + rows.response) * sizes.body
        products += rows.response * sizes.head_parameters
    if settings.generate:
        decoded = rows.rows * settings.samples * settings.max_new_tokens
        tokens += rows.prompt + decoded
        products += rows.prompt * sizes.body + decoded * sizes.forward
    if settings.activations:
        tokens += rows.prompt
        products += rows.prompt * sizes.body
    return tokens, products
