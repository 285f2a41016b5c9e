"""Finished cells side by side: planted differences, pass@k by hand, pairs that are not there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_cells import cell_result, item

from igds.config.experiment import Contrast, Experiment, Grid
from igds.config.inputs import SAE, Data, Model, Source
from igds.config.schema import Config, Intervene, Recall
from igds.config.training import Evaluate, Finetune
from igds.experiments.cells import plan_cells
from igds.experiments.comparison import adjusted, arms, contrasts
from igds.experiments.figures import correlation_text
from igds.experiments.results import CellResult, as_bits, selected_rows
from igds.experiments.state import Finished
from igds.experiments.tables import (
    arm_table,
    break_even,
    comparison,
    cost_table,
    markdown,
    verdict,
)

ROWS = (Source(path="rows.jsonl"),)
GRID = Grid(
    arms=("original", "igds", "random", "loss"),
    seeds=3,
    contrasts=(Contrast(arm="igds", against="random"), Contrast(arm="loss", against="random")),
    published={"igds": 0.5},
)
SHIFT = {"original": -1.0, "igds": 0.4, "random": 0.0, "loss": 0.0}
"""Arm -> planted mean."""


def result(items: list[dict[str, Any]], pass_at: tuple[int, ...] = ()) -> CellResult:
    return cell_result(items, np.arange(15) < 3, outcome="UNCONFIRMED", pass_at=pass_at)


@pytest.fixture
def planted() -> Finished:
    """Return an experiment whose arms differ by `SHIFT`, with noise between seeds and items."""
    config = Config(
        name="planted",
        model=Model(id="model"),
        saes=(SAE(path="sae"),),
        data=Data(prior=ROWS, validation=ROWS, control=ROWS, pool=ROWS, test=ROWS),
        recall=Recall(),
        intervene=Intervene(),
        finetune=Finetune(),
        evaluate=Evaluate(generate=False),
        experiment=Experiment(grid=(GRID,)),
    )
    plan = plan_cells(config)
    rng = np.random.default_rng(0)
    level = rng.normal(0, 1, 40)
    found = {}
    for cell in plan.cells:
        noise = rng.normal(0, 0.02) + rng.normal(0, 0.05, 40)
        values = SHIFT[cell.arm] + level + noise
        rows = [item(f"row{n}", "logprob", float(value)) for n, value in enumerate(values)]
        found[cell] = result(rows)
    return Finished(plan=plan, folder=Path("unused"), results=found)


def test_planted_differences_are_found_and_null_ones_are_not(planted: Finished) -> None:
    better, same = contrasts(planted)
    assert better.difference.interval.low < 0.4 < better.difference.interval.high
    assert better.difference.interval.low > 0.3
    assert better.adjusted < 0.05 and verdict(better) == "igds is better"
    assert same.difference.interval.low < 0 < same.difference.interval.high
    assert verdict(same) == "no difference found"
    assert better.difference.seeds == 3 and better.difference.items == 40
    shown = {arm.arm: arm for arm in arms(planted)}
    assert shown["igds"].gain["logprob"].interval.mean == pytest.approx(1.4, abs=0.06)
    assert shown["original"].gain == {} and shown["random"].over_random == {}


def test_pairs_of_which_one_is_missing_are_left_out(planted: Finished) -> None:
    first = next(cell for cell in planted.results if cell.name == "random_0.2_s0")
    kept = {cell: one for cell, one in planted.results.items() if cell != first}
    partial = replace(planted, results=kept)
    assert contrasts(partial)[0].difference.seeds == 2
    assert verdict(contrasts(partial)[0]) == "2 of 3 seeds: not judged yet"
    seeds = {arm.arm: (len(arm.cells), arm.wanted) for arm in arms(partial)}
    assert seeds["random"] == (2, 3) and seeds["igds"] == (3, 3)
    assert "**9 of 10 cells are finished.**" in comparison(partial, arms(partial))
    assert "| random | 0.2 | 2/3 |" in comparison(partial, arms(partial))


def test_one_seed_is_not_judged(planted: Finished) -> None:
    kept = {cell: one for cell, one in planted.results.items() if cell.seed == 0}
    found = contrasts(replace(planted, results=kept))
    assert verdict(found[0]) == "1 of 3 seeds: not judged yet"
    assert verdict(replace(found[0], wanted=1)) == "one seed: nothing is said"


def test_items_that_one_cell_lacks_are_left_out_of_its_comparisons(planted: Finished) -> None:
    cell = next(cell for cell in planted.results if cell.name == "igds_0.2_s1")
    short = replace(planted.results[cell], items=planted.results[cell].items.slice(5))
    found = contrasts(replace(planted, results={**planted.results, cell: short}))
    assert [one.difference.items for one in found] == [35, 40]


def test_pass_at_k_is_worked_out_from_the_samples(planted: Finished) -> None:
    # Of 4 samples 1 and 0 are right: 1 - C(3, 2) / C(4, 2) = 1 / 2, and 0.
    rows = [item("a", "task_score", float(n == 0), n) for n in range(4)]
    rows += [item("b", "task_score", 0.0, n) for n in range(4)]
    results = {cell: result(rows, (2,)) for cell in planted.results}
    found = {arm.arm: arm for arm in arms(replace(planted, results=results))}
    assert list(next(iter(results.values())).values) == ["task_score", "pass@2"]
    assert found["igds"].means["pass@2"].interval.mean == pytest.approx(0.25)
    assert found["igds"].means["task_score"].interval.mean == pytest.approx(1 / 8)


def test_published_numbers_stand_beside_the_primary_metric_alone(planted: Finished) -> None:
    found = arms(planted)
    with_them = arm_table(found, "logprob", published=True).splitlines()
    assert with_them[0].endswith("| published |")
    assert with_them[3].startswith("| igds |") and with_them[3].endswith("| 0.5 |")
    assert "published" not in arm_table(found, "logprob")


def test_a_cell_of_a_table_cannot_break_it() -> None:
    assert markdown(["a|b"], [["c\nd"]]) == "| a\\|b |\n| --- |\n| c d |"


def test_a_correlation_with_a_constant_is_not_defined() -> None:
    rising = np.arange(5.0)
    assert "not defined" in correlation_text(rising, np.ones(5), range(5))
    few = correlation_text(rising, rising**3, "aabbc")
    assert few.startswith("Spearman 1.00 (too few selections for an interval), n = 5 fine-tuned")
    rising = np.arange(9.0)
    found = correlation_text(rising, rising**3, "aabcdefgh")
    assert found == "Spearman 1.00 [1.00, 1.00], n = 9 fine-tuned models of 8 selections"
    assert "under 3 models" in correlation_text(rising[:2], rising[:2], "ab")


def test_trainings_on_one_selection_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    level = np.repeat(rng.normal(size=8), 6)
    x, y = level + 0.01 * rng.normal(size=48), np.repeat(rng.normal(size=8), 6)
    apart, together = (
        [float(end) for end in re.findall(r"-?\d\.\d\d", correlation_text(x, y, names))[1:]]
        for names in (range(48), np.repeat(range(8), 6).tolist())
    )
    assert together[1] - together[0] > apart[1] - apart[0] + 0.3


def test_selected_rows_survive_as_bits(planted: Finished) -> None:
    first = next(iter(planted.results.values()))
    assert selected_rows(first).tolist() == [True] * 3 + [False] * 12
    half = replace(first, facts={"selection": {"rows": 9, "bits": as_bits(np.arange(9) % 2 == 0)}})
    assert selected_rows(half).tolist() == [True, False] * 4 + [True]


def test_contrasts_that_are_not_measured_yet_count_in_the_family(planted: Finished) -> None:
    whole = contrasts(planted)
    kept = {cell: one for cell, one in planted.results.items() if cell.arm != "loss"}
    (only,) = contrasts(replace(planted, results=kept))
    assert only.adjusted == pytest.approx(2 * only.difference.p)
    assert whole[0].adjusted == pytest.approx(2 * whole[0].difference.p)
    assert only.detectable == pytest.approx(only.difference.detectable(0.025))


def test_contrasts_that_are_not_judged_yet_lend_their_p_to_none(planted: Finished) -> None:
    # Two seeds of loss differ as much as igds does: their p must not let igds skip a step.
    last = next(cell for cell in planted.results if cell.name == "loss_0.2_s2")
    results = {cell: one for cell, one in planted.results.items() if cell != last}
    for cell in results:
        if cell.arm == "loss":
            results[cell] = planted.results[replace(cell, arm="igds")]
    better, unjudged = contrasts(replace(planted, results=results))
    assert not unjudged.judged and unjudged.difference.p < 0.05 and unjudged.adjusted == 1.0
    small = replace(unjudged, difference=replace(unjudged.difference, p=0.001))
    large = replace(better, difference=replace(better.difference, p=0.02))
    assert [one.adjusted for one in adjusted([large, small], 2)] == pytest.approx([0.04, 1.0])
    broken = replace(better, difference=replace(better.difference, p=float("nan")))
    assert [one.adjusted for one in adjusted([large, broken], 2)] == pytest.approx([0.04, 1.0])


def test_activations_of_other_features_are_not_compared(planted: Finished) -> None:
    rows = [item("a", "feature_activation", 1.0), item("a", "logprob", 1.0)]
    results = {cell: result(rows) for cell in planted.results}
    found = {arm.arm: arm for arm in arms(replace(planted, results=results))}
    assert set(found["igds"].over_random) == {"feature_activation", "logprob"}
    config = planted.plan.config
    other = replace(
        config,
        experiment=Experiment(
            grid=(Grid(arms=("original", "random", "igds@other"), seeds=3),),
            variants={"other": "--data.validation.0.path other.jsonl"},
        ),
    )
    plan = plan_cells(other)
    apart = Finished(
        plan=plan, folder=Path("unused"), results={cell: result(rows) for cell in plan.cells}
    )
    found = {arm.arm: arm for arm in arms(apart)}
    assert set(found["igds@other"].over_random) == set(found["igds@other"].gain) == {"logprob"}
    assert set(found["igds@other"].means) == {"feature_activation", "logprob"}
    contrast = (Contrast(arm="igds@other", against="random"),)
    settings = replace(
        plan.experiment,
        grid=(replace(plan.experiment.grid[0], contrasts=contrast),),
        primary="feature_activation",
    )
    declared = replace(apart, plan=replace(plan, config=replace(other, experiment=settings)))
    assert contrasts(declared) == []


def test_an_arm_that_diverged_has_no_mean_and_no_verdict(planted: Finished) -> None:
    cell = next(cell for cell in planted.results if cell.name == "igds_0.2_s1")
    rows = planted.results[cell].items.to_pylist()
    broken = result([{**row, "value": float("nan")} for row in rows])
    spoilt = replace(planted, results={**planted.results, cell: broken})
    assert verdict(contrasts(spoilt)[0]) == "not measured"
    assert verdict(contrasts(spoilt)[1]) == "no difference found"
    assert "| igds | 0.2 | 3 | diverged |" in comparison(spoilt, arms(spoilt))


def test_the_page_says_by_which_features_and_by_what_code(planted: Finished) -> None:
    last = next(cell for cell in planted.results if cell.name == "loss_0.2_s2")
    many = {f"L10/{n}": 1.0 for n in range(5)}
    old = next(cell for cell in planted.results if cell.name == "loss_0.2_s0")
    one = planted.results[last]
    changed = {**one.facts, "ranked_by": many, "git": {"sha": "abcdefabcd", "dirty": True}}
    without = {**planted.results[old].facts}
    del without["ranked_by"]
    results = {
        **planted.results,
        last: replace(one, facts=changed),
        old: replace(planted.results[old], facts=without),
    }
    found = replace(planted, results=results)
    text = comparison(found, arms(found))
    assert "| igds | 0.2 | L9/7 | L9/7 on S3 +0.0200 [+0.0100, n/a] |" in text
    assert "| loss | 0.2 | L9/7 / 5 features |  |" in text
    assert "9 by commit 0123456, torch 2; 1 by commit abcdefa and changes, torch 2" in text


def test_arms_without_a_usable_feature_are_finished_and_named(planted: Finished) -> None:
    own = {cell: "there is no feature" for cell in planted.results if cell.arm == "igds"}
    kept = {cell: one for cell, one in planted.results.items() if cell not in own}
    found = replace(planted, results=kept, unselected=own)
    text = comparison(found, arms(found))
    names = ", ".join(cell.name for cell in own)
    assert f"**No selection**: {names}, as there is no feature." in text
    assert "cells are finished" not in text


def test_rows_shared_with_igds_are_of_the_same_seed(planted: Finished) -> None:
    results = dict(planted.results)
    for cell in results:
        if cell.arm == "random":
            results[cell] = result([item("a", "logprob", 0.0)])
            bits = as_bits((np.arange(15) >= cell.seed) & (np.arange(15) < cell.seed + 3))
            results[cell].facts["selection"]["bits"] = bits
    found = replace(planted, results=results)
    table = cost_table(found, arms(found)).splitlines()
    assert "| 66.7 % |" in next(line for line in table if line.startswith("| random"))


def test_the_page_says_what_is_not_confirmed(planted: Finished) -> None:
    text = comparison(planted, arms(planted))
    assert "**UNCONFIRMED**: no feature is confirmed behind igds." in text


def test_selections_from_other_pools_share_nothing(planted: Finished) -> None:
    results = dict(planted.results)
    for cell, one in planted.results.items():
        if cell.arm == "loss":
            contents = {"pool": ["another"]}
            results[cell] = replace(one, identity={**one.identity, "contents": contents})
    found = replace(planted, results=results)
    before, after = (cost_table(one, arms(one)) for one in (planted, found))
    assert before.count("100.0 %") == 2 and after.count("100.0 %") == 1


def test_a_time_that_was_not_written_down_is_not_invented(planted: Finished) -> None:
    results = {
        cell: replace(one, facts={**one.facts, "seconds": {}})
        for cell, one in planted.results.items()
    }
    found = replace(planted, results=results)
    assert cost_table(found, arms(found)).count("| n/a |") >= 3


def with_facts(planted: Finished, arm: str, **parts: dict[str, Any]) -> Finished:
    """Return the experiment with parts of the facts of an arm's cells replaced."""
    results = {
        cell: replace(one, facts={**one.facts, **parts}) if cell.arm == arm else one
        for cell, one in planted.results.items()
    }
    return replace(planted, results=results)


