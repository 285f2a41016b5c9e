"""Seconds that `igds --help` takes, imports included: median of 5 after one unmeasured start.

python benchmarks/cli_startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from _common import interleaved, print_machine, print_result

ROUNDS = 5


def main() -> None:
    """Print the machine and the median."""
    print_machine()
    command = [str(Path(sys.executable).parent / "igds"), "--help"]

    def start() -> None:
        subprocess.run(command, check=True, capture_output=True)

    start()  # byte code and disk cache
    seconds = interleaved({"help": start}, ROUNDS)["help"]
    print(f"igds --help: {', '.join(f'{value:.3f}' for value in seconds)} s")
    print_result(rounds=ROUNDS, cli_seconds=statistics.median(seconds))


if __name__ == "__main__":
    main()
