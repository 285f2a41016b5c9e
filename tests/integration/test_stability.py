"""`igds stability` on the planted project: what every prior finds, what one alone recalls."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.planted_project import CAPITALS, build_planted, rows
from tests.tiny_project import write_rows

import igds
from igds.cli.main import main
from igds.errors import RequestError
from igds.pipeline import Run
from igds.progress import SilentProgress
from igds.runs.folder import RunFolder
from igds.stability.identify import Stability, stability

PRIORS = ("prior.jsonl", "other.jsonl", "capitals.jsonl")


def compare(project: Path, priors: tuple[str, ...] = PRIORS, **options) -> Stability:
    file = igds.load_config(project / "igds.yaml")
    return stability(file, priors, **{"seeds": 1, "progress": SilentProgress(), **options})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a planted project with a third prior set, compared."""
    folder = build_planted(tmp_path_factory.mktemp("stability"))
    write_rows(folder / "other.jsonl", rows(24, 9))
    compare(folder)
    return folder


def test_the_planted_feature_is_first_whatever_the_prior(project: Path) -> None:
    results = json.loads((project / "runs/planted/stability/results.json").read_bytes())
    found = results["identifications"]
    assert [one["prior"] for one in found] == ["prior", "other", "capitals"]
    assert [one["best"][0] for one in found] == ["L1/0"] * 3
    assert results["top_counts"][0] == {"feature": "L1/0", "runs": 3}
    # Features 0 to 4 are active everywhere; that of capitals where there are capitals.
    assert [one["recalled"] for one in found] == [5, 5, 6]
    pairs = {(one["a"], one["b"]): one for one in results["pairs"]}
    assert pairs["prior-s0", "other-s0"]["recalled_jaccard"] == 1
    assert pairs["prior-s0", "capitals-s0"]["recalled_jaccard"] == 5 / 6
    # The same validation rows and the same edit: deltas of shared features are the same.
    assert pairs["prior-s0", "capitals-s0"]["shared"] == 5
    assert pairs["prior-s0", "capitals-s0"]["delta_spearman"] == 1
    run = project / "runs/planted/stability/capitals-s0"
    recalled = Run(RunFolder(run)).features
    names = recalled.filter(recalled["recalled"])["feature"].to_pylist()
    assert f"L1/{CAPITALS}" in names


def test_s3_is_left_unread_for_the_run(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    results = json.loads((project / "runs/planted/stability/results.json").read_bytes())
    assert [one["outcome"] for one in results["identifications"]] == ["untested"] * 3
    first = Run(RunFolder(project / "runs/planted/stability/prior-s0"))
    assert set(first.effects["split"].to_pylist()) == {"S1", "S2"}
    assert not list((project / "runs").rglob("s3.jsonl"))
    file = igds.load_config(tmp_path / "project/igds.yaml")
    run = igds.run(file, until="intervene", progress=SilentProgress())
    found = json.loads((run.folder.path / "intervene/task_features.json").read_bytes())
    assert (found["outcome"], found["s3_readings"]) == ("confirmed", 1)


def test_what_is_done_is_not_done_again(project: Path) -> None:
    folder = project / "runs" / "planted" / "stability"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/stage.json")}
    again = compare(project)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*/stage.json")} == before
    assert again.results == json.loads((folder / "results.json").read_bytes())


def test_seeds_share_the_index_and_differ_in_their_splits(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    found = compare(tmp_path / "project", PRIORS[:2], seeds=2)
    folder = found.folder
    for prior in ("prior", "other"):
        first, second = (folder / f"{prior}-s{seed}" for seed in (0, 1))
        assert (first / "index/stage.json").samefile(second / "index/stage.json")
        taken = json.loads((second / "manifest.json").read_bytes())["taken"]
        assert {name: folder.parents[1] / path for name, path in taken.items()} == {
            "index": first / "index"
        }
        records = [(one / "intervene" / "stage.json").read_bytes() for one in (first, second)]
        assert [json.loads(one)["identity"]["seed"] for one in records] == [0, 1]
    assert found.results["seeds"] == [0, 1]
    assert {(one["a"], one["b"]): one["pairs"] for one in found.results["between"]} == {
        ("prior", "prior"): 1,
        ("prior", "other"): 4,
        ("other", "other"): 1,
    }


def test_the_command_prints_the_best_and_the_agreement(project: Path, capsys) -> None:
    words = ["stability", str(project / "igds.yaml"), "--priors", *PRIORS, "--seeds", "1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "recalled Jaccard" in out and "0.8333" in out
    assert "L1/0" in out
    assert (project / "runs/planted/stability/index.html").read_text().count("L1/0") >= 3


def test_the_query_of_a_url_is_shown_nowhere(project: Path, tmp_path: Path, capsys) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    shutil.copytree(project, tmp_path / "project")
    files, name = MemoryFileSystem(), "/priors/remote.jsonl?token=hidden.jsonl"
    files.pipe_file(name, (project / "other.jsonl").read_bytes())
    words = ["stability", str(tmp_path / "project/igds.yaml"), "--seeds", "1"]
    try:
        assert main([*words, "--priors", "prior.jsonl", f"memory:/{name}"]) == 0
    finally:
        files.rm("/priors", recursive=True)
    folder = tmp_path / "project/runs/planted/stability"
    said = "".join(capsys.readouterr())
    shown = [said, *((folder / file).read_text() for file in ("results.json", "index.html"))]
    assert (folder / "remote-s0").is_dir()
    assert all("remote" in text and "hidden" not in text for text in shown)
    assert not [path for path in folder.rglob("*") if "hidden" in path.name]


def test_wrong_requests_are_refused_first(project: Path, capsys) -> None:
    config = str(project / "igds.yaml")
    assert main(["stability", config, "--priors", "prior.jsonl", "none.jsonl"]) == 2
    assert "none.jsonl" in capsys.readouterr().err
    assert main(["stability", config, "--priors", *PRIORS, "--seeds", "0"]) == 2
    assert "--seeds must be at least 1" in capsys.readouterr().err
    # Rows that identify must not be those that judge.
    with pytest.raises(RequestError, match=r"stability, validation-s0: [\s\S]*overlap"):
        compare(project, ("data.validation", "prior.jsonl"))
