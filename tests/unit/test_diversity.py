from __future__ import annotations

from decimal import Decimal
from itertools import islice
from math import sqrt

import numpy as np
import pytest

from igds.config.scoring import Budget
from igds.errors import RequestError
from igds.selection import diversity
from igds.selection.budgets import choose
from igds.selection.diversity import Diverse, facility_location


def unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def drawn(seed, rows=None, d=None):
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(rows or rng.integers(1, 40), d or rng.integers(2, 12))) + 0.3)


def greedy(cosines):
    """The rule in plain numbers: every sum anew for every choice; the first of equal ones."""
    n, covered, order = len(cosines), [0] * len(cosines), []
    for _ in range(n):
        gains = [
            -1 if j in order else sum(max(cosines[i][j] - covered[i], 0) for i in range(n))
            for j in range(n)
        ]
        order.append(gains.index(max(gains)))
        covered = [max(covered[i], cosines[i][order[-1]]) for i in range(n)]
    return order


def whole_cosines(vectors):
    """Cosines as documented: of vectors in whole numbers, none above a row's with itself."""
    whole = np.rint(vectors * np.float32(4095 - sqrt(vectors.shape[1]) / 2)).astype(np.int64)
    products = whole @ whole.T
    return np.minimum(products, np.diag(products).min()).tolist()


@pytest.mark.parametrize("seed", range(30))
def test_the_order_is_that_of_the_plain_greedy_rule(seed):
    vectors = drawn(seed)
    assert list(facility_location(vectors)) == greedy(whole_cosines(vectors))


@pytest.mark.parametrize("seed", range(30))
def test_by_exact_cosines_each_choice_is_the_best_within_rounding(seed):
    vectors = drawn(seed).astype(np.float64)
    cosines = np.maximum(vectors @ vectors.T, 0)
    covered = np.zeros(len(vectors))
    for place in facility_location(vectors.astype(np.float32)):
        gains = np.maximum(cosines - covered[:, None], 0).sum(axis=0)
        # A cosine is off by 4e-4 at most here, and a sum's errors are not all of one sign.
        assert gains[place] >= gains.max() - 4e-4 * sqrt(len(vectors)) * 2
        covered = np.maximum(covered, cosines[:, place])


@pytest.mark.parametrize("block", [1, 3, 7])
def test_blocks_change_nothing(block, monkeypatch):
    wanted = [list(facility_location(drawn(seed, 150, 8))) for seed in range(3)]
    monkeypatch.setattr(diversity, "BLOCK", block)
    assert [list(facility_location(drawn(seed, 150, 8))) for seed in range(3)] == wanted


def test_most_sums_are_not_computed_again(monkeypatch):
    computed = []
    gains = diversity._Rows.gains

    def counted(self, places, covered):
        computed.extend(places)
        return gains(self, places, covered)

    monkeypatch.setattr(diversity._Rows, "gains", counted)
    list(islice(facility_location(drawn(0, 1500, 24)), 300))
    assert len(computed) < 0.2 * 1500 * 300


@pytest.mark.parametrize("d", [1, 33, 576, 4096])
def test_products_of_rounded_vectors_are_exact_in_float32(d):
    found = diversity._Rows.of(unit(np.random.default_rng(d).normal(size=(50, d))))
    exact = found.whole.astype(np.int64) @ found.whole.astype(np.int64).T
    assert exact.max() < 2**24
    assert (found.whole @ found.whole.T == exact).all()
    assert (found.cosines(list(range(50))) == np.minimum(exact, exact.diagonal().min())).all()


def test_of_planted_clusters_one_row_each_comes_first():
    rng = np.random.default_rng(1)
    member = rng.permutation(np.repeat(np.arange(7), [60, 45, 33, 24, 18, 12, 8]))
    vectors = unit(np.eye(7, 20)[member] + 0.02 * rng.normal(size=(200, 20)))
    order = list(facility_location(vectors))
    assert member[order[:7]].tolist() == list(range(7))  # the largest is worth most


def test_rows_with_one_vector_come_in_their_order_and_add_nothing():
    assert list(facility_location(unit([[1, 2]] * 5))) == [0, 1, 2, 3, 4]
    one, two = [3, 4, 1], [-1, 0, 5]
    # Two of the one, three of the other: the larger group, the other, then the rest in order.
    assert list(facility_location(unit([one, two, one, two, two]))) == [1, 0, 2, 3, 4]
    assert list(facility_location(np.empty((0, 3), dtype=np.float32))) == []


def pick(scores, budget, vectors, *, candidates="2", tie=None, **options):
    scores = np.asarray(scores, dtype=np.float64)
    n = len(scores)
    given = {
        "tie_break": np.arange(n, dtype=np.uint64) if tie is None else tie,
        "duplicate": np.zeros(n, dtype=bool),
        "n_tokens": np.full(n, 10),
        "n_ok": n,
    }
    vectors = np.asarray(vectors, dtype=np.float32)
    diverse = Diverse(candidates=Decimal(candidates), vectors=lambda places: vectors[places])
    return choose(scores, budget=budget, diversity=diverse, **{**given, **options})


def axes(*numbers):
    return np.eye(8, dtype=np.float32)[list(numbers)]


