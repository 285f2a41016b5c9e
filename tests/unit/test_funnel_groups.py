"""Several task features: confirmed one by one and together, and different from each other."""

from dataclasses import replace

import numpy as np
import planted_funnel
import pyarrow.compute as pc
import pytest
from planted_funnel import DELTAS, Bench

from igds.config.schema import Intervene
from igds.errors import RequestError

TWO = Intervene(screen_keep=5, exact_keep=4, confirm_n=4, top_k=2)


def test_two_features_are_confirmed_one_by_one_and_together():
    bench = Bench()
    outcome = bench.run(TWO)
    found = outcome.task_features
    assert (found["outcome"], found["features"]) == ("confirmed", ["L1/0", "L1/1"])
    assert (found["confirmed"], found["group"]) == (["L1/0", "L1/1"], "L1/0+L1/1")
    assert "confirmed together too" in found["reason"]
    assert bench.calls[-1] == ("group", ("L1/0", "L1/1"))
    (row,) = outcome.effects.filter(pc.equal(outcome.effects["feature"], "L1/0+L1/1")).to_pylist()
    assert (row["split"], row["layer"], row["index"], row["q"]) == ("S3", None, None, None)
    assert row["delta"] == pytest.approx(0.8, abs=0.01)
    # each of the 6 pairs of 4 usable features has a sixth of the 0.01
    assert row["p_family"] == pytest.approx(6 * row["p"]) and row["p_family"] < 0.01
    group = pc.equal(outcome.samples["feature"], "L1/0+L1/1")
    assert len(outcome.samples.filter(group)) == bench.rows
    plan = next(call for call in bench.calls if isinstance(call, dict))
    assert (plan["group"]["across"], plan["group"]["usable"]) == ("frozen", 4)
    assert plan["test"]["alpha"] == pytest.approx(0.04)


MANY = {f"L1/{place}": 0.5 - place / 100 for place in range(10)}
THREE = Intervene(screen_keep=10, exact_keep=10, confirm_n=10, top_k=3)


def of_ten(confirmed):
    """Return a world whose S3 confirms the first so many of ten features, and what it does."""
    bench = Bench(rows=60, deltas=MANY)
    plain = bench.exact

    def exact(split, features, contrast):
        if split == "S3":
            bench.deltas = {
                name: 0.1 if place < confirmed else 0.0 for place, name in enumerate(MANY)
            }
        return plain(split, features, contrast)

    return bench, exact


@pytest.mark.parametrize("confirmed", [1, 2, 3])
def test_few_confirmed_of_a_family_of_ten_can_be_used(confirmed, monkeypatch):
    monkeypatch.setattr(planted_funnel, "DELTAS", MANY)
    bench, exact = of_ten(confirmed)
    bench.together = 0.1 * confirmed
    found = bench.run(THREE, exact=exact, direction=lambda f: np.eye(10)[list(MANY).index(f)])
    names = list(MANY)[:confirmed]
    facts = found.task_features
    assert (facts["outcome"], facts["features"]) == ("confirmed", names), facts["reason"]


def test_two_of_ten_that_do_not_help_together_are_not_confirmed(monkeypatch):
    monkeypatch.setattr(planted_funnel, "DELTAS", MANY)
    bench, exact = of_ten(2)
    bench.together = 0.0
    found = bench.run(THREE, exact=exact, direction=lambda f: np.eye(10)[list(MANY).index(f)])
    assert found.task_features["outcome"] == "none"
    assert "but not what they do together" in found.task_features["reason"]


def test_only_features_usable_before_s3_count_as_members_of_groups():
    low = dict.fromkeys(DELTAS, 0.9) | {"L1/2": 0.4}
    bench = Bench()
    outcome = bench.run(TWO, mixed_pool=True, specificity_low=low)
    plan = next(call for call in bench.calls if isinstance(call, dict))
    assert plan["group"]["usable"] == 3
    (row,) = outcome.effects.filter(pc.equal(outcome.effects["feature"], "L1/0+L1/1")).to_pylist()
    assert row["p_family"] == pytest.approx(3 * row["p"])


def test_a_family_too_large_for_the_flips_is_refused_before_the_plan(monkeypatch):
    monkeypatch.setattr("igds.interventions.confirm.FLIPS", 70)
    bench = Bench()
    bench.run()  # 3 features at 0.05
    bench = Bench()
    with pytest.raises(RequestError, match="lower intervene.confirm_n"):
        bench.run(TWO)  # 4 at 0.04
    assert not any(isinstance(call, dict) or call[0] == "S3" for call in bench.calls)


def test_features_that_undo_each_other_are_not_confirmed():
    bench = Bench()
    bench.together = -0.2
    found = bench.run(TWO).task_features
    assert (found["outcome"], found["features"]) == ("none", [])
    assert found["confirmed"] == ["L1/0", "L1/1"]
    assert "but not what they do together (not confirmed on S3: family-wise p" in found["reason"]
    assert "set intervene.top_k to 1 to use L1/0 alone" in found["reason"]
    found = bench.run(replace(TWO, allow_unconfirmed=True)).task_features
    assert (found["outcome"], found["features"]) == ("unconfirmed", ["L1/0", "L1/1"])


def test_fewer_confirmed_than_asked_for_are_used_and_said():
    bench, low = Bench(), dict.fromkeys(DELTAS, 0.4)
    only = low | {"L1/0": 0.9, "L2/10": 0.9}
    found = bench.run(TWO, mixed_pool=True, specificity_low=only).task_features
    assert (found["outcome"], found["features"]) == ("confirmed", ["L1/0"])
    assert found["reason"].endswith("1 of the 2 asked for (intervene.top_k)")
    assert found["group"] is None and bench.calls[-1] == ("controls", "L1/0")


def test_unconfirmed_features_are_looked_at_only_when_none_is_confirmed():
    rows = []

    def direction(feature):
        rows.append(feature)
        return Bench().direction(feature)

    Bench().run(direction=direction)
    assert rows == []  # one feature alone is compared with nothing
    bench = Bench()
    bench.run(TWO, direction=direction)
    assert rows == ["L1/1", "L1/0"]


def test_second_feature_must_differ_in_direction_and_activation():
    settings = Intervene(screen_keep=5, exact_keep=4, confirm_n=4, top_k=2, allow_unconfirmed=True)
    assert Bench().run(settings).task_features["features"] == ["L1/0", "L1/1"]

    same = Bench()
    vectors = {"L1/1": same.direction("L1/0") + 0.9 * same.direction("L1/1")}
    found = same.run(settings, direction=lambda f: vectors.get(f, same.direction(f)))
    assert found.task_features["features"] == ["L1/0", "L1/2"]
    assert "like L1/0: decoder cosine 0.74" in found.task_features["refused"]["L1/1"]

    twins = Bench()
    twins.activation_of = {"L1/1": "L1/0"}
    found = twins.run(settings).task_features
    assert found["features"] == ["L1/0", "L1/2"]
    assert "activation correlation 1.00" in found["refused"]["L1/1"]
