"""What `OtherPython` starts: `other_process.py PROCESS VALUES ANSWERS ARGUMENTS...`.

It runs the file PROCESS, whose standard input is the descriptor VALUES and whose arguments are
ANSWERS, the descriptor to write to, and the rest. It imports nothing of igds, and ends, with all
that it started, when nobody holds the other end of its own standard input.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run the file."""
    process, values, *arguments = sys.argv[1:]
    threading.Thread(target=_end_with_driver, daemon=True).start()
    # What PROCESS starts must not keep the answers open.
    os.set_inheritable(int(arguments[0]), False)
    sys.stdin = os.fdopen(int(values), encoding="utf-8")
    sys.argv = [process, *arguments]
    runpy.run_path(process, run_name="__main__")


def _end_with_driver() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
