"""An experiment takes what a run of its name has made."""

from __future__ import annotations

import json
from pathlib import Path

from test_experiment import with_experiment

from igds import pipeline
from igds.config.load import load_config
from igds.experiments.run import run_experiment
from igds.progress import SilentProgress

ONE = """experiment:
  grid:
    - arms: [igds]
      budget: {rows: 12}
"""


def test_stages_of_the_run_of_its_name(project: Path) -> None:
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
