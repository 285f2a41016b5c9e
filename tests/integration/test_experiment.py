"""A whole experiment on the tiny project: cells, resume, results that count as done, tables."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from tests.tiny_project import sums, write_rows

from igds import pipeline
from igds.cli.main import WRONG, main
from igds.config.load import load_config
from igds.errors import RequestError, WorkError
from igds.experiments.comparison import arms, contrasts, differences
from igds.experiments.pages import write_pages
from igds.experiments.results import read_result, result_file, selected_rows, write_result
from igds.experiments.run import run_experiment
from igds.experiments.state import finished
from igds.experiments.tables import break_even, cost_table
from igds.progress import SilentProgress
from igds.runs.folder import RunFolder
from igds.selection.tables import read_pool_scores

SECTIONS = """
finetune: {batch: 4, device_batch: 4, learning_rate: 0.01, precision: float32}
evaluate: {generate: false, activations: true}
experiment:
  variants: {folded: --score.aggregate folded, fast: --finetune.learning-rate 0.02}
  grid:
    - arms: [original, igds, random]
      budget: {rows: 12}
      seeds: 2
      contrasts: [{arm: igds, against: random}, {arm: igds, against: original}]
    - arms: [full, loss, random-matched]
      budget: {rows: 12}
    - arms: [igds, igds@folded, igds@fast]
      budget: {ratio: 0.5}
"""
CELLS = [
    "original",
    "igds_12rows_s0",
    "random_12rows_s0",
    "full_s0",
    "loss_12rows_s0",
    "random-matched_12rows_s0",
    "igds_0.5_s0",
    "igds@fast_0.5_s0",
    "igds_12rows_s1",
    "random_12rows_s1",
    "igds@folded_0.5_s0",
]


def with_experiment(project: Path) -> Path:
    """Give the tiny project test rows and an experiment."""
    write_rows(project / "test.jsonl", sums(10, 9))
    text = (project / "igds.yaml").read_text()
    text = text.replace(
        "  pool: [{path: pool.jsonl}]\n",
        "  pool: [{path: pool.jsonl}]\n  test: [{path: test.jsonl}]\n",
    )
    text = text.replace("controls: 19", "controls: 0")
    (project / "igds.yaml").write_text(text + SECTIONS)
    return project


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project whose experiment is finished."""
    from tests.tiny_project import build_project

    project = with_experiment(build_project(tmp_path_factory.mktemp("experiment")))
    run_experiment(load_config(project / "igds.yaml"), progress=SilentProgress())
    return project


