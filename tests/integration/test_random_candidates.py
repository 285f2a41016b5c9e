"""`recall.candidates: random` on the planted project: the whole funnel over features drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from tests.planted_project import build_planted

import igds
from igds.errors import RequestError
from igds.pipeline import Run
from igds.progress import SilentProgress

RANDOM = ("--recall.candidates", "random", "--report", "{}")
HIT, MISS = 37, 0
"""A seed that draws the helpful feature, the harmful one and three that are never active; and one
that draws none but such."""
DRAWN = {HIT: [0, 1, 21, 28, 42], MISS: [8, 33, 39, 43, 46]}


def run(project: Path, *words: str, **options) -> Run:
    file = igds.load_config(project / "igds.yaml", words)
    return igds.run(file, **{"progress": SilentProgress(), **options})


def outcome(found: Run) -> dict:
    return json.loads((found.folder.path / "intervene" / "task_features.json").read_bytes())


def names(indices: list[int]) -> set[str]:
    return {f"L1/{index}" for index in indices}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a project of each: features recalled, drawn with a hit, drawn without."""
    found = {}
    for name, seed, words in (
        ("recalled", HIT, ("--report", "{}")),
        ("hit", HIT, RANDOM),
        ("miss", MISS, RANDOM),
    ):
        found[name] = build_planted(tmp_path_factory.mktemp(name))
        run(found[name], "--seed", str(seed), *words)
    return found


def result(project: Path) -> Run:
    from igds.runs.folder import RunFolder

    return Run(RunFolder(project / "runs" / "planted"))


@pytest.mark.parametrize(("name", "seed"), [("hit", HIT), ("miss", MISS)])
def test_the_features_drawn_are_those_that_interventions_measure(projects, name, seed) -> None:
    found = result(projects[name])
    table = found.features.filter(found.features["recalled"])
    assert table["index"].to_pylist() == DRAWN[seed]
    recalled = result(projects["recalled"]).features
    assert len(table) == pc.sum(recalled["recalled"]).as_py() == 5
    assert set(found.effects["feature"].to_pylist()) == names(DRAWN[seed])


def test_a_helpful_feature_that_is_drawn_is_confirmed(projects) -> None:
    found = outcome(result(projects["hit"]))
    assert (found["outcome"], found["features"]) == ("confirmed", ["L1/0"])
    assert found["order"][0] == "L1/0" and found["order"][-1] == "L1/1"


def test_a_drawn_feature_is_measured_as_a_recalled_one_is(projects) -> None:
    rows = {
        name: {
            (row["feature"], row["split"]): row
            for row in result(projects[name]).effects.to_pylist()
        }
        for name in ("recalled", "hit")
    }
    for split in ("S1", "S2", "S3"):
        for column in ("delta", "screen", "delta_low", "delta_high"):
            pair = [rows[name]["L1/0", split][column] for name in ("recalled", "hit")]
            np.testing.assert_allclose(*pair, atol=1e-5)


def test_features_that_are_never_active_lead_to_none(projects) -> None:
    found = result(projects["miss"])
    assert outcome(found)["outcome"] == "none"
    assert outcome(found)["features"] == []
    assert set(found.effects["delta"].to_pylist()) == {0.0}
    assert set(found.effects["active"].to_pylist()) == {0}


def test_the_page_says_that_candidates_are_random(projects) -> None:
    pages = {name: result(project).report.read_text() for name, project in projects.items()}
    assert "RANDOM CANDIDATES" not in pages["recalled"]
    for name, silent in (("hit", 3), ("miss", 5)):
        assert "RANDOM CANDIDATES" in pages[name]
        assert f"{silent} of them are active on none of these prompts" in pages[name]
        assert "recalled features" not in pages[name]


def test_another_kind_of_candidates_is_another_recall(projects) -> None:
    with pytest.raises(RequestError, match='"random" on disk, "frequent" asked for'):
        run(projects["hit"], "--seed", str(HIT), until="recall")
