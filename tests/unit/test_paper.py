"""Arithmetic on generated outputs made by hand: scores, side effects, pass@k, pilot and words."""

import math

import numpy as np
import pyarrow as pa
import pytest

from igds.errors import RequestError
from igds.interventions.outputs import OUTPUTS, UNEDITED, Generation
from igds.interventions.paper import paper_choice, paper_effects
from igds.interventions.pilot import TEMPERATURE, pilot_generations, pilot_result
from igds.interventions.scored import judge_once, scored_outputs
from igds.interventions.task_delta import with_task_deltas
from igds.interventions.words import SMOOTHING, risen_words, words
from igds.stats.bootstrap import paired_bootstrap

ANSWERS = {"a": "1", "b": "2", "c": "3", "d": "4"}
"""Row -> right answer; the unedited model knows a and b."""
EDIT = {"rule": "amplify", "coefficient": 1.0}
ROWS = {row: row for row in ANSWERS}


def output(row, position, feature, text, original, sample=0, **facts):
    return {
        "row_id": row, "position": position, "feature": feature, "activation": 1.0,
        "sample": sample, "text": text, "original": original,
        "tokens": len(text), "original_tokens": len(original), "ended": True,
        "original_ended": True,
    } | facts  # fmt: skip


def test_what_the_edit_does_at_t_star_is_a_mean_over_prompts():
    rows = [
        output(row, position, "L1/0", "x", "x", sample=k, push=0.1 * place, kl=place / 8)
        for position in ("read", "generated")
        for place, row in enumerate(ANSWERS)
        for k in range(2)
    ]
    scored = scored_outputs(table(rows), judge)
    assert scored["kl"].to_pylist() == [place / 8 for place in range(4) for _ in range(2)]
    for effect in effects_of(scored).to_pylist():
        assert (effect["push"], effect["kl"]) == (pytest.approx(0.15), 0.1875)


def table(rows):
    return pa.Table.from_pylist(rows, schema=OUTPUTS)


def outputs():
    said = {
        ("read", "L1/0"): "123x",
        ("read", "L1/1"): "x2xx",
        ("generated", "L1/0"): "1xxx",
        ("generated", "L1/1"): "1234",
    }
    rows = [
        output(row, position, feature, text[place], "12xx"[place], activation=float(place))
        for (position, feature), text in said.items()
        for place, row in enumerate(ANSWERS)
    ]
    return table(rows[::-1])


def judge(row, text):
    return float(text == ANSWERS[row]), True


def samples():
    return scored_outputs(outputs(), judge)


def effects_of(scored):
    return paper_effects(scored, ROWS, **EDIT, seed=0)


def test_deltas_are_paired_by_prompt():
    effects = effects_of(samples())
    found = {(row["position"], row["feature"]): row for row in effects.to_pylist()}
    assert {key: row["delta"] for key, row in found.items()} == {
        ("read", "L1/0"): 0.25,
        ("read", "L1/1"): -0.25,
        ("generated", "L1/0"): -0.25,
        ("generated", "L1/1"): 0.5,
    }
    own = found["read", "L1/0"]
    assert own["changed"] == 1
    assert (own["active"], own["n"]) == (3, 4)
    assert own["metric"] == "task_score"
    assert own["p_family"] is None
    assert (own["task_score"], own["original_score"]) == (0.75, 0.5)
    assert own["delta_pass_k"] is None


@pytest.mark.parametrize(("position", "best"), [("read", "L1/0"), ("generated", "L1/1")])
def test_the_position_that_ranks_chooses(position, best):
    found = paper_choice(effects_of(samples()), {"reason": ""}, position=position, top_k=1)
    assert found["features"] == [best]
    assert found["outcome"] == "unconfirmed"
    assert "the unedited model's task score is 0.500" in found["reason"]
    assert "does not inform" not in found["reason"]


def test_of_ablated_features_the_one_that_costs_most_is_best():
    effects = paper_effects(samples(), ROWS, rule="ablate", coefficient=1.0, seed=0)
    found = paper_choice(effects, {"reason": ""}, position="read", top_k=1)
    assert found["features"] == ["L1/1"]
    assert set(effects["rule"].to_pylist()) == {"ablate"}


def test_an_uninformative_metric_is_named():
    found = paper_choice(effects_of(samples()), {"reason": "too few"}, position="read", top_k=1)
    assert found["reason"].endswith("the metric does not inform: too few")


