"""COMET, in a Python of its own: its package and igds need versions that exclude each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from igds.errors import WorkError
from igds.executors.other_python import OtherPython, visible_gpus

CHECKPOINT = "Unbabel/wmt22-comet-da"
SECONDS, SECONDS_A_ROW = 3600.0, 10.0
"""Time for the start, the download of the checkpoint included, and for each translation: a CPU
scores one in a second or so."""
_PROCESS = Path(__file__).with_name("comet_process.py")


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


def comet(python: Path, device: str = "cpu") -> OtherPython:
    """Return COMET as that Python runs it, on the device of a `ModelSpec`: one GPU, or the CPU."""
    return OtherPython(
        name="COMET",
        package="unbabel-comet",
        module="comet",
        python=python,
        process=_PROCESS,
        variables=visible_gpus(device),
    )


def comet_scores(
    process: OtherPython,
    rows: Sequence[Translation],
    *,
    checkpoint: str = CHECKPOINT,
    seconds: float | None = None,
) -> CometScores:
    """Return the COMET scores of translations, computed by another Python.

    Args:
        process: what `comet` returns.
        rows: the translations, at least one.
        checkpoint: COMET model: a name on the Hub, or a .ckpt file.
        seconds: time limit; an hour and 10 s a translation when None.

    Raises:
        RequestError: there is no such Python, or it has no unbabel-comet.
        WorkError: it failed, or took too long.
        ValueError: there are no rows, or one has no reference.
    """
    if not rows or not all(row.references for row in rows):
        raise ValueError("COMET needs at least one translation, and a reference for each")
    limit = SECONDS + SECONDS_A_ROW * len(rows) if seconds is None else seconds
    given = (asdict(row) for row in rows)
    facts, *scores = process.answers(given, [checkpoint], limit)
    if len(scores) != len(rows):
        raise WorkError(f"COMET gave {len(scores)} scores for {len(rows)} translations")
    return CometScores(scores=tuple(score["score"] for score in scores), **facts)
