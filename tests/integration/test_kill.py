"""A run that is killed at random moments and started again ends with the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.tiny_project import computed_files

KILLS = 10


def start(project: Path) -> subprocess.Popen[bytes]:
    """Start the run as a user does."""
    command = [sys.executable, "-m", "igds.cli.main", "run", str(project / "igds.yaml")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def written(project: Path) -> int:
    """Return how many files the run has written whole, parts included."""
    # os.walk, unlike glob, bears with folders that are renamed meanwhile.
    return sum(len(names) for _, _, names in os.walk(project / "runs" / "tiny"))


@pytest.mark.timeout(1500)
def test_killed_ten_times_and_resumed_gives_the_same_bytes(finished, project):
    draw = random.Random(0)
    wanted = computed_files(finished / "runs" / "tiny")
    kills = 0
    while kills < KILLS:
        process = start(project)
        # So many files further on, and a moment later: between two files or within one.
        enough = written(project) + draw.randrange(1, 9)
        while process.poll() is None and written(project) < enough:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.1))
        kills += process.poll() is None
        process.kill()
        assert process.wait() in (0, -signal.SIGKILL), process.communicate()[1].decode()
        if process.returncode == 0:  # it ended first: from the start again
            assert computed_files(project / "runs" / "tiny") == wanted
            shutil.rmtree(project / "runs")
    process = start(project)
    assert process.wait() == 0, process.stderr.read().decode() if process.stderr else ""
    assert computed_files(project / "runs" / "tiny") == wanted
    assert not list((project / "runs").rglob("*.part"))
