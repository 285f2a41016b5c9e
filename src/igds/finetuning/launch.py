"""Starts the process that trains, shows how far it is, and ends it with its starter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from igds.config.training import Finetune
from igds.errors import RequestError, WorkError
from igds.finetuning.spec import STEP, TrainFolder
from igds.progress import Progress

_MODULE = "igds.finetuning.train"
_LAST_LINES = 25
_PATIENCE = 20.0
_KEPT_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Makes glibc keep what an update frees for the next one, as fresh pages are dear, on a virtual
machine above all; other systems do not read it."""


def check_packages(settings: Finetune) -> None:
    """Refuse to begin without the packages that training needs.

    Raises:
        RequestError: one of them is missing; names the pip command.
    """
    for module in ("trl", "peft", "datasets", "accelerate"):
        if importlib.util.find_spec(module) is None:
            raise RequestError(f"{module} is not installed: pip install 'igds[train]'")
    for module in settings.trackers:
        if importlib.util.find_spec(module) is None:
            raise RequestError(
                f"finetune.trackers: {module} is not installed: pip install {module}"
            )


def launch(
    folder: TrainFolder,
    settings: Finetune,
    *,
    device: str,
    threads: int,
    steps: int,
    base: Path,
    progress: Progress,
) -> None:
    """Train in a process of its own until it is done.

    Args:
        folder: with spec and examples; what the process says goes into its log.
        settings: how many processes, and where they report to.
        device: of the run: cpu, cuda, cuda:0, map or mps.
        threads: CPU threads of a process.
        steps: updates in all.
        base: folder that relative paths start from.
        progress: where progress goes.

    Raises:
        WorkError: the process ended early; the end of its log is quoted.
    """
    environment = training_environment(settings, os.environ, device, threads, folder.path)
    with (
        folder.log.open("ab") as log,
        progress.task("finetune: updates", steps) as bar,
        subprocess.Popen(
            training_command(folder, settings, base),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None, "it was asked for"
            done = 0
            for line in process.stdout:
                if not line.startswith(STEP):
                    log.write(line.encode())
                    continue
                now = int(line.removeprefix(STEP))
                if now > done:
                    bar.advance(now - done)
                    done = now
            code = process.wait()
        finally:
            _end(process)
    if code != 0:
        last = folder.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
        raise WorkError(
            f"training ended with {code}; the same command goes on from the last checkpoint. The "
            f"end of {folder.log}:\n  " + "\n  ".join(last)
        )


def training_command(folder: TrainFolder, settings: Finetune, base: Path) -> list[str]:
    """Return the command line that trains; the same one goes on after a kill."""
    train = ["-m", _MODULE, str(folder.path), "--attached"]
    if settings.processes == 1 and settings.accelerate_config is None:
        return [sys.executable, *train]
    options = ["--num_processes", str(settings.processes)] if settings.processes > 1 else []
    if settings.accelerate_config is not None:
        options += ["--config_file", str(base / settings.accelerate_config)]
    else:
        # A port that is free: cells that begin at the same instant would ask for the same one.
        options += ["--main_process_port", "0"]
    return [sys.executable, "-m", "accelerate.commands.launch", *options, *train]


def training_environment(
    settings: Finetune, given: Mapping[str, str], device: str, threads: int, folder: Path
) -> dict[str, str]:
    """Return the environment of the process: threads, its GPU, and where trackers write."""
    made = {
        **(_KEPT_MEMORY if device == "cpu" else {}),
        **given,
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
        "WANDB_DIR": str(folder),
        "WANDB_PROJECT": given.get("WANDB_PROJECT", "igds"),
    }
    alone = settings.processes == 1 and settings.accelerate_config is None
    if alone and (device == "map" or device.startswith("cuda")):
        # The trainer refuses one process that sees several GPUs.
        number = int(device.partition(":")[2] or 0)
        seen = given.get("CUDA_VISIBLE_DEVICES", "").split(",")
        made["CUDA_VISIBLE_DEVICES"] = seen[number] if seen != [""] else str(number)
    return made


def _end(process: subprocess.Popen[str]) -> None:
    """End the process, if it still runs: kindly, so that a launcher ends its own, then at once."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
