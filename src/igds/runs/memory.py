"""Peak memory of this process."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def peak_rss_mb() -> float:
    """Return the largest resident size this process has had, in MB of 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform != "linux":
        return peak / 1e6
    # getrusage counts the parent's size before exec as the child's own; VmHWM does not, but some
    # sandboxes, as gVisor, leave it out.
    own = high_water_kib(Path("/proc/self/status").read_text())
    return (peak if own is None else own) * 1024 / 1e6


def high_water_kib(status: str) -> int | None:
    """Return VmHWM of a /proc status, KiB; None where the system does not say it."""
    found = re.search(r"^VmHWM:\s*(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else None
