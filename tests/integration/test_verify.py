"""`igds verify` on a planted model: who survives, resume, and requests that are wrong."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.planted_project import CAPITALS, build_planted

import igds
from igds.cli.main import main
from igds.errors import RequestError
from igds.pipeline import Run
from igds.progress import SilentProgress
from igds.runs.readings import readings

HELPFUL, ANY, SILENT = "L1/0", "L1/3", f"L1/{CAPITALS}"
NAMED = (HELPFUL, "L1/1", ANY, "L1/4", SILENT)


def verify(project: Path, features: tuple[str, ...] = NAMED, *words: str, **options) -> Run:
    file = igds.load_config(project / "igds.yaml", words)
    return igds.verify(file, features, **{"progress": SilentProgress(), **options})


def files(run: Path) -> dict[str, str]:
    """Return name -> sha256 of what the stage wrote."""
    found = [path for path in sorted((run / "verify").rglob("*")) if path.is_file()]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a planted project with a finished verification."""
    folder = build_planted(tmp_path_factory.mktemp("verified"))
    verify(folder)
    return folder


@pytest.fixture
def copied(verified: Path, tmp_path: Path) -> Path:
    shutil.copytree(verified, tmp_path / "project")
    return tmp_path / "project"


def test_the_planted_feature_survives_and_the_others_do_not(verified: Path) -> None:
    found = json.loads((verified / "runs/planted/verify/verdicts.json").read_bytes())["verdicts"]
    by = {(one["feature"], one["position"]): one for one in found}
    assert list(by) == [(name, at) for name in NAMED for at in ("read", "generated", "all")]
    for at in ("read", "generated", "all"):
        assert by[HELPFUL, at]["confirmed"] and by[HELPFUL, at]["two_sided"]
        assert by[HELPFUL, at]["delta"] > by[HELPFUL, at]["controls_95"]["decoder"]
        assert "contrast" in by[ANY, at]["reason"]
        assert by["L1/1", at]["label"] == "harmful"
        assert not any(by[name, at]["confirmed"] for name in NAMED[1:])
    assert "inactive on every prompt" in by[SILENT, "read"]["reason"]
    assert [by[name, "read"]["recalled"] for name in (HELPFUL, SILENT)] == [True, False]
    assert by[SILENT, "read"]["frequency"] == 0


def test_the_plan_names_the_whole_family(verified: Path) -> None:
    plan = json.loads((verified / "runs/planted/verify/plan.json").read_bytes())
    assert plan["features"] == list(NAMED)
    assert plan["family"] == 3 * len(NAMED)


def test_a_second_call_does_nothing_and_other_features_are_refused(copied: Path) -> None:
    before = files(copied / "runs/planted")
    run = verify(copied)
    assert files(run.folder.path) == before
    with pytest.raises(RequestError, match=r"features\.0.*L1/0.*L1/1[\s\S]*--overwrite"):
        verify(copied, ("L1/1",))
    assert len(readings(copied / "runs")) == 1
    again = verify(copied, ("L1/1",), positions=("read",), overwrite=True).verdicts.to_pylist()
    assert [(one["feature"], one["position"]) for one in again] == [("L1/1", "read")]
    first, second = readings(copied / "runs")
    assert first["features"] == list(NAMED) and second["features"] == ["L1/1"]
    assert first["row_hashes"] == second["row_hashes"]
    facts = json.loads((copied / "runs/planted/verify/verdicts.json").read_bytes())
    assert facts["s3_readings"] == 2 and facts["s3_first_plan"]["features"] == list(NAMED)


