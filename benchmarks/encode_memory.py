"""Memory that scoring one feature of a large SAE takes beyond what the process had before.

    python benchmarks/encode_memory.py [--width 65536] [--d-in 4096]

The files are those of a SAELens folder, JumpReLU in float32 and TopK in float16, written by another
process. `extra_mb` and `extra_mb_topk` are the growth of the largest resident size over reading the
feature and scoring 256 rows, on all of which the TopK SAE has to look at every other feature.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _common import print_machine, print_result

ROWS = 256
FEATURE = 12_345
K = 50
KINDS = {"jumprelu": "float32", "topk": "float16"}
"""Activation -> dtype of the stored matrices."""


def main() -> None:
    """Print the machine, what each activation took, and the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=65_536)
    parser.add_argument("--d-in", type=int, default=4096)
    parser.add_argument("--write", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--score", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(options.write[0], Path(options.write[1]), options.d_in, options.width)
    elif options.score:
        score(Path(options.score))
    else:
        print_machine()
        found = {kind: measured(kind, options.width, options.d_in) for kind in KINDS}
        print_result(
            width=options.width,
            d_in=options.d_in,
            extra_mb=found["jumprelu"][0],
            extra_mb_topk=found["topk"][0],
            seconds=found["jumprelu"][1],
            seconds_topk=found["topk"][1],
        )


def measured(kind: str, width: int, d_in: int) -> tuple[float, float]:
    """Return extra megabytes and seconds of one activation, each step in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = ["--width", str(width), "--d-in", str(d_in)]
        run("--write", kind, folder, *sizes)
        extra, seconds = map(float, run("--score", folder, *sizes).split())
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
    print(f"{kind}: {size:.0f} MB on disk, {extra:.0f} MB more in memory, {seconds:.1f} s")
    return extra, seconds


def run(*words: str) -> str:
    """Return what this file prints when it is run with other words."""
    command = [sys.executable, __file__, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def write(kind: str, folder: Path, d_in: int, width: int) -> None:
    """Write a random SAE."""
    import torch
    from safetensors.torch import save_file

    from igds.saes.formats.saelens import write_saelens
    from igds.saes.sae import SAE

    generator = torch.Generator().manual_seed(0)
    sae = SAE(
        layer=0,
        activation="topk" if kind == "topk" else "jumprelu",
        W_enc=torch.randn(d_in, width, generator=generator),
        W_dec=torch.randn(width, d_in, generator=generator),
        b_enc=torch.zeros(width),
        b_dec=torch.zeros(d_in),
        threshold=None if kind == "topk" else torch.ones(width),
        k=K if kind == "topk" else None,
        hook_name="blocks.0.hook_resid_post",
        release="random",
        revision="",
    )
    write_saelens(sae, folder, weights=getattr(torch, KINDS[kind]))
    rows = sae.W_enc[:, FEATURE].repeat(ROWS, 1)
    save_file({"rows": rows}, folder / "rows.safetensors")


def score(folder: Path) -> None:
    """Print the extra megabytes and the seconds of scoring one feature."""
    from safetensors.torch import load_file

    from igds.runs.memory import peak_rss_mb
    from igds.saes.load import SAESpec, open_sae

    spec = SAESpec(path=str(folder), source=str(folder), release="random")
    rows = load_file(folder / "rows.safetensors")["rows"]
    start, before = time.perf_counter(), peak_rss_mb()
    acts = open_sae(spec).columns([FEATURE]).encode_columns(rows, [FEATURE])
    assert bool((acts > 0).all()), "the planted rows excite the feature"
    print(peak_rss_mb() - before, time.perf_counter() - start)


if __name__ == "__main__":
    main()
