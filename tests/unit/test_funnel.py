"""The funnel's order of steps and its choice, on planted samples without a model."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from planted_funnel import DELTAS, SETTINGS, Bench

from igds.config.schema import Intervene
from igds.interventions.funnel import best, over_ranks

SCORES = (
    "task_score", "original_score", "changed", "tokens", "original_tokens", "broken",
    "original_broken", "pass_k", "original_pass_k",
)  # fmt: skip
"""Columns beside a delta of the task's score."""


def test_each_split_is_read_once_and_the_plan_comes_before_s3():
    bench = Bench()
    outcome = bench.run()
    screen, s1, s2, plan, s3, controls = bench.calls
    assert screen == "screen"
    assert s1 == ("S1", ("L1/0", "L1/1", "L1/2", "L2/0", "L2/10", "L2/9"), False)
    assert s2 == ("S2", ("L1/0", "L1/1", "L1/2", "L2/0"), True)
    assert s3 == ("S3", ("L1/0", "L1/1", "L1/2"), True)
    assert plan["features"] == ["L1/0", "L1/1", "L1/2"]
    assert plan["order"] == ["L1/0", "L1/1", "L1/2", "L2/0"]
    assert (plan["coefficient"], plan["delta_min"], plan["side"]) == (1.0, 0.0, "up")
    assert controls == ("controls", "L1/0")
    assert outcome.task_features["outcome"] == "confirmed"
    assert outcome.task_features["features"] == ["L1/0"]
    assert outcome.task_features["two_sided"] == {"L1/0": True}
    assert outcome.task_features["top_share"] == 1.0
    assert outcome.controls["feature"].unique().to_pylist() == ["L1/0"]
    assert outcome.task_features["screen_spearman"] == pytest.approx(1)
    assert outcome.effects["split"].to_pylist() == ["S1"] * 6 + ["S2"] * 4 + ["S3"] * 3
    assert outcome.samples.column_names[:3] == ["feature", "split", "row_id"]
    assert len(outcome.samples) == 30 * 13
    assert outcome.task_features["screen_checked"] == 1
    assert outcome.task_features["screen_missed"] == 0


def test_s2_fixes_the_order_whatever_s1_and_s3_say():
    bench = Bench()
    plain = bench.exact

    def exact(split, features, contrast):
        bench.deltas["L1/2"] = 0.9 if split == "S2" else 0.2 if split == "S3" else 0.3
        return plain(split, features, contrast)

    outcome = bench.run(exact=exact)
    assert outcome.task_features["order"][0] == "L1/2"
    assert outcome.task_features["features"] == ["L1/2"]


def drowned(bench):
    """Make the deltas of S3 too noisy to confirm anything."""
    plain = bench.exact

    def exact(split, features, contrast):
        table = plain(split, features, contrast)
        if split != "S3":
            return table
        rows = [int(row.removeprefix("S3-")) for row in table["row_id"].to_pylist()]
        noise = [10.0 if row % 2 else -10.0 for row in rows]
        place = table.schema.get_field_index("delta")
        return table.set_column(place, "delta", pa.array(table["delta"].to_numpy() + noise))

    return exact


def test_what_s3_does_not_confirm_is_used_only_when_allowed():
    bench = Bench()
    found = bench.run(exact=drowned(bench)).task_features
    assert (found["outcome"], found["features"]) == ("none", [])
    assert "the best unconfirmed feature is L1/0: not confirmed on S3" in found["reason"]
    assert ("controls", "L1/0") not in bench.calls

    allowed = replace(SETTINGS, allow_unconfirmed=True)
    bench = Bench()
    found = bench.run(allowed, exact=drowned(bench)).task_features
    assert (found["outcome"], found["features"]) == ("unconfirmed", ["L1/0"])


def test_a_feature_no_better_than_its_controls_is_not_confirmed():
    bench = Bench()
    bench.control_delta = 0.45
    found = bench.run().task_features
    assert found["outcome"] == "confirmed"
    assert found["features"] == ["L1/0"]
    bench.control_delta = 0.49
    found = bench.run().task_features
    assert found["outcome"] == "none"
    assert "no better than its controls: other decoder rows" in found["refused"]["L1/0"]
    assert "reach +0.5090 at their 95th percentile" in found["refused"]["L1/0"]


def test_without_controls_nothing_is_confirmed():
    settings = replace(SETTINGS, controls=0, allow_unconfirmed=True)
    found = Bench().run(settings).task_features
    assert (found["outcome"], found["features"]) == ("unconfirmed", ["L1/0"])
    assert "no controls were drawn (intervene.controls is 0)" in found["reason"]


def test_a_feature_whose_ablation_does_no_harm_is_one_sided():
    bench = Bench()
    bench.ablated = 0.02
    assert bench.run().task_features["two_sided"] == {"L1/0": False}


def test_the_test_stands_beside_the_effects_of_s3_alone():
    effects = Bench().run().effects
    s3 = effects.filter(pc.equal(effects["split"], "S3"))
    assert s3["p_family"].null_count == 0
    assert effects["p_family"].null_count == len(effects) - len(s3)


