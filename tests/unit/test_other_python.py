"""Processes of other environments: answers as they come, and nothing left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from igds.errors import RequestError, WorkError
from igds.executors.other_python import OtherPython

WITH_CHILD = """
import json, os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
with os.fdopen(int(sys.argv[1]), "w") as answers:
    for line in sys.stdin:
        print(json.dumps([os.getpid(), child.pid, json.loads(line)]), file=answers, flush=True)
        {action}
"""
DRIVER = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_other_python import other

first = next(other(Path(sys.argv[1]), "time.sleep(600)").answers([7]))
print(*first, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def other(folder: Path, action: str = "pass") -> OtherPython:
    """Return a process that starts a child, answers each value with it, and acts."""
    process = folder / "process.py"
    process.write_text(WITH_CHILD.replace("{action}", action))
    python = Path(sys.executable)
    return OtherPython(name="It", package="json", module="json", python=python, process=process)


def gone(pid: int) -> bool:
    """Return whether a process has ended within some seconds."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_answers_come_one_by_one_and_nothing_is_left(tmp_path: Path) -> None:
    found = list(other(tmp_path).answers([1, {"a": "é\u2028"}]))
    assert [value for *_, value in found] == [1, {"a": "é\u2028"}]
    assert all(gone(pid) for pid in found[0][:2])


def test_an_iteration_that_is_given_up_ends_all(tmp_path: Path) -> None:
    with closing(other(tmp_path, "time.sleep(600)").answers([1])) as answers:
        process, child, _ = next(answers)
        assert Path(f"/proc/{child}").exists()
    assert gone(process) and gone(child)


def test_a_killed_driver_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    here = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(here)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    process, child, _ = map(int, done.stdout.split())
    assert gone(process) and gone(child)


def test_a_line_that_is_cut_short_is_a_failure(tmp_path: Path) -> None:
    torn = "answers.write('[1, '); answers.flush(); os._exit(9)"
    answers = other(tmp_path, torn).answers([1])
    assert next(answers)[2] == 1
    with pytest.raises(WorkError, match="ended with 9"):
        next(answers)


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    answers = other(tmp_path, "time.sleep(600)").answers([1], seconds=5.0)
    process, child, _ = next(answers)
    with pytest.raises(WorkError, match="It took over 5 s"):
        next(answers)
    assert gone(process) and gone(child)


def test_a_file_that_is_no_python(tmp_path: Path) -> None:
    for name, text, words in (
        ("text", "no program", "is not a Python for It: .*python -m venv json"),
        ("broken", "#!/bin/sh\necho too old >&2; exit 5\n", "does not start for It:\n  too old"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
        given = other(tmp_path)
        broken = OtherPython(
            name="It",
            package="json",
            module="json",
            python=tmp_path / name,
            process=given.process,
        )
        with pytest.raises(RequestError, match=words):
            broken.check()
