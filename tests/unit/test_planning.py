"""The plan's arithmetic, by hand."""

from dataclasses import replace

import pytest

from igds.config.inputs import SAE, Data, Model, Source
from igds.config.schema import Config, Intervene, Recall, Score
from igds.config.scoring import Budget, Select
from igds.config.training import Evaluate, Finetune, Lora
from igds.models.sizes import Sizes
from igds.planning.costs import forward_equivalents, stage_costs
from igds.planning.sets import SetTokens
from igds.planning.table import in_words
from igds.planning.training import Trainings, of_run, training_costs

SIZES = Sizes(
    n_blocks=10, block_parameters=100, head_parameters=50, d_model=8, vocab=20, bytes_a_weight=4
)
SETS = {
    "prior": SetTokens(rows=10, prompt=200),
    "control": SetTokens(rows=5, prompt=50),
    "validation": SetTokens(rows=20, prompt=400, response=200),
    "pool": SetTokens(rows=1000, prompt=30_000, response=9_000),
}
SETTINGS = Intervene(
    screen_rows=4, order_rows=5, confirm_rows=6, screen_keep=3, screen_check=1, exact_keep=3,
    confirm_n=2, controls=19, top_k=1,
)  # fmt: skip


def config(**sections):
    source = (Source(path="rows.jsonl"),)
    data = Data(prior=source, validation=source, pool=source)
    return Config(
        name="run", model=Model(id="m"), saes=(SAE(path="a"), SAE(path="b")), data=data, **sections
    )


def test_responses_are_read_once_for_all_methods_and_again_without_their_prompts():
    def cost(*methods):
        given = config(score=Score(methods=methods))
        return {one.step: one for one in stage_costs(given, SIZES, SETS, {2: 64, 5: 32})}

    assert "score: responses" not in cost("igds", "length")
    blocks, head = SIZES.n_blocks * SIZES.block_parameters, SIZES.head_parameters
    once = cost("loss")["score: responses"]
    assert (once.tokens, once.multiply_adds) == (39_000, 39_000 * blocks + 9_000 * head)
    queried = cost("loss", "rds")["score: responses"]  # the prior prompts too
    assert (queried.tokens, queried.multiply_adds) == (39_200, 39_200 * blocks + 9_000 * head)
    twice = cost("loss", "ifd", "superfilter")["score: responses"]
    assert (twice.tokens, twice.multiply_adds) == (48_000, 48_000 * blocks + 18_000 * head)


def test_costs_by_hand():
    whole = config(recall=Recall(), intervene=SETTINGS, score=Score())
    found = {cost.step: cost for cost in stage_costs(whole, SIZES, SETS, {2: 64, 5: 32})}
    assert list(found) == [
        "recall",
        "intervene: gradient screen on S1",
        "intervene: exact deltas on S1",
        "intervene: exact deltas on S2",
        "intervene: exact deltas on S3",
        "intervene: controls on S3",
        "intervene: neutral texts",
        "intervene: promoted tokens",
        "score",
    ]
    assert found["recall"].tokens == 650
    assert found["recall"].multiply_adds == 650 * 6 * 100
    assert found["score"].multiply_adds == 30_000 * 6 * 100
    # 20 prompt and 10 response tokens a row; a forward is 1050, of it 1000 without the head; behind
    # block 2 a token takes 700 and 50 for the head, which runs once more at t* for the KL;
    # candidates of two blocks go in two batches, each with its original
    original, edit = 10 * 1050 + 50, 10 * 750 + 50
    assert found["intervene: gradient screen on S1"].multiply_adds == 4 * (20_000 + 30 * 1050)
    one = 4 * (20_000 + 2 * original + 4 * edit)
    assert found["intervene: exact deltas on S1"].multiply_adds == one
    two = 5 * (20_000 + 2 * (2 * original + 3 * edit))
    assert found["intervene: exact deltas on S2"].multiply_adds == two
    controls = 3 * 19 + 2 + 4
    assert found["intervene: controls on S3"].multiply_adds == (
        6 * (20_000 + 2 * original + controls * edit)
    )
    assert found["intervene: promoted tokens"].multiply_adds == 3 * 50
    assert forward_equivalents(found["intervene: exact deltas on S1"], SIZES) == pytest.approx(
        one / 1050
    )
    assert found["score"].memory == (6 * 100 + 20 * 8) * 4


