"""Several processes run one experiment at once: each cell is made by one of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_experiment import with_experiment

from igds.cli.main import main
from igds.config.load import load_config
from igds.experiments.cells import Cell
from igds.experiments.results import read_result, result_file
from igds.experiments.run import run_experiment
from igds.experiments.state import missing_cells
from igds.progress import SilentProgress
from igds.runs.lock import RunLock

GRID = """experiment:
  grid:
    - arms: [original, random, length]
      budget: {rows: 12}
      seeds: 2
"""


def experiment(project: Path) -> Path:
    path = with_experiment(project) / "igds.yaml"
    path.write_text(path.read_text().partition("experiment:")[0] + GRID)
    return path


def test_two_processes_share_the_cells(project: Path) -> None:
    path = experiment(project)
    command = [sys.executable, "-m", "igds.cli.main", "experiment", str(path)]
    logs = [project / "one.log", project / "other.log"]
    both = []
    try:
        for log in logs:
            with log.open("w") as file:
                both.append(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT))
        codes = [process.wait() for process in both]
    finally:
        for process in both:
            process.kill()
    said = [log.read_text() for log in logs]
    assert codes == [0, 0], said
    assert missing_cells(load_config(path))[1] == []
    made = [set(re.findall(r"cell (\S+), \d of \d\n", text)) for text in said]
    assert len(made[0]) + len(made[1]) == len(made[0] | made[1]) == 5
    assert any("cells: 5 of 5 are finished" in text for text in said)
    assert "cells are finished" not in (project / "runs" / "tiny" / "comparison.md").read_text()


HOLDER = """
import sys
from filelock import ReadWriteLock
with getattr(ReadWriteLock(sys.argv[1]), sys.argv[2])():
    print(flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("held", "words", "said"),
    [
        ("read_lock", ["--overwrite"], "others run it"),
        ("write_lock", [], "another runs it with --overwrite"),
        ("write_lock", ["--overwrite"], "others run it"),
    ],
)
def test_a_process_that_overwrites_is_alone(
    project: Path, capsys: pytest.CaptureFixture[str], held: str, words: list[str], said: str
) -> None:
    path = experiment(project)
    folder = project / "runs" / "tiny"
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", HOLDER, str(folder / ".members.db"), held]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        try:
            assert main(["experiment", str(path), *words]) == 2
        finally:
            holder.kill()
    assert said in capsys.readouterr().err
    assert {one.name for one in folder.iterdir()} == {".members.db"}


def test_a_plan_indexes_what_cells_share_only_where_no_process_makes_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = experiment(project)
    folder = project / "runs" / "tiny"
    with RunLock(folder):  # as an experiment holds it then, and waits for it
        assert main(["plan", str(path)]) == 2
        assert f"{folder} is in use by pid" in capsys.readouterr().err
        assert not (folder / "shared").exists()
    assert main(["plan", str(path)]) == 0
    assert (folder / "shared" / "index").is_dir()


def test_a_cell_that_another_process_makes_is_left_to_it(project: Path) -> None:
    file = load_config(experiment(project))
    folder = project / "runs" / "tiny" / "cells" / "random_12rows_s0"
    with RunLock(folder):
        found = run_experiment(file, progress=SilentProgress())
        assert [cell.name for cell in found.missing] == ["random_12rows_s0"]
        assert sorted(path.name for path in folder.iterdir()) == [".lock", ".lock.json"]
    found = run_experiment(file, progress=SilentProgress())
    assert found.complete
    assert read_result(result_file(project / "runs" / "tiny" / "results", "random_12rows_s0"))


def test_a_cell_that_was_made_meanwhile_is_not_made_again(project: Path) -> None:
    file = load_config(experiment(project))
    results = project / "runs" / "tiny" / "results"

    class OtherIsFaster(SilentProgress):
        """Finishes the whole experiment when this process begins its second cell."""

        def note(self, text: str) -> None:
            if "cell random_12rows_s0, 2 of 5" in text:
                others.append(text)
                kept.extend(run_experiment(file, progress=SilentProgress()).missing)
                before.update({path: path.stat().st_mtime_ns for path in results.iterdir()})
            said.append(text)

    others: list[str] = []
    kept: list[Cell] = []
    said: list[str] = []
    before: dict[Path, int] = {}
    found = run_experiment(file, progress=OtherIsFaster())
    assert found.complete and len(others) == 1
    # The cell that this process had begun was left to it.
    assert [cell.name for cell in kept] == ["random_12rows_s0"]
    assert sum("made by another process" in text for text in said) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
