"""What the benchmarks share: the machine's line, interleaved timing, one JSON object at the end."""

from __future__ import annotations

import gzip
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from igds.config.load import ConfigFile
    from igds.models.load import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "configs" / "quickstart"


def set_up() -> tuple[ConfigFile, ModelSpec]:
    """Take all cores, print the machine, and return the quickstart's settings and its model."""
    import torch

    import igds
    from igds.models.load import resolve_model

    torch.set_num_threads(os.cpu_count() or 1)
    print_machine()
    file = igds.load_config(QUICKSTART / "igds.yaml")
    return file, resolve_model(file.config.model, "cpu", file.base)


def read_rows(name: str, folder: Path = QUICKSTART) -> list[dict[str, str]]:
    """Return the rows of one data file of a folder of configs, by its name without endings."""
    text = gzip.decompress((folder / "data" / f"{name}.jsonl.gz").read_bytes()).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def print_machine() -> None:
    """Print the machine and the versions that decide speed."""
    import torch

    print(
        f"machine: {machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    )


def machine() -> str:
    """Return processor, cores, memory and system."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _lines("/proc/cpuinfo")
            if "model name" in line
        ),
        platform.processor(),
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if "MemTotal" in line), "0")
    return (
        f"{cpu}, {os.cpu_count()} cores, {int(memory) / 1e6:.0f} GB, "
        f"{platform.system()} {platform.machine()}"
    )


def interleaved(arms: Mapping[str, Callable[[], Any]], rounds: int = 3) -> dict[str, list[float]]:
    """Return the seconds of each arm in each round; the arms of a round run one after another.

    A slow spell of the machine thus falls on all arms. The order turns by one each round.
    """
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for at in range(rounds):
        turn = at % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            arms[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], over: str, under: str) -> float:
    """Return the median over rounds of one arm's seconds divided by another's."""
    pairs = zip(seconds[over], seconds[under], strict=True)
    return statistics.median(above / below for above, below in pairs)


def print_result(**result: Any) -> None:
    """Print the last line: one JSON object, floats to four digits."""
    rounded = {
        key: float(f"{value:.4g}") if isinstance(value, float) else value
        for key, value in result.items()
    }
    print(json.dumps(rounded))


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").split("\n") if Path(path).exists() else []