@pytest.mark.parametrize(
    ("identify", "score", "said"),
    [
        # Loss costs 60 for 15 rows, igds 30 for 20: 4 and 1.5 a row, 2.5 saved by each row.
        (100.0, 30.0, "igds costs less than loss from at most 40 rows on."),
        (101.0, 30.0, "igds costs less than loss from at most 41 rows on."),  # 40.4
        (0.0, 30.0, "igds costs less than loss from at most 0 rows on."),
        (1e4, 78.75, "igds costs less than loss from at most 160,000 rows on."),  # 1/16 saved
        (100.0, 80.0, "igds: by these bounds it costs less than loss at no pool size."),
        (100.0, 90.0, "igds: by these bounds it costs less than loss at no pool size."),
    ],
)
def test_features_have_paid_for_themselves_from_some_size_on(
    planted: Finished, identify: float, score: float, said: str
) -> None:
    found = with_facts(planted, "loss", cost={"identify": 0.0, "score": 60.0, "rows": 15.0})
    own = {"identify": identify, "score": score, "rows": 20.0}
    found = with_facts(found, "igds", cost=own)
    assert break_even(found, arms(found)) == [f"- {said}"]
    assert said in comparison(found, arms(found))
    few = replace(planted.plan.config, intervene=Intervene(controls=0))
    unsure = replace(found, plan=replace(planted.plan, config=few))
    (text,) = break_even(unsure, arms(unsure))
    assert text.startswith(f"- {said}\n") and text.endswith("are not in it.")
    apart = {cell: one for cell, one in found.results.items() if cell.arm != "loss"}
    assert break_even(replace(found, results=apart), arms(replace(found, results=apart))) == []


