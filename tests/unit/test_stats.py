"""Ranks, areas and intervals: hand-worked values, scipy as reference, coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from igds.stats.auroc import auroc, auroc_interval
from igds.stats.bootstrap import paired_bootstrap
from igds.stats.proportion import wilson
from igds.stats.rank import mid_ranks, spearman


def test_mid_ranks_share_ties():
    assert mid_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_spearman_equals_scipy_with_ties():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 40), rng.normal(size=40)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_of_a_constant_is_nan():
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_wilson_interval_by_hand():
    # textbook: 8 of 10 gives 0.490 to 0.943
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 12)[0] == pytest.approx(0) and wilson(0, 12)[1] > 0.2
    assert np.isnan(wilson(0, 0)).all()


def test_auroc_by_hand():
    # pairs: 2>1, 2=2 (half), 2<3; 3>1, 3>2, 3=3 (half): 4 of 6
    assert auroc(np.array([2.0, 3.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(4 / 6)


def test_auroc_is_mann_whitney_and_mirrors():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 4, 30).astype(float), rng.integers(1, 5, 50).astype(float)
    u = stats.mannwhitneyu(a, b).statistic
    assert auroc(a, b) == pytest.approx(u / (30 * 50), abs=1e-12)
    assert auroc(a, b) + auroc(b, a) == pytest.approx(1)
    assert auroc(a**3, b**3) == auroc(a, b)


def test_auroc_of_nothing_is_nan():
    assert np.isnan(auroc(np.array([]), np.array([1.0])))
    assert np.isnan(auroc_interval(np.array([1.0]), np.array([1.0, 2.0]))).all()


def test_auroc_interval_by_hand():
    # placements of 2 and 3 among {1, 2, 3}: 1.5/3, 2.5/3; of 1, 2, 3 under {2, 3}: 1, .75, .25
    low, high = auroc_interval(np.array([2.0, 3.0]), np.array([1.0, 2.0, 3.0]))
    variance = np.var([1.5 / 3, 2.5 / 3], ddof=1) / 2 + np.var([1, 0.75, 0.25], ddof=1) / 3
    half = 1.959964 * np.sqrt(variance)
    assert (low, high) == pytest.approx((max(0, 4 / 6 - half), min(1, 4 / 6 + half)), abs=1e-6)


def test_auroc_interval_covers():
    rng = np.random.default_rng(2)
    truth = stats.norm.cdf(0.8 / np.sqrt(2))
    hits = 0
    for _ in range(1000):
        low, high = auroc_interval(rng.normal(0.8, 1, 80), rng.normal(0, 1, 60))
        hits += low <= truth <= high
    assert 0.92 <= hits / 1000 <= 0.98


@pytest.mark.parametrize(
    ("truth", "draw"),
    [
        (0.1, lambda rng: rng.normal(0.1, 0.5, 60)),
        (1.0, lambda rng: rng.exponential(1.0, 60)),
        # as a feature that is active on a part of the prompts
        (0.6, lambda rng: rng.normal(1.0, 1.0, 60) * (rng.random(60) < 0.6)),
    ],
    ids=["normal", "skewed", "sparse"],
)
def test_bootstrap_interval_covers(truth, draw):
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(1000):
        interval = paired_bootstrap(draw(rng), range(60), draws=1000)
        hits += interval.low <= truth <= interval.high
    assert 0.92 <= hits / 1000 <= 0.98


def test_bootstrap_interval_of_clusters_covers():
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(50), 4).tolist()
    hits = 0
    for _ in range(1000):
        shared = np.repeat(rng.normal(0, 1, 50), 4)
        interval = paired_bootstrap(shared + rng.normal(0, 0.3, 200), clusters, draws=1000)
        hits += interval.low <= 0 <= interval.high
    assert 0.92 <= hits / 1000 <= 0.98


def test_bootstrap_is_near_scipys_for_many_values():
    x = np.random.default_rng(7).normal(0.3, 1, 400)
    ours = paired_bootstrap(x, range(400), seed=1)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=9999, random_state=1).confidence_interval
    assert ours.mean == pytest.approx(x.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bootstrap_moves_and_scales_with_the_values():
    x = np.random.default_rng(8).normal(size=30)
    a, b = paired_bootstrap(x, range(30)), paired_bootstrap(3 * x + 2, range(30))
    assert (b.low, b.high) == pytest.approx((3 * a.low + 2, 3 * a.high + 2), abs=1e-9)
    assert paired_bootstrap(x, range(30)) == a


def test_repeating_every_row_in_its_cluster_changes_nothing():
    x = np.random.default_rng(9).normal(size=30)
    a = paired_bootstrap(x, range(30))
    b = paired_bootstrap(np.tile(x, 3), list(range(30)) * 3)
    assert (a.mean, a.low, a.high) == pytest.approx((b.mean, b.low, b.high), abs=1e-9)


def test_bootstrap_of_little():
    nothing = paired_bootstrap(np.array([]), [])
    assert np.isnan([nothing.mean, nothing.low, nothing.high]).all()
    one = paired_bootstrap(np.array([1.0, 2.0]), ["a", "a"])
    assert one.mean == 1.5 and np.isnan([one.low, one.high]).all()
    same = paired_bootstrap(np.full(10, 0.1), range(10))
    # equal values show no spread: their mean is known, how far it could be off is not
    assert same.mean == pytest.approx(0.1) and np.isnan([same.low, same.high]).all()
    # a single active prompt in 20: more than 2.5 % of the draws miss it, so nothing bounds it above
    rare = paired_bootstrap(np.eye(20)[0], range(20))
    assert np.isnan(rare.high)


def test_separated_sets_prove_no_more_than_their_size():
    low, high = auroc_interval(np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    assert high == 1.0
    assert low == pytest.approx(0.025**0.5)  # two values a side: far below 0.5
    low, _ = auroc_interval(np.arange(100.0) + 100, np.arange(100.0))
    assert low == pytest.approx(0.025**0.01)
    assert auroc_interval(np.array([0.0, 1.0]), np.array([2.0, 3.0]))[0] == 0.0


def test_a_value_that_is_not_a_number_has_no_rank():
    with pytest.raises(ValueError, match="NaN"):
        auroc(np.array([1.0, np.nan]), np.array([0.0]))
