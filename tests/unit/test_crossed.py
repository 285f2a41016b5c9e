from __future__ import annotations

import math

import numpy as np
import pytest

from igds.stats.crossed import crossed_mean, holm


def world(
    rng: np.random.Generator, *, seeds: int, items: int, by_seed: float, by_item: float
) -> np.ndarray:
    """Return values with mean 0, and variances between trainings, between items and of both."""
    trained = rng.normal(0, by_seed, (seeds, 1))
    item = rng.normal(0, by_item, (1, items))
    return trained + item + rng.normal(0, 0.5, (seeds, items))


@pytest.mark.parametrize(
    ("by_seed", "by_item"), [(0.05, 0.5), (0.3, 0.5), (0.3, 0.0)], ids=["items", "both", "seeds"]
)
def test_the_interval_covers_other_trainings_and_other_items(
    by_seed: float, by_item: float
) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        values = world(rng, seeds=5, items=60, by_seed=by_seed, by_item=by_item)
        found = crossed_mean(values, range(60)).interval
        covered.append(found.low <= 0 <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.985


def test_trainings_that_agree_leave_the_items_alone() -> None:
    rng = np.random.default_rng(1)
    row = rng.normal(0.2, 1.0, 400)
    found = crossed_mean(np.stack([row] * 5), range(400))
    error = row.std(ddof=1) / math.sqrt(400)
    assert found.interval.mean == pytest.approx(row.mean())
    assert (found.interval.high - found.interval.low) / 2 == pytest.approx(1.966 * error, rel=1e-3)
    assert found.seed_deviation == pytest.approx(0)
    assert found.detectable() == pytest.approx(2.808 * error, rel=1e-3)
    # At 0.05 / 6: 2.65 + 0.84 deviations.
    assert found.detectable(0.05 / 6) == pytest.approx(3.495 * error, rel=2e-3)


def test_items_of_one_prompt_count_as_one() -> None:
    rng = np.random.default_rng(2)
    row = rng.normal(0, 1.0, 50)
    one = crossed_mean(row[None], range(50))
    many = crossed_mean(np.repeat(row, 4)[None], np.repeat(np.arange(50), 4).tolist())
    assert many.interval.low == pytest.approx(one.interval.low)
    assert many.p == pytest.approx(one.p)
    assert many.items == 200


@pytest.mark.parametrize("trainings", [1, 2, 5])
def test_the_error_is_what_drawing_trainings_and_prompts_comes_to(trainings: int) -> None:
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(40), np.tile([1, 2], 20))
    values = rng.normal(0.3, 0.2, (trainings, 1)) + rng.normal(0, 1, (1, 40))[:, clusters]
    values = values + rng.normal(0, 1, (trainings, 60))
    few, draws = max(1, trainings - 1), []
    for _ in range(20_000):
        seeds = rng.integers(trainings, size=few)
        prompts = np.bincount(rng.integers(40, size=39), minlength=40)[clusters]
        draws.append(np.average(values[seeds].mean(axis=0), weights=prompts))
    found = crossed_mean(values, clusters.tolist())
    assert found.error == pytest.approx(np.std(draws), rel=0.03)


def test_the_order_of_items_and_their_names_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, (3, 40))
    turned = crossed_mean(values[:, ::-1].copy(), [f"c{n}" for n in range(40)])
    plain = crossed_mean(values, range(40))
    assert turned.interval.mean == pytest.approx(plain.interval.mean)
    assert turned.p == pytest.approx(plain.p)


def test_one_cluster_bounds_nothing() -> None:
    found = crossed_mean(np.array([[1.0, 2.0]]), ["a", "a"])
    assert found.interval.mean == pytest.approx(1.5)
    assert math.isnan(found.interval.low)
    assert math.isnan(found.p)
    assert math.isnan(found.detectable())


def test_equal_values_bound_nothing_unless_they_are_0() -> None:
    nothing = crossed_mean(np.zeros((2, 5)), range(5))
    assert (nothing.p, nothing.interval.low, nothing.interval.high) == (1.0, 0.0, 0.0)
    for value in (1.0, 0.1):
        same = crossed_mean(np.full((3, 5), value), range(5))
        assert math.isnan(same.p) and math.isnan(same.interval.high)
        assert same.interval.mean == pytest.approx(value)


def test_holm_by_hand() -> None:
    # Sorted: 0.01, 0.02, 0.04 -> 3 * 0.01, 2 * 0.02, 1 * 0.04, none below the one before it.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="2 trainings of 3 items, 2 clusters"):
        crossed_mean(np.zeros((2, 3)), ["a", "b"])
