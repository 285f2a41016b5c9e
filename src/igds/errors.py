"""The two ways a command fails, which the command line turns into exit codes, and a hint."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RequestError(ValueError):
    """The request was wrong: a setting, a path, a source of rows, a run folder. Exit code 2."""


class WorkError(RuntimeError):
    """The request was right and the work failed: a worker died, the disk filled. Exit code 1."""


class NoTaskFeature(WorkError):
    """Interventions found no feature that may be used, which is an answer too. Exit code 1."""


class NoStandIn(RequestError):
    """Too few features resemble the task features for a draw of stand-ins. Exit code 2."""

    def __init__(self, message: str, draws: int) -> None:
        """Keep how many draws there are, from 0."""
        super().__init__(message)
        self.draws = draws


class InUse(RequestError):
    """Another process works in a run folder. Exit code 2."""

    def __init__(self, message: str, holder: str) -> None:
        """Keep who it is: `pid 17 on host`."""
        super().__init__(message)
        self.holder = holder


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `did you mean X?` for the nearest known word, or the list of all when none is near.

    Args:
        word: what was written.
        known: what could have been written.
        prefix: put before each known word.
    """
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {prefix}{near[0]}?"
    return f"known: {', '.join(prefix + name for name in names)}"
