"""Every command as a user types it, on a whole tiny project."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from igds.cli.main import main
from igds.runs.lock import RunLock

IGDS = (sys.executable, "-m", "igds.cli.main")


def igds(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*IGDS, *words], cwd=project, capture_output=True, text=True)


def start(project: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*IGDS, *words],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job, as these tests may be, ignores SIGINT and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_stage(project: Path, name: str) -> None:
    """Wait until the run says that a stage has started."""
    events = project / "runs" / "tiny" / "events.jsonl"
    for _ in range(600):
        if events.exists():
            lines = [json.loads(line) for line in events.read_text().splitlines()]
            if any(e["event"] == "stage_started" and e["stage"] == name for e in lines):
                return
        time.sleep(0.1)
    raise AssertionError(f"{name} did not start")


def test_commands_from_run_to_export(project: Path) -> None:
    early = igds(project, "select", "igds.yaml")
    assert early.returncode == 2
    assert "needs the stage 'index'" in early.stderr

    done = igds(project, "run", "igds.yaml")
    assert done.returncode == 0, done.stderr
    time_taken, run, report = done.stdout.splitlines()
    assert re.fullmatch(r"time: \d+(\.\d s| min \d\d s)", time_taken)
    assert run == f"run: {project.resolve()}/runs/tiny"
    assert report == f"report: {project.resolve()}/runs/tiny/report/index.html"
    # 20 prior, 18 validation, 20 control rows; control and validation in other templates too
    assert "recall: reading prompts: 96 done" in done.stderr
    assert "score: reading the pool: 60 done" in done.stderr
    assert re.search(
        r"^recall: \d+ of 48 features recalled \(L1: \d+, L2: \d+\)$", done.stderr, re.M
    )
    assert "note: 20 prior rows; frequencies want at least 200" in done.stderr

    again = igds(project, "select", "igds.yaml", "--select.budget.rows", "7")
    assert again.returncode == 0, again.stderr
    (moved,) = re.findall(r"^select: the earlier selection moved to (.*)$", again.stderr, re.M)
    kept = pq.read_table(project / "runs/tiny" / moved / "selection.parquet")
    assert sum(kept["selected"].to_pylist()) == 15
    assert "earlier selection" not in done.stderr
    selection = pq.read_table(project / "runs/tiny/select/selection.parquet").to_pylist()
    assert sum(row["selected"] for row in selection) == 7

    status = igds(project, "status", "runs/tiny")
    assert status.returncode == 0
    assert "reasons.top" in status.stdout

    explained = igds(project, "explain", "runs/tiny", selection[0]["row_id"])
    assert explained.returncode == 0, explained.stderr
    assert f"rank: {selection[0]['rank']} of 60 scored (7 kept, cut" in explained.stdout
    row = json.loads((project / "pool.jsonl").read_text().splitlines()[0])
    shown = f"prompt:\n{row['question']}\nSum:\nresponse:\n {row['answer']}\n"
    assert shown in explained.stdout

    exported = igds(project, "export", "runs/tiny", "--output", "out.jsonl")
    assert exported.returncode == 0, exported.stderr
    kept = (project / "out.jsonl").read_bytes()
    assert kept == (project / "runs/tiny/select/selected.jsonl").read_bytes()
    assert kept.count(b"\n") == 7

    other = igds(project, "run", "igds.yaml", "--recall.min-frequency", "0.5")
    assert other.returncode == 2
    assert "recall.min_frequency: 0.8 on disk, 0.5 asked for" in other.stderr
    assert "Traceback" not in other.stderr


def test_a_run_in_use_is_refused_and_can_be_looked_at(project: Path) -> None:
    assert igds(project, "run", "igds.yaml", "--until", "index").returncode == 0
    with RunLock(project / "runs" / "tiny"):
        second = igds(project, "run", "igds.yaml")
        assert second.returncode == 2
        assert f"in use by pid {os.getpid()}" in second.stderr
        assert igds(project, "status", "runs/tiny").returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_running_or_locked(project: Path, number: int, code: int) -> None:
    run = start(project, "run", "igds.yaml", "--until", "recall")
    wait_for_stage(project, "recall")
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == code
    assert "the same command goes on from here" in said
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)
    with RunLock(project / "runs" / "tiny"):
        assert not (project / "runs" / "tiny" / "recall").exists()
    assert igds(project, "run", "igds.yaml", "--until", "recall").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--until", "recal"], "there is no stage 'recal'; did you mean recall?"),
        (["--runtime.executor", "ray"], "ray"),
        (["--data.prior.0.path", "absent.jsonl"], "data.prior.0.path: "),
        (["--data.pool.0.path", "absent.jsonl"], "absent.jsonl: no such file or folder"),
        (["--intervene.confirm-rows", "7"], "intervene.confirm_rows 7 asks for 19"),
        (["--model.id", "absent/folder"], "absent/folder"),
        (["--saes.0.path", "absent"], "saes.0: "),
        (["--select.budget.rows", "1000"], "only 60 rows"),
    ],
)
def test_wrong_requests_exit_2(
    project: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["run", str(project / "igds.yaml"), *words]) == 2
    shown = capsys.readouterr().err
    assert "error: " in shown
    assert said in shown
    assert "Traceback" not in shown


def test_a_page_that_is_older_than_the_selection_is_said_to_be(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = str(copied / "igds.yaml"), copied / "runs" / "tiny"
    assert main(["select", config, "--select.budget.rows", "5"]) == 0
    advice = f"report: {folder / 'report' / 'index.html'} (outdated by select; `igds report` with"
    assert advice in capsys.readouterr().out
    assert main(["status", str(folder)]) == 0
    said = capsys.readouterr().out
    assert advice in said and "report done, outdated by select" in " ".join(said.split())
    assert main(["report", config, "--select.budget.rows", "5"]) == 0
    assert main(["status", str(folder)]) == 0
    assert "outdated" not in capsys.readouterr().out


def test_what_other_features_outdate(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--intervene.screen-keep", "3", "--intervene.coefficient", "0.5", "--overwrite"]
    path = copied / "runs" / "tiny" / "intervene" / "task_features.json"
    assert main(["intervene", str(copied / "igds.yaml"), *words]) == 0
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "features": ["L1/0"]}))
    assert main(["status", str(copied / "runs" / "tiny")]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    state = {line.split()[0]: line for line in lines if line}
    assert state["recall"].startswith("recall done ") and "outdated" not in state["intervene"]
    assert "igds done, outdated by intervene" in state["score"]
    assert "length done;" in state["score"]
    assert "select done, outdated by intervene" in state["select"]
    assert "report done, outdated by intervene" in state["report"]
    assert "`igds run --overwrite` with the same settings makes it again" in state["report:"]


def test_rows_that_cannot_be_used_are_said_at_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (project / "pool.jsonl").open("a") as pool:
        pool.write('no json\n{"question": "1 and 2"}\n{"question": "3 and 4"}\n')
    assert main(["run", str(project / "igds.yaml"), "--until", "index"]) == 0
    said = capsys.readouterr().err.splitlines()
    notes = [line for line in said if "cannot be used" in line]
    assert notes == ["note: pool: 3 of 63 rows cannot be used: 1 bad_json, 2 missing_field"]
