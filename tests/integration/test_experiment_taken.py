"""An experiment takes what is made: by the run of its name, and by finished cells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_experiment import with_experiment

from igds import pipeline
from igds.cli.main import main
from igds.config.load import load_config
from igds.experiments.results import result_file
from igds.experiments.run import run_experiment
from igds.progress import SilentProgress

ONE = """experiment:
  grid:
    - arms: [igds]
      budget: {rows: 12}
"""


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
    text = path.read_text().replace("activations: true", "activations: false")
    path.write_text(text.partition("experiment:")[0] + grid)
    assert run_experiment(load_config(path), progress=SilentProgress()).complete
    whole = project / "runs" / "tiny"
    for name in ("loss_12rows_s0", "length_12rows_s0"):
        result_file(whole / "results", name).unlink()
    for name in ("shared", "cells"):
        shutil.rmtree(whole / name)
    assert main(["plan", str(path)]) == 0
    said = capsys.readouterr().out
    assert "finetune, 2 of 3 cells" in said and "evaluate, 2 of 3 cells" in said
    assert "score: responses" in said and "intervene:" not in said
    assert run_experiment(load_config(path), progress=SilentProgress()).complete
    made = {stage.relative_to(whole / "shared").as_posix() for stage in whole.glob("shared/*/")}
    assert {"index", "score"} <= made and not made & {"recall", "intervene"}
    assert {scored.name for scored in (whole / "shared" / "score").iterdir()} == {"loss", "length"}
    assert main(["plan", str(path)]) == 0
    assert "all cells are finished" in capsys.readouterr().out
