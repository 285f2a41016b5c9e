"""An experiment takes what a run of its name has made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from test_experiment import with_experiment

from igds import pipeline
from igds.cli.main import main
from igds.config.load import load_config
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
