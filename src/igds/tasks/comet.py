"""COMET, in a Python of its own: its package and igds need versions that exclude each other."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from igds.errors import RequestError, WorkError
from igds.tasks.comet_process import NO_COMET

CHECKPOINT = "Unbabel/wmt22-comet-da"
SECONDS, SECONDS_A_ROW = 3600.0, 10.0
"""Time for the start, the download of the checkpoint included, and for each translation: a CPU
scores one in a second or so."""
_PROCESS = Path(__file__).with_name("comet_process.py")
_LAST_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """One output to be scored."""

    source: str
    """The text that was translated."""
    output: str
    """What the model made of it."""
    references: tuple[str, ...]
    """Translations by people, one or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CometScores:
    """What COMET found, and what found it."""

    scores: tuple[float, ...]
    """One a translation, mostly 0-1, higher is better; over the reference that suits best."""
    package: str
    """Name and version, as `unbabel-comet 2.2.7`."""
    checkpoint: str
    """Name on the Hub, or file, of the COMET model."""


def comet_scores(
    python: Path,
    rows: Sequence[Translation],
    *,
    checkpoint: str = CHECKPOINT,
    gpus: int = 0,
    seconds: float | None = None,
) -> CometScores:
    """Return the COMET scores of translations, computed by another Python.

    Args:
        python: interpreter of an environment with unbabel-comet.
        rows: the translations, at least one.
        checkpoint: COMET model: a name on the Hub, or a .ckpt file.
        gpus: how many GPUs it may use.
        seconds: time limit; an hour and 10 s a translation when None.

    Raises:
        RequestError: there is no such Python, or it has no unbabel-comet.
        WorkError: it failed, or took too long.
        ValueError: there are no rows, or one has no reference.
    """
    if not rows or not all(row.references for row in rows):
        raise ValueError("COMET needs at least one translation, and a reference for each")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "scores.jsonl"
        # Isolated: neither this Python's PYTHONPATH nor the folder of the process, whose math.py
        # is not the standard library's, leads it to packages.
        command = [str(python), "-I", str(_PROCESS), str(output), checkpoint, str(gpus)]
        _run(command, rows, SECONDS + SECONDS_A_ROW * len(rows) if seconds is None else seconds)
        facts, *scores = map(json.loads, output.read_text("utf-8").strip().split("\n"))
    if len(scores) != len(rows):
        raise WorkError(f"COMET gave {len(scores)} scores for {len(rows)} translations")
    return CometScores(scores=tuple(score["score"] for score in scores), **facts)


def _run(command: list[str], rows: Sequence[Translation], seconds: float) -> None:
    """Run the other Python over the rows."""
    python = command[0]
    try:
        done = subprocess.run(
            command,
            input="".join(json.dumps(asdict(row)) + "\n" for row in rows),
            timeout=seconds,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise RequestError(f"{python} is not a Python for COMET: {error}; {_advice()}") from error
    except subprocess.TimeoutExpired as error:
        raise WorkError(f"COMET took over {seconds:g} s for {len(rows)} translations") from error
    if done.returncode == NO_COMET:
        raise RequestError(f"{python} has no unbabel-comet: {python} -m pip install unbabel-comet")
    if done.returncode != 0:
        last = "\n  ".join(done.stderr.splitlines()[-_LAST_LINES:])
        raise WorkError(f"COMET in {python} ended with {done.returncode}:\n  {last}")


def _advice() -> str:
    return (
        "make an environment of its own by `python -m venv comet && comet/bin/python -m pip "
        "install unbabel-comet` and name its comet/bin/python"
    )