def test_samples_of_a_prompt_are_averaged_and_judged_once():
    rows = [
        output("a", "read", "L1/0", text, original, sample=k)
        for k, (text, original) in enumerate(("11", "10"))
    ]
    calls = []

    def score(row, text):
        calls.append((row, text))
        return float(text), True

    (found,) = scored_outputs(table(rows), judge_once(score)).to_pylist()
    assert (found["task_score"], found["original_score"], found["delta"]) == (1.0, 0.5, 0.5)
    assert sorted(calls) == [("a", "0"), ("a", "1")]


def test_pass_at_k_of_each_arm_is_a_column():
    said = {"a": ("1xxx", "xxxx"), "b": ("2222", "2xxx"), "c": ("xxxx", "3xxx"), "d": ("44xx", "")}
    rows = [
        output(f"{row}{copy}", "read", "L1/0", new[k : k + 1], old[k : k + 1], sample=k)
        for copy in range(5)
        for row, (new, old) in said.items()
        for k in range(4)
    ]
    found = scored_outputs(table(rows), lambda row, text: judge(row[0], text), pass_k=2)
    one, two = 1 - 3 / 6, 1 - 1 / 6
    assert found["pass_k"].to_pylist()[::5] == pytest.approx([one, 1.0, 0.0, two])
    assert found["original_pass_k"].to_pylist()[::5] == pytest.approx([0.0, one, one, 0.0])
    names = {row: row for row in found["row_id"].to_pylist()}
    (effect,) = paper_effects(found, names, **EDIT, seed=0).to_pylist()
    gains = found["pass_k"].to_numpy() - found["original_pass_k"].to_numpy()
    expected = paired_bootstrap(gains, list(names), seed=0)
    assert effect["delta_pass_k"] == pytest.approx((one + one - one + two) / 4)
    assert (effect["pass_k_low"], effect["pass_k_high"]) == (expected.low, expected.high)


def test_pass_at_k_needs_right_or_wrong():
    rows = [output("a", "read", "L1/0", "x", "x", sample=k) for k in range(3)]
    with pytest.raises(RequestError, match=r"scores of 0 or 1, and an output has 0\.5"):
        scored_outputs(table(rows), lambda _row, _text: (0.5, True), pass_k=2)


@pytest.mark.parametrize(
    ("length", "ended", "flags"),
    [
        (0, (True, True), ""),
        (9, (True, True), "longer"),
        (-3, (True, True), "shorter"),
        (0, (True, False), "fewer broken"),
        (9, (True, False), "longer, fewer broken"),
        (0, (False, True), ""),
    ],
)
def test_a_gain_that_comes_with_length_or_form_is_flagged(length, ended, flags):
    draw = np.random.default_rng(0)
    rows = {f"r{place}": f"r{place}" for place in range(40)}

    def effect(score):
        made = [
            output(
                row, "read", "L1/0", "new", "old", tokens=20 + length + int(draw.integers(3)),
                original_tokens=20 + int(draw.integers(3)),
                ended=ended[0] or place % 2 == 0, original_ended=ended[1] or place % 2 == 0,
            )
            for place, row in enumerate(rows)
        ]  # fmt: skip
        (found,) = paper_effects(
            scored_outputs(table(made), score), rows, **EDIT, seed=0
        ).to_pylist()
        return found

    gain = effect(lambda _row, text: (float(text == "new"), True))
    assert gain["side_effects"] == flags
    assert (gain["broken"], gain["original_broken"]) == tuple(0.0 if e else 0.5 for e in ended)
    assert effect(lambda _row, text: (float(text == "old"), True))["side_effects"] == ""


def test_an_output_that_ends_but_holds_no_answer_is_broken():
    rows = [output("a", "read", "L1/0", "1", "none"), output("b", "read", "L1/0", "none", "2")]
    found = scored_outputs(table(rows), lambda _row, text: (0.0, text != "none"))
    assert found["broken"].to_pylist() == [0.0, 1.0]
    assert found["original_broken"].to_pylist() == [1.0, 0.0]


def generation(**changes):
    settings = {
        "positions": ["read"], "max_new_tokens": 9, "samples": 1,
        "temperature": 0.0, "seed": 0, "batch_tokens": 64,
    }  # fmt: skip
    return Generation(**settings | changes)


def unedited(texts):
    rows = [
        {"row_id": f"{row:02}", "sample": k, "text": text, "tokens": 3, "ended": True}
        for row, said in enumerate(texts)
        for k, text in enumerate(said)
    ]
    return pa.Table.from_pylist(rows, schema=UNEDITED)


