"""The benchmark's worlds hold what they claim, and what it counts is what was confirmed."""

import numpy as np
import pytest
import torch

import planted_truth
from _planted import (
    COPY,
    FORMAT,
    HARMFUL,
    HELPFUL,
    NULLS,
    byte_tokenizer,
    drawn_rows,
    planted_model,
    planted_sae,
)
from igds.features import FeatureId
from igds.interventions.examples import make_examples
from igds.interventions.rules import Edit
from igds.interventions.samples import exact_samples


@pytest.fixture(scope="module")
def deltas():
    """Feature -> deltas, contrasts and deltas of later tokens on 300 rows of one world."""
    draw, tokenizer, rows = torch.Generator().manual_seed(4), byte_tokenizer(), 300
    model = planted_model(tokenizer, draw).requires_grad_(False)
    saes = [planted_sae(layer, draw) for layer in (1, 2)]
    drawn = drawn_rows(rows, draw)
    prompts = [tokenizer(f"{row['question']}\nSay:").input_ids for row in drawn]
    answers = [tokenizer(f" {row['answer']}", add_special_tokens=False).input_ids for row in drawn]
    examples = make_examples([str(row) for row in range(rows)], prompts, answers)
    features = [FeatureId(1, index) for index in range(3 + NULLS)]
    features += [FeatureId(2, index) for index in range(1 + NULLS)]
    table = exact_samples(
        model, saes, features, examples, edit=Edit(), batch_tokens=4096, contrast=True
    )
    names = np.array(table["feature"].to_pylist())
    columns = ("delta", "delta_contrast", "delta_without_first_5")
    return {
        str(feature): {c: table[c].to_numpy()[names == str(feature)] for c in columns}
        for feature in features
    }


def certainty(values):
    return values.mean() / values.std(ddof=1) * np.sqrt(len(values))


def test_planted_features_do_what_they_are_named_for(deltas):
    for name in (HELPFUL, COPY):
        assert all(certainty(values) > 2 for values in deltas[name].values())
    assert deltas[COPY]["delta"] == pytest.approx(deltas[HELPFUL]["delta"], abs=5e-4)
    helpful = deltas[HELPFUL]["delta"]
    assert helpful.mean() / helpful.std(ddof=1) == pytest.approx(0.5, abs=0.15)
    assert certainty(deltas[HARMFUL]["delta"]) < -2
    assert certainty(deltas[FORMAT]["delta"]) > 10
    for column in ("delta_contrast", "delta_without_first_5"):
        assert abs(deltas[FORMAT][column]).max() < 1e-6


def test_nulls_have_the_helpful_features_deviation_about_a_mean_of_0(deltas):
    nulls = [
        d["delta"] for name, d in deltas.items() if name not in (HELPFUL, COPY, HARMFUL, FORMAT)
    ]
    assert len(nulls) == 2 * NULLS >= planted_truth.LEAST_NULLS
    ratio = [values.std() / deltas[HELPFUL]["delta"].std() for values in nulls]
    assert 0.67 < np.median(ratio) < 1.5 and min(ratio) > 0.2
    # given the prompts, nulls are independent draws: the mean of their t has this standard error
    found = np.array([certainty(values) for values in nulls])
    assert abs(found.mean()) < 2 * found.std(ddof=1) / np.sqrt(len(found))
    assert 0.5 < found.std() < 1.5


def test_a_simulated_run_counts_what_is_confirmed_beside_the_pair():
    found = planted_truth.one_run(1, 1.0)
    assert (found.helpful, found.false) == (True, False) and found.covered is not None
    assert not planted_truth.one_run(1, 0.0).helpful
    world = planted_truth.World(1, 1.0)
    outcome = world.run()
    # the copy is like the helpful feature; were the pair not helpful, it would be a false one
    assert outcome.task_features["confirmed"] in ([HELPFUL], [COPY])
    given = (outcome.task_features, outcome.effects)
    assert planted_truth.judged(*given, set()) == {"helpful": False, "false": True}
    # confirmed at the level of K = 1 counts even where K = 10 confirmed nothing
    nothing = {"confirmed": []}
    assert planted_truth.judged(nothing, outcome.effects, set())["false"]


def test_each_limit_can_be_missed():
    good = {
        "false_no_signal": 0.05,
        "false_signal": 0.05,
        "power_050": 0.95,
        "coverage": 0.95,
        "end_to_end_runs": 20,
        "end_to_end_false": 0.1,
        "end_to_end_found": 0.95,
        "end_to_end_nulls": 44,
    }
    assert planted_truth.met(good)
    bad = {"false_no_signal": 0.08, "false_signal": 0.08, "power_050": 0.89, "coverage": 0.99}
    bad |= {"end_to_end_false": 0.2, "end_to_end_nulls": 39}
    assert not any(planted_truth.met({**good, name: value}) for name, value in bad.items())