def test_a_row_that_stands_for_others_displaces_a_better_one_like_those_before_it():
    # The three best are alike; the fourth is not; the fifth is no candidate.
    result = pick([9, 8, 7, 6, 5, 4.0], Budget(rows=2), axes(0, 0, 0, 1, 2, 3))
    assert result.selected.tolist() == [1, 0, 0, 1, 0, 0]
    assert result.reason == ["top", "diversity", "diversity", "top", "budget", "budget"]
    assert result.rank.tolist() == [1, 3, 4, 2, 5, 6]
    assert result.cut == 6.0
    assert not result.at_cut.any()


def test_ranks_are_the_order_of_the_choice_not_of_the_scores():
    result = pick([9, 8, 7, 6.0], Budget(rows=2), axes(0, 1, 1, 1))
    assert result.rank.tolist() == [2, 1, 3, 4]


def test_as_many_candidates_as_rows_keep_the_best_whatever_their_vectors():
    rng = np.random.default_rng(3)
    scores = rng.permutation(50).astype(float)
    result = pick(scores, Budget(rows=12), drawn(3, 50, 4), candidates="1")
    assert set(np.flatnonzero(result.selected)) == set(np.argsort(-scores)[:12])
    assert "diversity" not in result.reason


@pytest.mark.parametrize(
    ("candidates", "entered"), [("1", 5), ("1.5", 8), ("2", 10), ("3.1", 16), ("99", 40)]
)
def test_the_budget_is_exact_and_the_candidates_as_many_as_said(candidates, entered):
    result = pick(np.arange(40.0), Budget(rows=5), drawn(4, 40, 6), candidates=candidates)
    assert result.selected.sum() == 5
    assert result.reason.count("top") == 5
    assert result.reason.count("diversity") == entered - 5
    assert sorted(result.rank) == list(range(1, 41))


def test_the_order_of_the_pool_changes_nothing():
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 6, 90).astype(float)
    tie = rng.permutation(90).astype(np.uint64)
    vectors = drawn(5, 30, 6)[rng.integers(0, 30, 90)]  # many are equal
    strata = rng.integers(0, 3, 90)
    wanted = pick(scores, Budget(rows=20), vectors, tie=tie, strata=strata)
    for seed in range(5):
        turn = np.random.default_rng(seed).permutation(90)
        found = pick(
            scores[turn], Budget(rows=20), vectors[turn], tie=tie[turn], strata=strata[turn]
        )
        assert found.rank.tolist() == wanted.rank[turn].tolist()
        assert found.selected.tolist() == wanted.selected[turn].tolist()
        assert found.reason == [wanted.reason[place] for place in turn]


def test_equal_gains_go_to_the_better_score_and_then_by_the_tie_break():
    assert pick([5, 6.0], Budget(rows=1), axes(0, 1)).selected.tolist() == [0, 1]
    tie = np.array([9, 3, 5], dtype=np.uint64)
    result = pick([5, 5, 5.0], Budget(rows=1), axes(0, 1, 2), candidates="3", tie=tie)
    assert result.selected.tolist() == [0, 1, 0]


def test_each_stratum_chooses_among_its_own_best():
    strata = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    vectors = axes(0, 0, 1, 2, 0, 0, 1, 2)
    result = pick([9, 8, 7, 6, 5, 4, 3, 2.0], Budget(rows=4), vectors, strata=strata)
    assert result.selected.tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert result.rank.tolist() == [1, 5, 3, 6, 2, 7, 4, 8]  # strata take turns


def test_duplicates_and_rows_beyond_their_prompt_are_no_candidates():
    result = pick(
        [9, 8, 7, 6, 5, 4.0],
        Budget(rows=2),
        axes(0, 1, 2, 0, 0, 3),
        duplicate=np.array([0, 1, 0, 0, 0, 0], dtype=bool),
        prompt=np.array([0, 0, 0, 1, 2, 3]),
        per_prompt=1,
    )
    assert result.reason == ["top", "duplicate", "per_prompt", "diversity", "diversity", "top"]


def test_tokens_end_before_the_first_choice_that_does_not_fit():
    tokens = np.array([30, 10, 40, 50, 5])
    # The second, the first; the fourth would make 90, and the fifth behind it is not reached for.
    result = pick([9, 8, 7, 6, 5.0], Budget(tokens=80), axes(0, 1, 1, 2, 3), n_tokens=tokens)
    assert result.reason == ["top", "top", "diversity", "diversity", "diversity"]
    assert result.rank.tolist() == [2, 1, 3, 4, 5]
    whole = pick([9, 8.0], Budget(tokens=40), axes(0, 1), n_tokens=np.array([30, 10]))
    assert whole.selected.all()
    with pytest.raises(RequestError, match="the row has that would be chosen first"):
        tokens = np.array([15, 25, 25])
        pick([9, 8, 7.0], Budget(tokens=20), axes(0, 1, 1), n_tokens=tokens, candidates="9")


def test_a_candidate_without_a_vector_is_left_out_and_said():
    vectors = axes(0, 1, 2, 3)
    vectors[1] = np.nan
    result = pick([9, 8, 7, 6.0], Budget(rows=2), vectors)
    assert result.reason == ["top", "no_vector", "top", "diversity"]
    with pytest.raises(RequestError, match="2 rows, but only 1 of the best rows have a vector"):
        pick([9, 8, 7, 6.0], Budget(rows=2), vectors, candidates="1")
