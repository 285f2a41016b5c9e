"""Control SAEs: `igds saes untrained` on a finished run, and a whole run on what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pytest
from sae_lens import SAE as LensSAE
from tests.tiny_project import build_project, run

from igds.cli.main import main
from igds.saes.load import load_sae
from igds.saes.untrained import activity

WEIGHTS = ("L1", "L2")


def untrained(project: Path, name: str, *words: str) -> int:
    """Return the exit code of the command on a project, its output beside the config."""
    return main(["saes", "untrained", str(project / "igds.yaml"), str(project / name), *words])


def stored(folder: Path) -> dict[str, bytes]:
    """Return path -> bytes of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_doubles_of_a_run_are_active_as_often_on_its_prior_prompts(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stored(copied / "runs" / "tiny" / "recall")
    assert untrained(copied, "controls") == 0
    assert stored(copied / "runs" / "tiny" / "recall") == before
    shown = capsys.readouterr().out
    assert shown.splitlines()[-2:] == [f"  - path: {copied}/controls/L{at}" for at in (1, 2)]
    for layer in (1, 2):
        folder = copied / "controls" / f"L{layer}"
        double, theirs = load_sae(folder), LensSAE.load_from_disk(folder)
        about = json.loads((folder / "cfg.json").read_text())["metadata"]["untrained"]
        assert (double.layer, double.d_sae, theirs.cfg.architecture()) == (layer, 24, "jumprelu")
        assert about["double_of_sha256"] == load_sae(copied / "saes" / f"L{layer}").revision
        assert (about["seed"], about["prompts"], about["frequency_gap"]) == (0, 20, 0)
        assert 0 <= about["louder"] <= about["active"] <= about["features"] == 24


def test_a_run_on_the_doubles_recalls_as_many_features_and_goes_to_the_end(copied: Path) -> None:
    trained = run(copied).features
    assert untrained(copied, "controls") == 0
    doubles = [("--saes.0.path", "controls/L1"), ("--saes.1.path", "controls/L2")]
    result = run(copied, "--name", "control", *(word for pair in doubles for word in pair))
    found = result.features
    assert found["frequency"].to_pylist() == trained["frequency"].to_pylist()
    assert found["recalled"].to_pylist() == trained["recalled"].to_pylist()
    assert pc.any(found["recalled"]).as_py()
    assert result.selection["selected"].to_pylist().count(True) == 15
    assert result.pool_scores["igds"].to_pylist() != run(copied).pool_scores["igds"].to_pylist()


def test_a_seed_fixes_the_bytes_wherever_they_are_made(copied: Path, tmp_path: Path) -> None:
    for name, words in (("a", []), ("b", []), ("c", ["--directions-seed", "1"])):
        assert untrained(copied, name, *words) == 0
    elsewhere = build_project(tmp_path / "elsewhere")
    assert not (elsewhere / "runs").exists()
    assert untrained(elsewhere, "a") == 0  # recalls first
    a, b, c = (stored(copied / name) for name in "abc")
    assert a == b == stored(elsewhere / "a")
    assert a.keys() == c.keys()
    assert not [name for name in a if a[name] == c[name]]


def test_what_a_kill_left_is_made_anew(copied: Path) -> None:
    part = copied / "controls.part"
    (part / "L7").mkdir(parents=True)
    assert untrained(copied, "controls") == 0
    assert sorted(path.name for path in (copied / "controls").iterdir()) == ["L1", "L2"]
    assert not part.exists()


def test_requests_that_cannot_be_met(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert untrained(copied, "saes") == 2
    assert "saes is there already: name another folder" in capsys.readouterr().err
    assert untrained(copied, "controls", "--saes.0.path", "nowhere") == 2
    assert "nowhere is not there" in capsys.readouterr().err
    assert untrained(copied, "controls", "--recall.min-frequency", "0.7") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert not (copied / "controls").exists()


def test_activity_of_the_double_is_that_of_the_namesake(copied: Path) -> None:
    from safetensors.torch import load_file

    assert untrained(copied, "controls") == 0
    for name in WEIGHTS:
        prior = load_file(copied / f"runs/tiny/recall/residuals/{name}.safetensors")["prior"]
        wanted = activity(load_sae(copied / "saes" / name), prior)
        found = activity(load_sae(copied / "controls" / name), prior)
        assert ((found.count - wanted.count).abs() <= 1).all()