def test_the_papers_procedure_is_billed_by_the_feature():
    paper = config(intervene=Intervene(mode="paper", max_new_tokens=32, samples=2, temperature=0.7))
    (cost,) = stage_costs(paper, SIZES, SETS, {2: 64})
    assert cost.tokens == 20 * 2 * 2 * 32
    assert cost.multiply_adds == cost.tokens * 1050


@pytest.mark.parametrize(("temperature", "arms"), [(0.0, 3), (0.7, 2)])
def test_generated_outputs_of_the_tasks_score_are_billed(temperature, arms):
    settings = replace(SETTINGS, metric="task_score", max_new_tokens=32, temperature=temperature)
    plain, scored = (
        {cost.step: cost for cost in stage_costs(config(intervene=one), SIZES, SETS, {2: 64})}
        for one in (SETTINGS, settings)
    )
    added = {step: cost for step, cost in scored.items() if step not in plain}
    assert {step.removeprefix("intervene: generated outputs, "): c.tokens for step, c in
            added.items()} == {
        "pilot": 4 * arms * 32,
        "S2": 5 * (3 + 1) * 32,
        "S3": 6 * (2 + 1) * 32,
    }  # fmt: skip
    assert all(cost.multiply_adds == cost.tokens * 1050 for cost in added.values())
    assert {step: scored[step] for step in plain} == plain


def trained(trainings=None, **sections):
    given = config(select=Select(budget=Budget(rows=100)), **sections)
    sets = {**SETS, "test": SetTokens(rows=10, prompt=300, response=100)}
    found = training_costs(given, SIZES, sets, trainings or of_run(given))
    return {cost.step: (cost.tokens, cost.multiply_adds, cost.memory) for cost in found}


def test_training_runs_forward_once_and_backward_twice_over_the_chosen_rows():
    weights = SIZES.body + 20 * 8
    # 100 of 1,000 rows: 3,000 prompt and 900 response tokens.
    one = 3_900 * SIZES.body + 900 * SIZES.head_parameters
    assert trained(finetune=Finetune())["finetune"] == (3_900, 3 * one, 16 * weights)
    assert trained(finetune=Finetune(epochs=2.0))["finetune"] == (7_800, 6 * one, 16 * weights)
    lora = Finetune(lora=Lora(), gradient_checkpointing=True)
    assert trained(finetune=lora)["finetune"] == (3_900, 3 * one, 4 * weights)
    steps = Finetune(equal="steps", steps=5, batch=10, device_batch=5)
    assert trained(finetune=steps)["finetune"][:2] == (1_950, 1.5 * one)
    assert trained(finetune=Finetune(engine="axolotl")) == {}


def test_evaluation_is_billed_for_each_model():
    likelihood = 400 * SIZES.body + 100 * SIZES.head_parameters
    both = Evaluate(generate=False, original=True)
    assert trained(evaluate=both)["evaluate"][:2] == (400, likelihood)
    assert trained(evaluate=both, finetune=Finetune())["evaluate"][:2] == (800, 2 * likelihood)
    decoded = Evaluate(likelihood=False, max_new_tokens=7, model="elsewhere")
    expected = (300 + 70, 300 * SIZES.body + 70 * SIZES.forward)
    assert trained(evaluate=decoded)["evaluate"][:2] == expected


def test_an_experiment_is_billed_by_its_cells():
    trainings = Trainings(budgets=(Budget(tokens=3_900), None), evaluated=3, words=", 3 cells")
    found = trained(trainings, finetune=Finetune(), evaluate=Evaluate(generate=False))
    assert found["finetune, 3 cells"][0] == 3_900 + 39_000
    assert found["evaluate, 3 cells"][0] == 3 * 400


def test_absent_sections_cost_nothing():
    assert [cost.step for cost in stage_costs(config(recall=Recall()), SIZES, SETS, {2: 64})] == [
        "recall"
    ]
    assert stage_costs(config(), SIZES, SETS, {2: 64}) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89.0, "89 s"), (600.0, "10 min"), (7200.0, "2.0 h")]
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words
