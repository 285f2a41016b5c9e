"""The command `igds`: parsing, errors as one line, exit codes."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence
from functools import reduce
from operator import or_
from types import FrameType
from typing import Annotated, Any, NoReturn

import tyro

from igds.cli.command import Command
from igds.cli.doctor import Doctor
from igds.cli.experiment import Experiment
from igds.cli.explain import Explain
from igds.cli.export import Export
from igds.cli.init import Init
from igds.cli.plan import Plan
from igds.cli.run import Run
from igds.cli.saes import Saes
from igds.cli.stability import Stability
from igds.cli.stage import Evaluate, Finetune, Intervene, Recall, Report, Score, Select
from igds.cli.status import Status
from igds.cli.verify import Verify
from igds.errors import RequestError, WorkError, did_you_mean

_COMMANDS = (
    Run, Plan, Recall, Intervene, Score, Select, Finetune, Evaluate, Report, Experiment, Verify,
    Stability, Status, Explain, Export, Init, Saes, Doctor,
)  # fmt: skip

FAILED, WRONG, INTERRUPTED, UNREAD, TERMINATED = 1, 2, 130, 141, 143
"""Exit codes: the work failed, the request was wrong, SIGINT, nobody reads the output (what shells
say of SIGPIPE), SIGTERM."""


class _Terminated(BaseException):
    """SIGTERM, as an exception: workers are closed and the lock is released on its way up."""


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit code of one command; errors are one line on stderr.

    Args:
        words: the command line without the program's name; `sys.argv` when absent.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if words is None else words))
        finally:
            sys.stdout.flush()  # what fails later, at the interpreter's exit, cannot be caught
    except BrokenPipeError:
        # The reader has enough, as `| head`. The executor catches what worker pipes raise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD


def _run(words: list[str]) -> int:
    """Return the exit code of one command."""
    if words == ["--version"]:
        from igds import __version__

        print(__version__)
        return 0
    # For developers, and not in the help: errors keep their traceback.
    with_traceback = "--traceback" in words
    signal.signal(signal.SIGTERM, _terminate)
    try:
        command, unknown = _parse([word for word in words if word != "--traceback"])
        if unknown and not command.overridable:
            raise RequestError(f"{unknown[0]} is not an option of igds {_name(type(command))}")
        command.execute(unknown)
    except (ValueError, WorkError, OSError) as error:
        # A pipe that breaks elsewhere, as a socket, is work that failed.
        if with_traceback or (isinstance(error, BrokenPipeError) and _unread()):
            raise
        _say(f"error: {error}")
        return WRONG if isinstance(error, ValueError) else FAILED
    except KeyboardInterrupt:
        _say(f"interrupted{_onward(words)}")
        return INTERRUPTED
    except _Terminated:
        _say(f"terminated{_onward(words)}")
        return TERMINATED
    return 0


def _unread() -> bool:
    """Return whether nobody reads stdout any more."""
    known = select.poll()
    known.register(sys.stdout.fileno(), 0)
    return bool(known.poll(0))


def _parse(words: list[str]) -> tuple[Command, list[str]]:
    names = [_name(cls) for cls in _COMMANDS]
    if words and not words[0].startswith("-") and words[0] not in names:
        raise RequestError(f"igds has no command {words[0]!r}; {did_you_mean(words[0], names)}")
    commands = (
        Annotated[cls, tyro.conf.subcommand(_name(cls), prefix_name=False)] for cls in _COMMANDS
    )
    union: Any = reduce(or_, commands)
    return tyro.cli(
        union,
        prog="igds",
        description="Find the SAE features that are causal for a task inside a language model, "
        "and pick the fine-tuning rows that excite them.",
        args=words,
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def _onward(words: Sequence[str]) -> str:
    """Return what the same command would do after it was stopped; nothing of those that restart."""
    keeps = words and words[0] not in ("doctor", "plan", "explain", "export", "status", "init")
    return ": the same command goes on from here" if keeps else ""


def _name(cls: type) -> str:
    return cls.__name__.lower()


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    # A second signal must not cut the clean-up of the first short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def _say(text: str) -> None:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