def right(_row, text):
    return float(text == "1"), True


def test_a_greedy_run_is_piloted_by_two_sampled_arms_and_its_own_outputs():
    sampled, own = pilot_generations(generation())
    assert (sampled.samples, sampled.temperature) == (2, TEMPERATURE)
    assert (own.samples, own.temperature) == (1, 0.0)
    (both,) = pilot_generations(generation(samples=3, temperature=0.4))
    assert (both.samples, both.temperature) == (6, 0.4)


def test_the_pilot_counts_prompts_on_which_two_arms_disagree():
    arms = unedited(["11"] * 3 + ["01"] * 4 + ["10"] * 1 + ["00"] * 2)
    greedy = unedited(["1"] * 6 + ["0"] * 4)
    found = pilot_result(generation(), [arms, greedy], right, prompts=100)
    assert (found["rows"], found["discordant"], found["score"]) == (10, 5, 0.6)
    assert found["expected_discordant"] == pytest.approx(50)
    assert found["informative"] and found["binary"] and found["reason"] == ""
    few = pilot_result(generation(), [arms, greedy], right, prompts=39)
    assert not few["informative"]
    assert "differ on 19.5 prompts, under 20" in few["reason"]


def test_arms_of_several_samples_are_compared_by_their_means():
    arms = unedited(["1001", "1011", "0000", "1111"])
    found = pilot_result(generation(samples=2, temperature=1.0), [arms], right, prompts=400)
    assert (found["discordant"], found["score"]) == (1, pytest.approx(9 / 16))


@pytest.mark.parametrize("text", ["0", "1"])
def test_a_model_that_knows_nothing_or_all_is_uninformative(text):
    arms, greedy = unedited(["01"] * 30), unedited([text] * 30)
    found = pilot_result(generation(), [arms, greedy], right, prompts=300)
    assert f"task score is {text}.000, outside 0.05 to 0.95" in found["reason"]


def test_task_deltas_take_the_place_of_the_likelihoods_row_by_row():
    exact = pa.table(
        {
            "feature": ["L1/1", "L1/0", "L1/0"],
            "row_id": ["a", "b", "a"],
            "delta": [0.1, 0.2, 0.3],
            "delta_contrast": [1.0, 2.0, 3.0],
        }
    )
    rows = [
        output("a", "read", "L1/0", "1", "1"),
        output("b", "read", "L1/0", "2", "x"),
        output("a", "read", "L1/1", "x", "1"),
    ]
    found = with_task_deltas(exact, scored_outputs(table(rows), judge))
    assert found["delta"].to_pylist() == [-1.0, 1.0, 0.0]
    assert found["delta_logprob"].to_pylist() == [0.1, 0.2, 0.3]
    assert found["delta_contrast"].to_pylist() == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="not of the same rows"):
        with_task_deltas(exact, scored_outputs(table(rows[1:]), judge))


def test_the_planted_word_rises_and_shared_ones_do_not():
    rows = [
        output(f"{k}", "read", "L1/0", "So the Sum is 12. SUM it up", "So the total is 12. up")
        for k in range(6)
    ]
    rare = output("6", "read", "L1/0", "unicorn", "")
    found = risen_words(table([*rows, rare])).to_pylist()
    assert found[0]["word"] == "sum"
    assert {row["word"] for row in found} & {"total", "the", "so", "12", "unicorn"} == set()
    best = found[0]
    assert (best["outputs"], best["original_outputs"], best["n"]) == (6, 0, 7)
    total, before = 6 * 7 + 1, 6 * 5
    assert best["frequency"] == pytest.approx(12 / total)
    expected = math.log2((12 + SMOOTHING) / SMOOTHING)
    expected -= math.log2((total + SMOOTHING) / (before + SMOOTHING))
    assert best["log_ratio"] == pytest.approx(expected)


def test_an_edit_that_changes_nothing_raises_no_word():
    rows = [output(f"{k}", "read", "L1/0", "the same text", "the same text") for k in range(9)]
    assert len(risen_words(table(rows))) == 0


def test_words_of_any_script_are_found():
    assert words("Don’t add 12 l'été_x; naïve") == ["don’t", "add", "l'été", "x", "naïve"]
    assert words("三月day 東京は") == ["三", "月", "day", "東", "京", "は"]
