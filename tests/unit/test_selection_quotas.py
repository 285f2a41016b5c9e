"""Quotas of a pool's sources, beside the rules that every selection follows."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from test_selection import pick

from igds.config.scoring import Budget, Select
from igds.errors import RequestError
from igds.selection.quotas import Quotas, source_numbers
from igds.selection.showcase import showcase
from igds.selection.tables import selection_summary, selection_table


def quotas(rows_by_source, *shares):
    decimals = [None if share is None else Decimal(share) for share in shares]
    return Quotas(source=source_numbers(rows_by_source), shares=decimals)


def test_a_quota_keeps_the_best_rows_of_its_source_and_hands_the_rest_on():
    # The first source has the four best rows and may fill half of the four places.
    result = pick([9, 8, 7, 6, 5, 4, 3, 2.0], Budget(rows=4), quotas=quotas([4, 4], "0.5", None))
    assert result.selected.tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    assert result.reason == ["top", "top", "quota", "quota", "top", "top", "budget", "budget"]
    assert result.rank.tolist() == list(range(1, 9))
    assert result.cut == 4.0


def test_a_share_is_rounded_up_so_that_halves_fill_an_odd_number():
    result = pick([6, 5, 4, 3, 2, 1.0], Budget(rows=3), quotas=quotas([3, 3], "0.5", "0.5"))
    assert result.selected.tolist() == [1, 1, 0, 1, 0, 0]


def test_a_token_budget_has_quotas_of_tokens():
    result = pick(
        [6, 5, 4, 3, 2, 1.0],
        Budget(tokens=100),
        tokens=[30, 30, 5, 40, 20, 50],
        quotas=quotas([3, 3], "0.5", None),
    )
    # 30 + 30 is over half of 100, and nothing behind it in that source is reached for.
    assert result.reason == ["top", "quota", "quota", "top", "top", "budget"]


def test_duplicates_take_nothing_of_a_quota():
    result = pick(
        [6, 5, 4, 3.0],
        Budget(rows=2),
        duplicate=[True, False, False, False],
        quotas=quotas([3, 1], "0.5", None),
    )
    assert result.reason == ["duplicate", "top", "quota", "top"]


def test_rows_beyond_their_prompt_take_nothing_of_a_quota():
    result = pick(
        [6, 5, 4, 3.0],
        Budget(rows=2),
        prompt=[0, 0, 1, 2],
        per_prompt=1,
        quotas=quotas([3, 1], "0.5", None),
    )
    assert result.reason == ["top", "per_prompt", "quota", "top"]


def test_quotas_that_leave_too_few_are_refused_with_the_counts():
    with pytest.raises(
        RequestError, match=r"asks for 4 rows, but only 3 can be chosen.*2 more are over the quota"
    ):
        pick([5, 4, 3, 2, 1.0], Budget(rows=4), quotas=quotas([3, 2], "0.25", None))


@pytest.mark.parametrize("seed", range(5))
def test_quotas_choose_as_a_plain_loop_does(seed):
    random = np.random.default_rng(seed)
    scores, tokens = random.normal(size=200), random.integers(1, 50, 200)
    sizes, shares = [90, 60, 50], [Decimal("0.3"), None, Decimal("0.15")]
    for budget, cost, total in (
        (Budget(rows=60), np.ones(200, int), 60),
        (Budget(tokens=1500), tokens, 1500),
    ):
        kept, spent, used, stopped = [], [0, 0, 0], 0, [False] * 3
        for row in np.argsort(-scores):
            source = int(np.searchsorted(np.cumsum(sizes), row, side="right"))
            share = shares[source]
            over = share is not None and spent[source] + cost[row] > -(-share * total // 1)
            stopped[source] = stopped[source] or over
            if stopped[source]:
                continue
            if used + cost[row] > total:
                break
            kept.append(row)
            spent[source] += cost[row]
            used += cost[row]
        result = pick(
            scores,
            budget,
            tokens=tokens,
            quotas=Quotas(source=source_numbers(sizes), shares=shares),
        )
        assert np.flatnonzero(result.selected).tolist() == sorted(kept)


def test_quotas_show_in_summary_and_showcase():
    scores = np.array([9, 8, 7, 6, 5, 4, 3, 2.0])
    result = pick(scores, Budget(rows=4), quotas=quotas([4, 4], "0.5", None))
    counts = pa.array([1] * 8, pa.int32())
    rows = pa.table({"status": ["ok"] * 8, "n_prompt_tokens": counts, "n_train_tokens": counts})
    summary = selection_summary(rows, scores, result, Select(budget=Budget(rows=4)))
    assert summary["reasons"] == {"top": 4, "quota": 2, "budget": 2}
    table = selection_table(pa.chunked_array([[f"r{n}" for n in range(8)]]), scores, result)
    assert showcase(table, 1).to_pydict() == {
        "row_id": ["r0", "r5", "r7"],
        "group": ["best", "borderline", "worst"],
    }
