"""An experiment takes what is made: by the run of its name, and by finished cells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_experiment import with_experiment

from igds import pipeline
from igds.cli.main import main
from igds.config.load import load_config
from igds.errors import RequestError
from igds.experiments.results import read_result, result_file
from igds.experiments.run import run_experiment
from igds.experiments.state import missing_cells
from igds.progress import SilentProgress

ONE = """experiment:
  grid:
    - arms: [igds]
      budget: {rows: 12}
"""


def facts_of(path: Path) -> dict[str, Any]:
    result = read_result(path)
    assert result is not None
    return result.facts


def test_stages_of_the_run_of_its_name(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = with_experiment(project) / "igds.yaml"
    path.write_text(path.read_text().partition("experiment:")[0] + ONE)
    pipeline.run(load_config(path), until="score", progress=SilentProgress())
    readings = (project / "runs" / "s3.jsonl").read_bytes()
    found = run_experiment(load_config(path), progress=SilentProgress())
    assert found.complete
    whole = project / "runs" / "tiny"
    taken = json.loads((whole / "shared" / "manifest.json").read_bytes())["taken"]
    names = ("index", "recall", "intervene", "score/igds")
    assert taken == {name: f"tiny/{name}" for name in names}
    for name in names:
        record = whole / "shared" / name / "stage.json"
        assert record.samefile(whole / name / "stage.json")
    assert (project / "runs" / "s3.jsonl").read_bytes() == readings
    shutil.rmtree(whole / "cells")  # as before the first cell
    assert main(["status", str(whole)]) == 0
    parts, run = capsys.readouterr().out.split("the run of the same name:")
    assert "in common" in parts and "shared" in parts and "finetune" not in parts
    assert "recall" in run


def test_a_grid_that_goes_on_reads_the_pool_for_missing_cells_alone(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_experiment(project) / "igds.yaml"
    grid = ONE.replace("arms: [igds]", "arms: [igds, loss, length]")
    path.write_text(path.read_text().partition("experiment:")[0] + grid)
    assert run_experiment(load_config(path), progress=SilentProgress()).complete
    whole = project / "runs" / "tiny"
    lost = result_file(whole / "results", "length_12rows_s0")
    facts = facts_of(lost)
    for gone in (("cells",), ("cells", "shared")):
        lost.unlink()
        for name in gone:
            shutil.rmtree(whole / name)
        assert main(["plan", str(path)]) == 0
        said = capsys.readouterr().out
        assert "finetune, 1 of 3 cells" in said and "evaluate, 1 of 3 cells" in said
        assert "score: responses" not in said and "intervene: exact deltas" in said
        assert run_experiment(load_config(path), progress=SilentProgress()).complete
        # What the run folder has stays on its page.
        kept = {"length"} if "shared" in gone else {"igds", "loss", "length"}
        assert {one.name for one in (whole / "shared" / "score").iterdir()} == kept
        settings = yaml.safe_load((whole / "shared" / "config.yaml").read_text())
        assert set(settings["score"]["methods"]) == kept
        for name in ("outcome", "identified"):
            assert facts[name] and facts_of(lost)[name] == facts[name]


def test_cells_count_wherever_and_however_they_trained(project: Path) -> None:
    path = with_experiment(project) / "igds.yaml"
    path.write_text(path.read_text().partition("experiment:")[0] + ONE)
    assert run_experiment(load_config(path), progress=SilentProgress()).complete
    kept = result_file(project / "runs" / "tiny" / "results", "igds_12rows_s0")
    before, first = kept.read_bytes(), read_result(kept)
    layout = ["--finetune.device-batch", "2", "--finetune.gradient-checkpointing", "true"]
    again = load_config(path, layout)
    assert run_experiment(again, progress=SilentProgress()).complete
    assert missing_cells(again)[1] == [] and kept.read_bytes() == before
    # A cell that was begun goes on; its stages are done, so no value changes.
    kept.unlink()
    assert run_experiment(again, progress=SilentProgress()).complete
    found = read_result(kept)
    assert found is not None and first is not None and found.items == first.items


def test_a_plan_of_other_settings_counts_finished_cells_again(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = with_experiment(project) / "igds.yaml"
    path.write_text(path.read_text().partition("experiment:")[0] + ONE)
    assert run_experiment(load_config(path), progress=SilentProgress()).complete
    assert main(["plan", str(path), "--finetune.learning-rate", "0.005"]) == 0
    said = capsys.readouterr().out
    assert "finetune, 1 cells" in said and "all cells are finished" not in said


def test_arms_that_need_no_feature_are_trained_where_a_variant_finds_none(project: Path) -> None:
    path = with_experiment(project) / "igds.yaml"
    variants = "  variants: {barred: --intervene.delta-min 1000}\n"
    grid = ONE.replace("arms: [igds]", "arms: [igds@barred, length@barred, igds-nofilter@barred]")
    text = path.read_text().partition("experiment:")[0] + grid + variants
    path.write_text(text)
    cell = project / "runs" / "tiny" / "cells" / "length@barred_12rows_s0"
    with pytest.raises(RequestError, match="found no task feature, whose activations"):
        run_experiment(load_config(path), progress=SilentProgress())
    assert not (cell / "finetune").exists()
    shutil.rmtree(project / "runs")
    path.write_text(text.replace("activations: true", "activations: false"))
    found = run_experiment(load_config(path), progress=SilentProgress())
    (none,) = found.unselected
    assert found.complete and none.arm == "igds@barred"
    for arm in ("igds", "length", "igds-nofilter"):
        kept = facts_of(project / "runs" / "tiny" / "results" / f"{arm}@barred_12rows_s0.parquet")
        assert kept["outcome"] == "NONE" and ("trained" in kept) == (arm != "igds")
