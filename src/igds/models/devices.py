"""Where a model runs: one device, each worker's own GPU, or all GPUs together."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import torch

from igds.errors import RequestError

MAP = "map"
"""The device of a model that accelerate spreads over the GPUs of this machine."""


def choose_device(device: str) -> str:
    """Return the device to use: of `auto` cuda, then mps, then cpu; another one as it is.

    Raises:
        RequestError: this machine does not have it.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, number = device.partition(":")
    count = {"cpu": 1, "mps": int(torch.backends.mps.is_available())}
    count["cuda"] = count[MAP] = torch.cuda.device_count()
    if kind not in count or (number and not number.isdecimal()):
        known = "auto, cpu, cuda, cuda:<n>, map or mps"
        raise RequestError(f"runtime.device {device!r}: write {known}")
    if int(number or 0) >= count[kind]:
        have = f"{count[kind]} of {'cuda' if kind == MAP else kind}"
        raise RequestError(f"runtime.device {device!r}: this machine has {have}")
    return device


def worker_device(device: str, worker: int, gpus: int) -> str:
    """Return the device of one worker, from 0: `cuda` is its own of the GPUs, the rest as named."""
    return f"cuda:{worker % gpus}" if device == "cuda" else device


def device_map(device: str) -> str | None:
    """Return what `from_pretrained` takes as `device_map`.

    Raises:
        RequestError: the model is to be spread, and accelerate is not installed.
    """
    if device != MAP:
        return None
    if importlib.util.find_spec("accelerate") is None:
        raise RequestError("runtime.device: map needs accelerate: pip install accelerate")
    return "auto"


def place(model: Any, device: str) -> Any:
    """Return the model on the device of this process; one that is spread stays where it is.

    Raises:
        RequestError: the GPUs could not hold it, so that a part of it is in main memory or on disk.
    """
    if device != MAP:
        worker = int(os.environ.get("IGDS_WORKER", "0"))
        return model.to(worker_device(device, worker, torch.cuda.device_count()))
    # What accelerate keeps in main memory or on disk has `meta` weights, or is on the cpu.
    if any(weight.device.type != "cuda" for weight in model.parameters()):
        raise RequestError(
            "runtime.device: map: the GPUs of this machine cannot hold the model: take more or "
            "larger ones, or model.dtype: bfloat16"
        )
    return model