def test_the_time_that_selecting_took_is_shown_where_a_cell_knows_it(planted: Finished) -> None:
    none = cost_table(planted, arms(planted))
    assert "took |" not in none and "Finding took" not in none
    assert "| 100 | 10 | 1 min 01 s |" in none
    seconds = {"finetune": 61.0, "identify": 100.0, "score": 7.5}
    some = with_facts(planted, "igds", seconds=seconds)
    some = with_facts(some, "random", seconds={"finetune": 61.0, "identify": 0.0})
    table = cost_table(some, arms(some)).splitlines()
    assert "| to score | finding took | scoring took | both took | training |" in table[0]
    ends = {line.split(" | ")[0].strip("| "): line.split(" | ")[-4:] for line in table[2:5]}
    assert ends == {
        "igds": ["1 min 40 s", "7.5 s", "1 min 48 s", "1 min 01 s |"],
        "random": ["0.0 s", "n/a", "n/a", "1 min 01 s |"],
        "loss": ["n/a", "n/a", "n/a", "1 min 01 s |"],
    }
    assert "in one pass each show all of it" in table[-1]


def test_the_page_says_how_responses_were_generated(planted: Finished) -> None:
    assert "Generated responses" not in comparison(planted, [])
    plan = planted.plan
    greedy = Evaluate(max_new_tokens=1024)
    sampled = Evaluate(samples=16, temperature=0.8, top_p=0.95, max_new_tokens=64, shots=4)

    def page(**variants: Evaluate) -> str:
        configs = {
            None if name == "none" else name: replace(plan.config, evaluate=settings)
            for name, settings in variants.items()
        }
        return comparison(replace(planted, plan=replace(plan, variants=configs)), [])

    first = "1 a prompt, greedy, at most 1,024 tokens, 0-shot"
    second = "16 a prompt, temperature 0.8, top-p 0.95, at most 64 tokens, 4-shot"
    assert f"\n\nGenerated responses: {first}.\n\n" in page(none=greedy, same=greedy)
    both = page(none=greedy, hot=sampled, off=Evaluate(generate=False), warm=sampled)
    assert f"responses: {first}.\n\nGenerated responses of hot, warm: {second}.\n\n" in both