def test_a_feature_that_the_screen_missed_is_found_and_counted():
    bench = Bench()
    bench.deltas["L2/9"] = 0.8
    found = bench.run().task_features
    assert found["features"] == ["L2/9"]
    assert (found["screen_checked"], found["screen_missed"]) == (1, 1)
    assert found["screen_missed_low"] > 0.2


def test_checked_features_come_from_all_ranks():
    screen = {f"L1/{place}": -float(place) for place in range(100)}
    picked = over_ranks(screen, [f"L1/{place}" for place in range(20)], 8, seed=0)
    places = [int(name.removeprefix("L1/")) for name in picked]
    assert [(place - 20) // 10 for place in places] == list(range(8))
    assert picked != over_ranks(screen, [f"L1/{place}" for place in range(20)], 8, seed=1)
    assert over_ranks(screen, list(screen)[:98], 8, seed=0) == ["L1/98", "L1/99"]
    assert over_ranks(screen, list(screen), 8, seed=0) == []


def test_a_mixed_pool_asks_for_specificity():
    low = dict.fromkeys(DELTAS, 0.9) | {"L1/0": 0.5, "L1/1": float("nan")}
    found = Bench().run(mixed_pool=True, specificity_low=low).task_features
    assert found["features"] == ["L1/2"]
    assert "lower end of its AUROC is 0.50" in found["refused"]["L1/0"]
    assert set(found["refused"]) == {"L1/0", "L1/1"}
    assert Bench().run(specificity_low=low).task_features["features"] == ["L1/0"]


def test_the_plan_holds_how_outputs_are_generated_where_they_are_judged():
    def plan(metric, **changes):
        bench = Bench()
        bench.run(replace(SETTINGS, **changes), metric=metric)
        return next(call for call in bench.calls if isinstance(call, dict))

    assert plan("logprob")["generation"] is None
    kept = plan("task_score")["generation"]
    assert kept == {"max_new_tokens": 256, "samples": 1, "temperature": 0.0, "pass_k": None}
    for name, value in (("max_new_tokens", 8), ("temperature", 0.5)):
        assert plan("task_score", **{name: value})["generation"] == kept | {name: value}
        assert plan("logprob", **{name: value}) == plan("logprob")


def test_controls_are_compared_on_likelihood_where_the_score_is_judged():
    bench = Bench()

    def exact(split, features, contrast):
        """Deltas of the task's score are as ever; of the likelihood, below the controls."""
        table = bench.exact(split, features, contrast)
        if split == "S1":
            return table
        table = table.rename_columns(
            ["delta_logprob" if name == "delta" else name for name in table.column_names]
        )
        shifted = pc.subtract(table["delta_logprob"], bench.gap)
        place = table.schema.get_field_index("delta_logprob")
        score = table["delta_logprob"]
        scored = table.set_column(place, "delta_logprob", shifted).append_column("delta", score)
        for name in SCORES:
            scored = scored.append_column(name, pa.array([0.0] * len(table)))
        return scored

    bench.control_delta, bench.gap = 0.3, 0.3
    found = bench.run(exact=exact, metric="task_score").task_features
    assert found["outcome"] == "none"
    assert found["refused"]["L1/0"].startswith("no better than its controls on likelihood: other")
    bench.gap = 0.0
    found = bench.run(exact=exact, metric="task_score").task_features
    assert found["features"] == ["L1/0"]
    assert found["reason"].endswith("beyond its controls on likelihood")


def test_controls_that_do_not_fit_the_budget_confirm_nothing():
    def controls(feature):
        return None if feature == "L1/0" else bench.controls(feature)

    bench = Bench()
    found = bench.run(controls=controls).task_features
    assert found["features"] == ["L1/1"]
    assert "controls did not fit the budget" in found["refused"]["L1/0"]
    allowed = replace(SETTINGS, allow_unconfirmed=True)
    found = bench.run(allowed, controls=lambda _feature: None).task_features
    assert (found["outcome"], found["features"]) == ("unconfirmed", ["L1/0"])
    assert "did not fit the budget" in found["reason"] and found["two_sided"] == {}


@pytest.mark.parametrize(
    ("bench", "settings", "reason"),
    [
        (Bench(contrast=-0.01), SETTINGS, "(format)"),
        (Bench(rest=-0.05), SETTINGS, "(format)"),
        (Bench(deltas=dict.fromkeys(DELTAS, -0.2)), SETTINGS, "is not above 0"),
        (Bench(), Intervene(delta_min=1.0), "is not above 1"),
    ],
    ids=["contrast", "first tokens", "harmful", "delta_min"],
)
def test_nothing_usable_is_an_outcome_with_its_reason(bench, settings, reason):
    found = bench.run(settings).task_features
    assert found["outcome"] == "none"
    assert found["features"] == []
    assert found["reason"].startswith("none of the first")
    assert reason in found["reason"]


def test_best_breaks_ties_by_the_features_numbers():
    assert best({"L2/10": 1.0, "L2/9": 1.0, "L1/50": 1.0, "L0/0": 0.0}, 3) == [
        "L1/50",
        "L2/9",
        "L2/10",
    ]
