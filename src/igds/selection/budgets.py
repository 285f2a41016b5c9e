"""From pool scores to a selection: order, ties, budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from igds.config.scoring import Budget
from igds.errors import RequestError
from igds.selection.diversity import Diverse
from igds.selection.quotas import Quotas
from igds.selection.strata import Taken, shares, that_fit, turns

REASONS = (
    "top", "tie", "diversity", "budget", "no_vector", "quota", "per_prompt", "duplicate", "status"
)  # fmt: skip
"""Why a row is in or out: `top` and `tie` may be selected; `tie` has the very score at the cut;
`diversity` was a candidate that others stand for; `no_vector` would have been one; `quota` is over
the share of its source; `per_prompt` has enough better rows of its prompt."""
LEFT_OUT = ("no_vector", "quota", "per_prompt", "duplicate", "status")
"""Reasons of rows that could not be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The result for every row, in pool order."""

    rank: Int[np.ndarray, " rows"]
    """1 is the highest pool score, or with a diverse choice the row chosen first: kept rows then
    come in the order of the choice, all others behind them. 0 for a row without a score."""
    selected: Bool[np.ndarray, " rows"]
    """Whether the row is kept."""
    reason: list[str]
    """One of `REASONS`."""
    cut: float | None
    """Lowest pool score kept."""
    at_cut: Bool[np.ndarray, " rows"]
    """Rows that could be chosen and have the very score of the last row kept, in their stratum;
    none of a diverse choice, which no score cuts off."""


def rows_to_keep(budget: Budget, n_ok: int) -> int | None:
    """Return the number of rows a `ratio` or `rows` budget keeps of `n_ok`; None for `tokens`.

    A ratio is resolved in decimal arithmetic, halves up, so 0.145 of 100 is 15 on every machine;
    at least one row is kept.

    Raises:
        RequestError: the budget asks for more rows than there are.
    """
    if budget.ratio is not None:
        exact = Decimal(budget.ratio) * n_ok
        return max(1, int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP)))
    if budget.rows is not None and budget.rows > n_ok:
        raise RequestError(
            f"select.budget.rows is {budget.rows}, but only {n_ok} rows of the pool have status "
            f"ok: ask for at most {n_ok}"
        )
    return budget.rows


def ranking(
    pool_score: Float[np.ndarray, " rows"], tie_break: UInt64[np.ndarray, " rows"]
) -> Int[np.ndarray, " scored"]:
    """Return positions of the rows that have a score, best first, ties by `tie_break` upwards."""
    scored = np.flatnonzero(~np.isnan(pool_score))
    return scored[np.lexsort((tie_break[scored], -pool_score[scored]))]


def choose(
    pool_score: Float[np.ndarray, " rows"],
    *,
    tie_break: UInt64[np.ndarray, " rows"],
    duplicate: Bool[np.ndarray, " rows"],
    n_tokens: Int[np.ndarray, " rows"],
    n_ok: int,
    budget: Budget,
    prompt: Int[np.ndarray, " rows"] | None = None,
    per_prompt: int = 1,
    quotas: Quotas | None = None,
    strata: Int[np.ndarray, " rows"] | None = None,
    diversity: Diverse | None = None,
) -> Selection:
    """Return which rows a budget keeps.

    Args:
        pool_score: any finite numbers; NaN marks a row without a score.
        tie_break: seeded hashes of the row ids.
        duplicate: rows that may not be chosen because an equal row stands before them.
        n_tokens: prompt and response tokens of each row, for a `tokens` budget.
        n_ok: index rows with status ok; a ratio is taken of them, whatever the method can score.
        budget: how much to keep.
        prompt: number of each row's prompt, the same for equal prompts; None sets no limit.
        per_prompt: most rows of one prompt that may be chosen, the first in rank order.
        quotas: shares of the budget that single sources may take; None sets no limit.
        strata: number of each row's stratum; the budget is shared over them in proportion to the
            rows (for a `tokens` budget: the tokens) that can be chosen. None is one stratum.
        diversity: how rows are chosen among the best of a stratum; None takes the best.

    Raises:
        RequestError: the pool has fewer eligible rows than the budget asks for, or the first row
            alone is over a `tokens` budget.
    """
    order = ranking(pool_score, tie_break)
    unique = order[~duplicate[order]]
    eligible = unique
    if prompt is not None:
        eligible = unique[_earlier_equals(prompt[unique]) < per_prompt]
    distinct = eligible
    wanted = rows_to_keep(budget, n_ok)
    cost = n_tokens if wanted is None else np.ones_like(n_tokens)
    total = int(budget.tokens or 0) if wanted is None else wanted
    if quotas is not None:
        eligible = distinct[quotas.within(distinct, cost, total)]
    _check_enough(1 if wanted is None else wanted, eligible, distinct, unique, order, n_ok)
    reason = np.full(len(pool_score), "status", dtype=object)
    reason[order] = "duplicate"
    reason[unique] = "per_prompt"
    reason[distinct] = "quota"
    reason[eligible] = "budget"
    taken = _taken(_groups(eligible, strata), pool_score, cost, total, diversity)
    selected = np.zeros(len(pool_score), dtype=bool)
    at_cut = np.zeros(len(pool_score), dtype=bool)
    for one in taken:
        selected[one.rows] = at_cut[one.at_cut] = True
        for word, rows in one.reasons.items():
            reason[rows] = word
    _check_filled(budget, wanted, int(selected.sum()))
    first = order[:0] if diversity is None else turns(taken)
    rank = np.zeros(len(pool_score), dtype=np.int64)
    rank[np.concatenate([first, order[~np.isin(order, first)]])] = np.arange(1, len(order) + 1)
    return Selection(
        rank=rank,
        selected=selected,
        reason=reason.tolist(),
        cut=float(pool_score[selected].min()),
        at_cut=at_cut,
    )


def _groups(
    eligible: Int[np.ndarray, " eligible"], strata: Int[np.ndarray, " rows"] | None
) -> list[np.ndarray]:
    """Return the rows of each stratum, best first."""
    if strata is None:
        return [eligible]
    numbers = strata[eligible]
    order = np.argsort(numbers, kind="stable")
    return np.split(eligible[order], np.flatnonzero(np.diff(numbers[order])) + 1)


def _taken(
    groups: Sequence[np.ndarray],
    pool_score: Float[np.ndarray, " rows"],
    cost: Int[np.ndarray, " rows"],
    total: int,
    diversity: Diverse | None,
) -> list[Taken]:
    """Return what is chosen of each stratum, whose part of the budget goes by what its rows cost.

    Raises:
        RequestError: the best row alone is over each stratum's part.
    """
    limits = shares(total, np.array([int(cost[group].sum()) for group in groups])).tolist()
    best = [int(cost[group[0]]) for group in groups]
    if all(one > limit for one, limit in zip(best, limits, strict=True)):
        strata = len(groups)
        part = f", at most {max(limits)} for one of {strata} strata" if strata > 1 else ""
        raise RequestError(
            f"select.budget.tokens is {total}{part}, but the best row alone has {min(best)} "
            "tokens: raise the budget"
        )
    return [
        diversity.take(group, cost, limit)
        if diversity
        else _best(group, pool_score, that_fit(cost[group], limit))
        for group, limit in zip(groups, limits, strict=True)
    ]


def _best(
    group: Int[np.ndarray, " group"], pool_score: Float[np.ndarray, " rows"], count: int
) -> Taken:
    """Return the first rows of a stratum, and what has the score of the last of them."""
    chosen = group[:count]
    tied = group[pool_score[group] == pool_score[chosen[-1]]] if count else chosen
    parted = count and tied[-1] != chosen[-1]
    reasons = {"top": chosen, "tie": tied if parted else tied[:0]}
    return Taken(rows=chosen, reasons=reasons, at_cut=tied)


def _check_enough(
    wanted: int,
    eligible: np.ndarray,
    distinct: np.ndarray,
    unique: np.ndarray,
    order: np.ndarray,
    n_ok: int,
) -> None:
    """Raise RequestError when fewer rows can be chosen than are wanted."""
    if wanted <= len(eligible):
        return
    raise RequestError(
        f"the budget asks for {wanted} rows, but only {len(eligible)} can be chosen: "
        f"{n_ok} rows have status ok, {len(order)} have a pool score, "
        f"{len(order) - len(unique)} of those are duplicates, {len(unique) - len(distinct)} "
        "more have enough rows of their prompt before them, "
        f"{len(distinct) - len(eligible)} more are over the quota of their source; "
        "lower select.budget"
    )


def _check_filled(budget: Budget, wanted: int | None, kept: int) -> None:
    """Raise RequestError when less was chosen than is wanted, as a diverse choice may do."""
    if kept >= (wanted or 1):
        return
    if wanted is None:
        raise RequestError(
            f"select.budget.tokens is {budget.tokens}, less than the row has that would be chosen "
            "first: raise the budget"
        )
    raise RequestError(
        f"the budget asks for {wanted} rows, but only {kept} of the best rows have a vector: raise "
        "select.diversity.candidates, or lower select.budget"
    )


def _earlier_equals(values: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Return how many values before each equal it."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=values[order][:1] - 1))
    places = np.arange(len(values))
    counts = np.empty(len(values), dtype=np.int64)
    counts[order] = places - np.repeat(starts, np.diff(starts, append=len(values)))
    return counts