@pytest.fixture
def copied_experiment(done: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished experiment, to change."""
    shutil.copytree(done, tmp_path / "project")
    return tmp_path / "project"


def results(project: Path) -> Path:
    return project / "runs" / "tiny" / "results"


def test_every_cell_has_a_result_and_no_weights(done: Path) -> None:
    found = finished(load_config(done / "igds.yaml"))
    assert [one.name for one in found.plan.cells] == CELLS
    assert set(found.results) == set(found.plan.cells)
    assert sorted(path.stem for path in results(done).iterdir()) == sorted(CELLS)
    assert not list((done / "runs" / "tiny" / "cells").rglob("*.safetensors"))


def test_cells_train_on_what_their_arm_selects(done: Path) -> None:
    folder = done / "runs" / "tiny"
    shared = folder / "shared" / "score"
    scores = {name: read_pool_scores(shared / name) for name in ("igds", "loss")}
    for name in ("igds", "loss"):
        table = RunFolder(folder / "cells" / f"{name}_12rows_s0").table("select/selection.parquet")
        chosen = table["selected"].to_numpy()
        assert chosen.sum() == 12
        kept = read_result(result_file(results(done), f"{name}_12rows_s0"))
        assert kept is not None and (selected_rows(kept) == chosen).all()
        assert scores[name][chosen].min() >= np.nanmax(scores[name][~chosen])
    draws = [
        RunFolder(folder / "cells" / f"random_12rows_s{seed}").table("select/selection.parquet")
        for seed in (0, 1)
    ]
    assert draws[0]["selected"] != draws[1]["selected"]
    full = read_result(result_file(results(done), "full_s0"))
    assert full is not None and full.facts["trained"]["rows"] == 60


def test_cells_know_how_long_features_and_scores_took(done: Path) -> None:
    shared = RunFolder(done / "runs" / "tiny" / "shared")
    stages = shared.manifest()["stages"]
    finding = stages["recall"]["seconds"] + stages["intervene"]["seconds"]
    scored = {one["method"]: one for one in shared.events() if one["event"] == "method_scored"}
    for cell in ("igds_12rows", "random-matched_12rows", "loss_12rows", "igds@folded_0.5"):
        kept = read_result(result_file(results(done), f"{cell}_s0"))
        assert kept is not None
        seconds, one = kept.facts["seconds"], scored["loss" if "loss" in cell else "igds"]
        if "@" not in cell:  # whose scores are its own
            assert seconds["score"] == pytest.approx(one["seconds"] + one["pass_seconds"])
            assert seconds["score"] > 0
        assert seconds["identify"] == (0.0 if "loss" in cell else pytest.approx(finding))
    found = finished(load_config(done / "igds.yaml"))
    assert "| finding took | scoring took | both took |" in cost_table(found, arms(found))
    original = read_result(result_file(results(done), "original"))
    assert original is not None and set(original.facts["seconds"]) == {"evaluate"}


def test_seeds_train_apart_and_the_original_is_what_gains_are_over(done: Path) -> None:
    found = finished(load_config(done / "igds.yaml"))
    by_name = {one.name: result for one, result in found.results.items()}
    first, second = (by_name[f"igds_12rows_s{seed}"].items for seed in (0, 1))
    assert first["item"] == second["item"] and first["value"] != second["value"]
    shown = {(arm.arm, arm.budget): arm for arm in arms(found)}
    own = shown["igds", "12rows"]
    assert own.wanted == len(own.cells) == 2
    gain = own.gain["logprob"].interval.mean
    original = shown["original", ""].means["logprob"].interval.mean
    assert gain == pytest.approx(own.means["logprob"].interval.mean - original)
    assert shown["igds", "0.5"].means["logprob"].seeds == 1
    assert own.means["feature_activation"].items == 10
    assert set(own.over_random) == set(own.means)
    assert shown["full", ""].over_random == {}


def test_contrasts_are_the_mean_differences_of_paired_cells(done: Path) -> None:
    found = finished(load_config(done / "igds.yaml"))
    tested = contrasts(found)
    assert [(one.arm, one.against) for one in tested] == [("igds", "random"), ("igds", "original")]
    by_name = {one.name: result.items for one, result in found.results.items()}

    def mean(name: str) -> float:
        items = by_name[name].filter(pc.equal(by_name[name]["metric"], "logprob"))
        return pc.mean(items["value"]).as_py()

    by_hand = np.mean([mean(f"igds_12rows_s{s}") - mean(f"random_12rows_s{s}") for s in (0, 1)])
    assert tested[0].difference.interval.mean == pytest.approx(by_hand)
    assert tested[1].difference.seeds == 2  # the original stands beside both
    first, second = sorted(tested, key=lambda one: one.difference.p)
    assert first.adjusted == pytest.approx(min(1, 2 * first.difference.p))
    assert second.adjusted == pytest.approx(max(first.adjusted, second.difference.p))


def test_status_shows_what_is_in_common_and_every_cell(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(done / "runs" / "tiny")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["igds_12rows_s0", "done", "done", "done"] in lines
    assert ["original", "missing", "missing", "done"] in lines
    assert ["shared", "report", "done", "UNCONFIRMED"] in lines


def test_the_plan_bills_training_by_the_cell_and_goes_on_from_its_index(
    copied_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied_experiment / "runs" / "tiny" / "shared" / "index" / "stage.json").stat()
    assert main(["plan", str(copied_experiment / "igds.yaml")]) == 0
    said = capsys.readouterr().out
    assert "finetune, 11 cells" in said and "evaluate, 11 cells" in said
    assert "all cells are finished" in said
    assert "1 variant(s) with other SAEs, rows or settings make" in said.replace("\n", " ")
    after = (copied_experiment / "runs" / "tiny" / "shared" / "index" / "stage.json").stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    assert not (copied_experiment / "runs" / "tiny" / "index").exists()


def test_a_variant_of_what_follows_the_scores_shares_them(done: Path) -> None:
    folders = {path.name for path in (done / "runs" / "tiny").iterdir() if path.is_dir()}
    assert {"shared", "shared-folded", "cells", "results"} <= folders
    assert "shared-fast" not in folders
    fast = read_result(result_file(results(done), "igds@fast_0.5_s0"))
    plain = read_result(result_file(results(done), "igds_0.5_s0"))
    assert fast is not None and plain is not None
    assert fast.identity["finetune"]["learning_rate"] == 0.02
    assert fast.items["value"] != plain.items["value"]


def test_a_variant_takes_the_stages_that_it_does_not_change(done: Path) -> None:
    plain, folded = (done / "runs" / "tiny" / name for name in ("shared", "shared-folded"))
    for stage in ("index", "recall", "intervene", "score/igds"):
        same = [
            path.samefile(folded / path.relative_to(plain)) for path in (plain / stage).glob("*.*")
        ]
        assert same and set(same) == {stage != "score/igds"}


def test_the_page_has_every_arm_and_both_figures(done: Path) -> None:
    found, page = write_pages(load_config(done / "igds.yaml"))
    text = page.read_text()
    for arm in ("original", "full", "igds@folded", "random-matched", "loss"):
        assert f"| {arm} |" in text
    assert "### Declared contrasts" in text and "cells are finished" not in text
    for name in ("ratio.svg", "activation.svg"):
        assert f"({name})" in text
        assert (found.folder / name).read_text().startswith("<?xml")
    again = {name: (found.folder / name).read_bytes() for name in ("ratio.svg", "comparison.md")}
    write_pages(load_config(done / "igds.yaml"))
    assert again == {name: (found.folder / name).read_bytes() for name in again}
    assert any("than loss" in line for line in break_even(found, arms(found)))


def test_results_alone_count_as_done(
    copied_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied_experiment / "runs" / "tiny"
    kept = results(copied_experiment).rename(copied_experiment / "kept")
    shutil.rmtree(folder)
    config = str(copied_experiment / "igds.yaml")
    assert main(["experiment", config, "--experiment.results", "kept"]) == 0
    assert "cells: 11 of 11 are finished" in capsys.readouterr().out
    assert not (folder / "shared").exists() and len(list(kept.iterdir())) == 11
    for part in ("model", "saes", "pool.jsonl"):  # tables need none of them
        (copied_experiment / part).rename(copied_experiment / f"away-{part}")
    before = (folder / "comparison.md").read_text()
    assert main(["experiment", config, "--tables", "--experiment.results", "kept"]) == 0
    assert (folder / "comparison.md").read_text() == before
    assert "missing:" not in capsys.readouterr().out
    (kept / "loss_12rows_s0.parquet").unlink()
    assert main(["experiment", config, "--tables", "--experiment.results", "kept"]) == 0
    assert "missing: loss_12rows_s0\n" in capsys.readouterr().out


def test_a_killed_grid_goes_on_without_repeating_cells(
    copied_experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = load_config(copied_experiment / "igds.yaml")
    names = ("igds_12rows_s1", "random_12rows_s1")
    for name in names:
        result_file(results(copied_experiment), name).unlink()
        shutil.rmtree(copied_experiment / "runs" / "tiny" / "cells" / name)
    before = {path: path.stat().st_mtime_ns for path in results(copied_experiment).iterdir()}
    ran: list[str] = []
    run_cell = pipeline.run_cell

    def dies_in_the_second(cell_file, folder, **options):
        ran.append(folder.path.name)
        if len(ran) == 2:
            raise WorkError("no more")
        run_cell(cell_file, folder, **options)

    monkeypatch.setattr(pipeline, "run_cell", dies_in_the_second)
    with pytest.raises(WorkError):
        run_experiment(file, progress=SilentProgress())
    assert len(finished(file).results) == 10
    monkeypatch.setattr(pipeline, "run_cell", run_cell)
    found = run_experiment(file, progress=SilentProgress())
    assert len(found.results) == 11
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_lost_result_is_taken_from_its_cell(copied_experiment: Path) -> None:
    path = result_file(results(copied_experiment), "igds_12rows_s0")
    before = read_result(path)
    path.unlink()
    run_experiment(load_config(copied_experiment / "igds.yaml"), progress=SilentProgress())
    after = read_result(path)
    assert before is not None and after is not None
    assert after.items == before.items and after.identity == before.identity


def test_results_of_other_settings_are_refused_and_replaced_on_demand(
    copied_experiment: Path,
) -> None:
    config = copied_experiment / "igds.yaml"
    text = config.read_text()
    start, end = text.index("  grid:"), text.index("    - arms: [full")
    config.write_text(text[:start] + text[start:end])  # fewer cells are made again
    changed = load_config(config, ["--finetune.learning-rate", "0.005"])
    with pytest.raises(RequestError, match=r"finetune.learning_rate: 0.01 on disk, 0.005 asked"):
        run_experiment(changed, progress=SilentProgress())
    assert len(finished(load_config(config)).results) == 5
    before = read_result(result_file(results(copied_experiment), "igds_12rows_s0"))
    left_over = copied_experiment / "runs/tiny/cells/igds_12rows_s0/left_over"
    left_over.mkdir()
    found = run_experiment(changed, overwrite=True, progress=SilentProgress())
    after = read_result(result_file(results(copied_experiment), "igds_12rows_s0"))
    assert before is not None and after is not None and len(found.results) == 5
    assert after.identity["finetune"]["learning_rate"] == 0.005
    assert after.items["value"] != before.items["value"] and not left_over.exists()


def test_another_pool_makes_other_cells(copied_experiment: Path) -> None:
    write_rows(copied_experiment / "pool.jsonl", sums(60, 77))
    file = load_config(copied_experiment / "igds.yaml")
    result_file(results(copied_experiment), "loss_12rows_s0").unlink()
    with pytest.raises(RequestError, match=r"contents.pool.0.files.0.sha256"):
        run_experiment(file, progress=SilentProgress())
    assert len(finished(file).results) == 10  # its tables are of the cells as they are


def test_cells_of_other_saes_are_not_put_in_one_table_and_can_be_made_again(
    copied_experiment: Path,
) -> None:
    file = load_config(copied_experiment / "igds.yaml")
    path = result_file(results(copied_experiment), "igds_12rows_s1")
    kept = read_result(path)
    assert kept is not None
    write_result(path, replace(kept, identity={**kept.identity, "sae_contents": {"L1": "other"}}))
    with pytest.raises(RequestError, match=r"and igds_12rows_s1 differ in their sae_contents"):
        finished(file)
    found = run_experiment(file, overwrite=True, progress=SilentProgress())
    after = read_result(path)
    assert found.complete and after
    assert (after.identity, after.items) == (kept.identity, kept.items)


def test_test_rows_without_responses_are_refused_once_they_are_indexed(
    copied_experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"question": row["question"]} for row in sums(10, 9)]
    write_rows(copied_experiment / "test.jsonl", rows)
    config = str(copied_experiment / "igds.yaml")
    assert main(["experiment", config, "--name", "unanswered"]) == WRONG
    assert "data.test: no row can be judged" in capsys.readouterr().err
    shared = {path.name for path in (copied_experiment / "runs/unanswered/shared").iterdir()}
    assert "index" in shared and not shared & {"recall", "recall.part"}


def test_draws_of_stand_ins_that_there_are_not_have_no_selection(copied_experiment: Path) -> None:
    config = copied_experiment / "igds.yaml"
    more = "    - {arms: [igds-matched], budget: {rows: 12}, seeds: 5}\n"
    config.write_text(config.read_text() + more)
    file = load_config(config)
    found = run_experiment(file, progress=SilentProgress())
    made = [cell.seed for cell in found.results if cell.arm == "igds-matched"]
    lacking = [cell.seed for cell in found.unselected]
    assert made and lacking and sorted([*made, *lacking]) == [0, 1, 2, 3, 4]
    assert min(lacking) > max(made) and found.complete
    assert set(found.unselected.values()) == {"too few features resemble the task features"}
    assert f"igds-matched_12rows_s{lacking[0]}" in write_pages(file)[1].read_text()


def test_a_file_that_is_no_result_is_named(copied_experiment: Path) -> None:
    path = result_file(results(copied_experiment), "original")
    path.write_bytes(b"PAR1 not so")
    with pytest.raises(RequestError, match="original.parquet is no result"):
        finished(load_config(copied_experiment / "igds.yaml"))


def test_differences_leave_out_cells_that_are_not_there(done: Path) -> None:
    found = finished(load_config(done / "igds.yaml"))
    ours = [one for one in found.plan.cells if one.name.startswith("igds_12rows")]
    theirs = [one for one in found.plan.cells if one.name.startswith("random_12rows")]
    kept = {one: result for one, result in found.results.items() if one != ours[0]}
    partial = differences(replace(found, results=kept), ours, theirs)["logprob"]
    second = differences(found, ours[1:], theirs[1:])["logprob"]
    assert partial.interval.mean == pytest.approx(second.interval.mean)
    assert partial.seeds == 1


def test_an_arm_for_which_no_feature_is_found_has_no_selection(copied_experiment: Path) -> None:
    config = copied_experiment / "igds.yaml"
    text = config.read_text()
    text = text.replace("fast: --fine", "barred: --intervene.delta-min 1000, fast: --fine")
    config.write_text(text + "    - {arms: [igds@barred], budget: {rows: 12}}\n")
    file = load_config(config)
    found = run_experiment(file, progress=SilentProgress())
    (barred,) = found.unselected
    assert barred.name == "igds@barred_12rows_s0" and found.done == len(CELLS) + 1
    path = result_file(results(copied_experiment), barred.name)
    kept = read_result(path)
    assert kept is not None and kept.facts["identified"]["features"] == []
    assert not len(kept.items) and "igds@barred" not in {arm.arm for arm in arms(found)}
    said = "**No selection**: igds@barred_12rows_s0, as interventions found no feature."
    assert said in write_pages(file)[1].read_text()
    written = path.stat().st_mtime_ns
    assert run_experiment(file, progress=SilentProgress()).unselected == found.unselected
    assert path.stat().st_mtime_ns == written
    assert kept.facts["outcome"] == "NONE"
