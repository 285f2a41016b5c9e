"""What the commands share: their form, and tables on stdout."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable


@runtime_checkable
class Command(Protocol):
    """One command: a frozen dataclass whose fields are its options, and what it does."""

    overridable: ClassVar[bool]
    """Whether words it does not know are overrides of the configuration."""

    def execute(self, overrides: Sequence[str]) -> None:
        """Do the work; results go to stdout.

        Raises:
            RequestError: the request was wrong.
            WorkError: the work failed.
        """
        ...


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table on stdout; numbers are aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        numbers = all(isinstance(row[place], int | float | None) for row in cells)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        # Text, not str: rows of a pool may hold what rich would read as markup.
        table.add_row(*(Text(shown(value)) for value in row))
    terminal, drawn = Console().is_terminal, StringIO()
    # A pipe has no width: lines are then never folded.
    width = None if terminal else 10_000
    # Where nobody reads on, rich would leave by an exit code of its own: it only draws.
    Console(file=drawn, force_terminal=terminal, width=width).print(table)
    print(drawn.getvalue(), end="")


def print_end(run: Path, started: float) -> None:
    """Print how long a command took and where its run is.

    Args:
        run: the run folder.
        started: what `time.monotonic` said when the command began.
    """
    from igds.reporting.text import duration

    print(f"time: {duration(time.monotonic() - started)}")
    print(f"run: {run}")


def of_earlier(stage: Path) -> str:
    """Return what to say of a finished stage that read others before they were made anew."""
    from igds.runs.stage import outdated_by

    later = outdated_by(stage.parent, stage.name)
    # Those are made again without asking.
    cheap = set(later) <= {"select", "finetune", "evaluate"}
    again = f"igds {stage.name}` with" if cheap else "igds run --overwrite` with"
    words = f"outdated by {', '.join(later)}; `{again} the same settings makes it again"
    return f" ({words})" if later else ""


def shown(value: object) -> str:
    """Return a value as people read it: absent as a dash, floats with four digits."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