def test_the_command_prints_a_verdict_a_feature_and_position(copied: Path, capsys) -> None:
    assert main(["verify", str(copied / "igds.yaml"), "--features", *NAMED]) == 0
    out = capsys.readouterr().out
    table = [line for line in out.splitlines() if line.startswith(" ") and "confirmed" in line]
    survivors = [line.split()[:2] for line in table if "not confirmed" not in line]
    assert len(table) == 3 * len(NAMED)
    assert survivors == [[HELPFUL, at] for at in ("read", "generated", "all")]
    assert "L1/3 read: not confirmed on S3: the interval of its contrast" in out
    assert f"note: {SILENT} is not recalled: its frequency 0.000 is under 0.8" in out
    time_taken, run = out.splitlines()[-2:]
    assert re.fullmatch(r"time: \d+(\.\d s| min \d\d s)", time_taken)
    assert run == f"run: {(copied / 'runs/planted').resolve()}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--features", "L9/0"], "L9/0: no SAE reads block 9; saes has L1"),
        (["--features", "L1/47"], "L1/47: the SAE of block 1 has 47 features, counted from 0"),
        (["--features", "14/3"], "'14/3' is not a feature name"),
        (["--features", "L1/0", "L1/0"], "L1/0 is named twice"),
        (["--features", "L1/0", "--intervene.mode", "paper"], "reads split S3"),
    ],
)
def test_wrong_requests_cost_nothing(copied: Path, capsys, words: list[str], message: str) -> None:
    before = files(copied / "runs/planted")
    assert main(["verify", str(copied / "igds.yaml"), *words]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert files(copied / "runs/planted") == before


def test_a_finished_run_keeps_its_record_and_what_it_was_made_from(copied: Path) -> None:
    shutil.rmtree(copied / "runs/planted/verify")
    igds.run(igds.load_config(copied / "igds.yaml"), until="intervene", progress=SilentProgress())
    run = copied / "runs/planted"

    def manifest() -> dict[str, object]:
        found = json.loads((run / "manifest.json").read_bytes())
        found["stages"].pop("verify", None)
        return found

    before, config = manifest(), (run / "config.yaml").read_bytes()
    verify(copied, ("L1/0",), "--intervene.controls", "20", positions=("read",))
    assert (run / "config.yaml").read_bytes() == config
    assert manifest() == before
    stages = [run / name / "stage.json" for name in ("index", "recall", "intervene")]
    written = [path.read_bytes() for path in stages]
    with pytest.raises(RequestError, match=r"min_frequency[\s\S]*another name"):
        verify(copied, ("L1/0",), "--recall.min-frequency", "0.5", overwrite=True)
    assert [path.read_bytes() for path in stages] == written
    assert (run / "config.yaml").read_bytes() == config and manifest() == before


def test_without_a_run_index_and_recall_are_replaced(copied: Path) -> None:
    found = verify(copied, ("L1/0",), "--recall.min-frequency", "0.5", overwrite=True)
    assert "min_frequency: 0.5" in (found.folder.path / "config.yaml").read_text()


def test_without_control_rows_one_control_is_missing(tmp_path: Path) -> None:
    folder = build_planted(tmp_path)
    config = (folder / "igds.yaml").read_text()
    (folder / "igds.yaml").write_text(config.replace("[{path: control.jsonl}]", "[]"))
    one = verify(folder, (HELPFUL,), positions=("read",)).verdicts.to_pylist()[0]
    assert one["confirmed"] and one["control_frequency"] is None
    means = one["controls_mean"]
    assert means["difference"] is None and means["mean"] is not None
    controls = pq.read_table(folder / "runs/planted/verify/controls.parquet")
    assert "difference" not in controls["kind"].to_pylist()
    assert controls["delta"].null_count == 0


def test_a_run_on_the_tasks_score_is_verified_in_nats_and_says_so(copied: Path) -> None:
    shutil.rmtree(copied / "runs/planted/verify")
    score = ("--intervene.metric", "task_score", "--intervene.delta-min", "5")
    one = verify(copied, ("L1/0",), *score, positions=("read",)).verdicts.to_pylist()[0]
    assert one["confirmed"] and one["delta"] < 5
    assert one["reason"].endswith(
        "; judged on likelihood, not on task score: igds verify generates no outputs "
        "(delta_min 5 counts as 0 nats)"
    )
    plan = json.loads((copied / "runs/planted/verify/plan.json").read_bytes())
    assert (plan["metric"], plan["delta_min"]) == ("logprob", 0.0)


@pytest.mark.timeout(900)
def test_killed_and_resumed_gives_the_same_bytes(verified: Path, copied: Path) -> None:
    run = copied / "runs" / "planted"
    shutil.rmtree(run / "verify")
    command = [sys.executable, "-m", "igds.cli.main", "verify", str(copied / "igds.yaml")]
    command += ["--features", *NAMED]
    shards = run / "verify.part" / "shards"
    for wanted in (3, 25):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while sum(len(names) for _, _, names in os.walk(shards)) < wanted:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (run / "verify").exists()
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=True).returncode == 0
    assert files(run) == files(verified / "runs" / "planted")
