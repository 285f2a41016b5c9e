"""The process that scores translations, as `OtherPython` starts it, with CHECKPOINT.

It runs in an environment with unbabel-comet and without igds, and imports nothing of igds. It reads
rows `{source, output, references}` and writes `{package, checkpoint}`, then `{score}` a row: of
several references the best counts.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    """Score all rows of the input at once."""
    import torch
    from comet import download_model, load_from_checkpoint  # pyright: ignore

    descriptor, checkpoint = sys.argv[1:]
    rows = [json.loads(line) for line in sys.stdin]
    local = Path(checkpoint).is_file()
    model = load_from_checkpoint(checkpoint if local else download_model(checkpoint))
    pairs = [
        {"src": row["source"], "mt": row["output"], "ref": reference}
        for row in rows
        for reference in row["references"]
    ]
    found = iter(model.predict(pairs, batch_size=8, gpus=int(torch.cuda.is_available())).scores)
    facts = {"package": f"unbabel-comet {version('unbabel-comet')}", "checkpoint": checkpoint}
    scores = [{"score": max(float(next(found)) for _ in row["references"])} for row in rows]
    lines = "".join(json.dumps(line) + "\n" for line in (facts, *scores))
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as output:
        output.write(lines)


if __name__ == "__main__":
    main()
