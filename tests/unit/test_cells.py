"""The cells of a grid, their names, runs in common and identities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from igds.config.experiment import Contrast, Experiment, Grid
from igds.config.inputs import SAE, Data, Model, Source
from igds.config.schema import Config, Intervene, Recall
from igds.config.scoring import Budget
from igds.config.training import Evaluate, Finetune
from igds.errors import RequestError
from igds.experiments.cells import budget_label, cell_identity, comparable, plan_cells

RATIO = Budget(ratio=Decimal("0.5"))
ROWS = (Source(path="rows.jsonl"),)


def config(*grid: Grid, **changes: object) -> Config:
    experiment = Experiment(
        grid=grid,
        variants={
            "other": "--saes.0.path other",
            "fast": "--finetune.learning-rate 1e-3",
            "late": "--recall.min-frequency 0.9",
            "norecall": "--recall.candidates random",
            "x": "",
            "bare": "--data.control []",
            "spread": "--select.diversity.column rds",
        },
    )
    made = Config(
        name="tried",
        model=Model(id="model"),
        saes=(SAE(path="sae"),),
        data=Data(prior=ROWS, validation=ROWS, control=ROWS, pool=ROWS, test=ROWS),
        recall=Recall(),
        intervene=Intervene(),
        finetune=Finetune(),
        evaluate=Evaluate(generate=False),
        experiment=experiment,
    )
    return replace(made, **changes)


def names(*grid: Grid) -> list[str]:
    return [cell.name for cell in plan_cells(config(*grid)).cells]


def test_the_first_seed_of_every_arm_comes_first() -> None:
    first = Grid(arms=("original", "igds", "random"), seeds=2)
    second = Grid(arms=("igds", "full"), budget=RATIO)
    assert names(first, second) == [
        "original", "igds_0.2_s0", "random_0.2_s0", "igds_0.5_s0", "full_s0", "igds_0.2_s1",
        "random_0.2_s1",
    ]  # fmt: skip


def test_full_and_original_are_trained_once_whatever_the_budgets() -> None:
    first, second = (
        Grid(arms=("original", "full"), budget=budget, seeds=seeds)
        for budget, seeds in ((RATIO, 1), (Budget(rows=3), 2))
    )
    assert names(first, second) == ["original", "full_s0", "full_s1"]


@pytest.mark.parametrize(
    ("budget", "label"),
    [
        (Budget(ratio=Decimal("0.20")), "0.2"),
        (Budget(rows=300), "300rows"),
        (Budget(tokens=5), "5tokens"),
    ],
)
def test_budgets_in_a_word(budget: Budget, label: str) -> None:
    assert budget_label(budget) == label


def test_seeds_are_trainings_and_draws() -> None:
    plan = plan_cells(config(Grid(arms=("random", "igds", "random-matched"), seeds=3), seed=7))
    made = {cell.name: plan.cell_config(cell) for cell in plan.cells}
    assert made["random_0.2_s2"].seed == 9 and made["igds_0.2_s0"].seed == 7
    methods = {name: one.select.method for name, one in made.items() if one.select}
    assert methods["random_0.2_s0"] == "random" and methods["random_0.2_s2"] == "random-3"
    assert methods["random-matched_0.2_s1"] == "random-matched-2"
    assert methods["igds_0.2_s2"] == "igds"
    score = plan.shared["shared"].score
    assert score is not None
    assert set(score.methods) == {"random", "random-2", "random-3", "igds"}


def test_variants_share_what_is_the_same() -> None:
    plan = plan_cells(config(Grid(arms=("igds@fast", "igds", "igds@other", "length@late"))))
    assert plan.shared_of == {
        None: "shared", "fast": "shared", "other": "shared-other", "late": "shared-late",
    }  # fmt: skip
    assert [sae.path for sae in plan.shared["shared-other"].saes] == ["other"]
    fast = next(cell for cell in plan.cells if cell.arm == "igds@fast")
    made = plan.cell_config(fast)
    assert made.finetune is not None and made.finetune.learning_rate == 1e-3
    assert made.name == "shared" and made.runs_dir == "runs/tried"


def test_nothing_is_recalled_for_arms_that_know_no_features() -> None:
    plain = plan_cells(config(Grid(arms=("random", "loss")))).shared["shared"]
    assert plain.recall is None and plain.intervene is None
    reading = config(Grid(arms=("random",)), evaluate=Evaluate(generate=False, activations=True))
    assert plan_cells(reading).shared["shared"].intervene is not None
    assert plan_cells(config(Grid(arms=("igds",)))).shared["shared"].recall is not None


def test_a_run_in_common_has_the_methods_of_some_cells() -> None:
    plan = plan_cells(config(Grid(arms=("original", "igds", "loss", "zip", "length@other"))))
    cells = {cell.arm: cell for cell in plan.cells}

    def methods(arms: Sequence[str], kept: Sequence[str] = ()) -> tuple[str, ...]:
        made = plan.shared_for("shared", [cells[arm] for arm in arms], kept)
        assert made.recall == plan.shared["shared"].recall is not None
        return made.score.methods if made.score else ()

    assert methods(["zip", "igds"]) == ("igds", "zip")  # in the order of all
    assert methods(["original", "length@other"]) == ()
    assert methods(["loss"], kept=["zip", "rds"]) == ("loss", "zip")


def test_a_cell_depends_on_what_makes_it_and_on_nothing_else() -> None:
    grid = Grid(arms=("random", "igds", "igds-frequency"))

    def identities(sae: str = "x", **changes: object) -> list[dict[str, object]]:
        inputs = {"contents": {}, "sae_contents": {"L1": sae}}
        plan = plan_cells(config(grid, **changes))
        return [cell_identity(plan.cell_config(cell), inputs) for cell in plan.cells]

    before = identities()
    by_recall = identities(recall=Recall(min_frequency=0.7))
    assert [a == b for a, b in zip(before, by_recall, strict=True)] == [True, False, False]
    by_sae = identities(sae="y")
    assert [a == b for a, b in zip(before, by_sae, strict=True)] == [True, False, False]
    by_path = identities(saes=(SAE(path="another"),))  # seen without a look at the weights
    assert [a == b for a, b in zip(before, by_path, strict=True)] == [True, False, False]
    by_delta = identities(intervene=Intervene(top_k=2))
    assert [a == b for a, b in zip(before, by_delta, strict=True)] == [True, False, True]
    by_rate = identities(finetune=Finetune(learning_rate=1.0))
    assert not any(a == b for a, b in zip(before, by_rate, strict=True))
    assert before == identities(name="other", runs_dir="elsewhere")
    elsewhere = Finetune(device_batch=2, checkpoint_steps=7, trackers=("wandb",))
    by_layout = identities(finetune=elsewhere)  # kept in the record, and not compared
    assert not any(a == b for a, b in zip(before, by_layout, strict=True))
    assert [comparable(one) for one in by_layout] == before
    for kept in (by_rate, identities(finetune=Finetune(processes=2))):
        assert [comparable(one) for one in kept] == kept
    mixed = Data(prior=ROWS, validation=ROWS, control=ROWS, pool=ROWS, test=ROWS, pool_kind="mixed")
    assert not any(a == b for a, b in zip(before, identities(data=mixed), strict=True))


def test_settings_at_their_defaults_are_no_part_of_an_identity() -> None:
    plan = plan_cells(config(Grid(arms=("random",))))
    found = cell_identity(plan.cell_config(plan.cells[0]), {})
    assert found["finetune"] == {} and found["evaluate"] == {"generate": False}
    assert found["select"] == {"method": "random"}


def test_the_whole_pool_has_no_quota() -> None:
    pool = (replace(ROWS[0], quota=Decimal(1)),)
    data = Data(prior=ROWS, validation=ROWS, control=ROWS, pool=pool, test=ROWS)
    plan = plan_cells(config(Grid(arms=("full", "random")), data=data))
    quotas = {c.arm: plan.cell_config(c).data.pool[0].quota for c in plan.cells}
    assert quotas == {"full": None, "random": Decimal(1)}


def test_cells_that_need_a_run_of_their_own_come_last() -> None:
    plan = plan_cells(config(Grid(arms=("igds@other", "igds@fast", "igds"), seeds=2)))
    assert [cell.name for cell in plan.cells][-2:] == ["igds@other_0.2_s0", "igds@other_0.2_s1"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [("--name x", "changes name"), ("--experiment.primary comet", "changes experiment"),
     ("--finetune.engine axolotl", "finetune.engine to trl")],
)  # fmt: skip
def test_variants_that_would_be_half_honoured_are_refused(words: str, problem: str) -> None:
    made = config(Grid(arms=("igds@x",)))
    assert made.experiment is not None
    with pytest.raises(RequestError, match=problem):
        plan_cells(replace(made, experiment=replace(made.experiment, variants={"x": words})))


def test_a_primary_metric_that_is_not_measured_is_refused() -> None:
    made = config(Grid(arms=("igds",)))
    assert made.experiment is not None
    with pytest.raises(RequestError, match=r"primary is 'task_score'.*logprob, logprob_answer"):
        plan_cells(replace(made, experiment=replace(made.experiment, primary="task_score")))
    asked = replace(made, evaluate=Evaluate(generate=False, lm_eval=("mmlu",)))
    for primary in ("mmlu", "mmluu: acc"):
        with pytest.raises(RequestError, match="it measures .*mmlu: <metric>"):
            plan_cells(replace(asked, experiment=replace(made.experiment, primary=primary)))
    plan_cells(replace(asked, experiment=replace(made.experiment, primary="mmlu: acc")))


def test_an_experiment_needs_its_sections() -> None:
    with pytest.raises(RequestError, match="needs the section finetune"):
        plan_cells(config(Grid(arms=("igds",)), finetune=None))
    with pytest.raises(RequestError, match="finetune.engine to trl"):
        plan_cells(config(Grid(arms=("igds",)), finetune=Finetune(engine="axolotl")))


def test_a_contrast_of_an_arm_with_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="with itself"):
        Grid(arms=("igds",), contrasts=(Contrast(arm="igds", against="igds"),))
    with pytest.raises(ValueError, match="published names 'full'"):
        Grid(arms=("igds",), published={"full": 1.0})


def test_random_candidates_are_another_run_and_vectors_of_a_method_another_score() -> None:
    plan = plan_cells(config(Grid(arms=("igds", "igds@norecall", "igds@spread", "random@spread"))))
    assert [name for name in plan.shared if "norecall" in name] == ["shared-norecall"]
    assert plan.shared["shared-norecall"].recall == Recall(candidates="random")
    assert plan.shared["shared"].recall == Recall()
    scored = {name: made.score.methods for name, made in plan.shared.items()}
    assert scored == {"shared": ("igds", "rds", "random"), "shared-norecall": ("igds",)}
    for cell in plan.cells:
        made = plan.cell_config(cell)
        made.check_stages(["select"])
        assert (made.select.diversity is not None) == ("spread" in cell.arm)


def test_a_variant_without_what_its_methods_need_is_refused_before_any_work() -> None:
    plan_cells(config(Grid(arms=("cosine", "random@x"))))
    with pytest.raises(ValueError, match=r"score needs the section data.control \(for cosine\)"):
        plan_cells(config(Grid(arms=("igds", "cosine@bare"))))
    with pytest.raises(ValueError, match="score needs the section intervene"):
        plan_cells(config(Grid(arms=("igds",)), intervene=None))
