"""`igds status`: what is done in a run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tyro.conf import Positional

from igds.cli.command import of_earlier, print_table, shown
from igds.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Status:
    """Show what is done: stages, rows by status, selection, task features; needs no lock.

    Of an experiment: what its cells have in common, and each cell that was begun here; a run of the
    same name follows. Of a folder of runs: the last stage and the outcome of each, and of what the
    cells of each experiment have in common.
    """

    overridable: ClassVar[bool] = False

    run: Positional[Path]
    """Folder of a run or of an experiment, or the folder that runs are in."""

    def execute(self, overrides: Sequence[str]) -> None:  # noqa: ARG002
        """Print the tables.

        Raises:
            RequestError: the folder neither is a run nor holds any.
        """
        begun = sorted(file.parent for file in self.run.glob("cells/*/cell.json"))
        made = (self.run / "manifest.json").exists()
        shared = sorted(file.parent for file in self.run.glob("shared*/manifest.json"))
        if begun or shared:
            _show_experiment(shared, begun)
        if made:
            if begun or shared:
                print("the run of the same name:")
            _show_run(self.run)
        if begun or shared or made:
            return
        runs = sorted(
            file.parent
            for pattern in ("*/manifest.json", "*/shared*/manifest.json")
            for file in self.run.glob(pattern)
        )
        if not runs:
            raise RequestError(
                f"{self.run} is not a run folder, nor are those in it: there is no manifest.json"
            )
        rows = [(run.relative_to(self.run).as_posix(), *_last_of(run)) for run in runs]
        print_table(("run", "last stage", "state", "outcome"), rows)


def _show_experiment(shared: Sequence[Path], cells: Sequence[Path]) -> None:
    """Print what is done of an experiment: what its cells have in common, and the cells."""
    parts = [(one.name, *_last_of(one)) for one in shared]
    print_table(("in common", "last stage", "state", "outcome"), parts)
    stages = ("select", "finetune", "evaluate")
    rows = [(cell.name, *(_state(cell, name) for name in stages)) for cell in cells]
    if rows:
        print_table(("cell", *stages), rows)
    print("`igds experiment CONFIG --tables` counts finished cells, those made elsewhere too")


def _show_run(run: Path) -> None:
    """Print what is done in a run."""
    from igds.runs.files import read_json
    from igds.runs.folder import RunFolder
    from igds.runs.readings import reading_words

    manifest = RunFolder(run).manifest()
    seconds = {name: cost["seconds"] for name, cost in manifest.get("stages", {}).items()}
    print_table(
        ("stage", "state", "seconds"),
        [(name, state, seconds.get(name)) for name, state in stage_states(run)],
    )
    summary = read_json(run / "index" / "summary.json")
    if summary:
        print_table(("rows", "status", "count"), list(_row_counts(summary)))
    selection = read_json(run / "select" / "summary.json")
    if selection:
        print_table(("selection", "value"), list(_flat(selection)))
    found = read_json(run / "intervene" / "task_features.json")
    if found:
        names = ", ".join(found["features"]) or "none"
        print(f"task features: {names} ({found['outcome'].upper()}: {found['reason']})")
        reread = reading_words(found)
        if reread:
            print(f"S3 READ AGAIN: {reread}")
    if (run / "report" / "index.html").exists():
        print(f"report: {run / 'report' / 'index.html'}{of_earlier(run / 'report')}")


_ENDS = {"stage_started": "begun", "stage_failed": "failed", "stage_finished": "done"}
"""Events of a stage that had work to do, and what became of it: begun is under way or cut short."""


def _last_of(run: Path) -> tuple[str | None, str | None, str | None]:
    """Return the last stage of a run that was worked on, what became of it, and the outcome."""
    from igds.runs.folder import RunFolder

    folder = RunFolder(run)
    worked = (event for event in reversed(folder.events()) if event["event"] in _ENDS)
    last = next(worked, None)
    stage, state = (last["stage"], _ENDS[last["event"]]) if last else (None, None)
    return stage, state, folder.manifest().get("outcome")


_OPTIONAL = ("finetune", "evaluate")


def stage_states(run: Path) -> list[tuple[str, str]]:
    """Return (stage, state) in run order: done, missing, partial, or being made again."""
    plain = [(name, _state(run, name)) for name in ("index", "recall", "intervene")]
    states = {name: _state(run, name) for name in ("select", *_OPTIONAL, "report", "verify")}
    shown = [
        (name, state)
        for name, state in states.items()
        if state != "missing" or name not in (*_OPTIONAL, "verify")
    ]
    return [*plain, ("score", _score_state(run)), *shown]


def _state(run: Path, name: str) -> str:
    from igds.runs.stage import finished_files, outdated_by, stage_state

    folder = run / name
    state, files = stage_state(folder), finished_files(folder)
    if files is None:
        later = ", ".join(outdated_by(run, name))
        return f"{state}, outdated by {later}" if later else state
    return f"{'being made again' if state == 'done' else 'partial'}, {files} files"


def _score_state(run: Path) -> str:
    """Return the state of scoring: that of each method, or done when all of them are."""
    methods = sorted({path.name.removesuffix(".part") for path in run.glob("score/*")})
    states = {name: _state(run, f"score/{name}") for name in methods}
    if not states:
        return "missing"
    if set(states.values()) == {"done"}:
        return f"done: {', '.join(methods)}"
    return "; ".join(f"{name} {state}" for name, state in states.items())


def _row_counts(summary: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    for name, facts in summary["sets"].items():
        for status, count in sorted(facts["status"].items(), key=lambda pair: -pair[1]):
            yield name, status, count


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield prefix + name, shown(item)
