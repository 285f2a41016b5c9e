"""The process that scores translations: `PYTHON comet_process.py OUTPUT CHECKPOINT GPUS`.

It runs in an environment with unbabel-comet and without igds, and imports nothing of igds. It reads
rows `{source, output, references}` of JSON from its input, a line each, and writes to OUTPUT a line
`{package, checkpoint}`, then a line `{score}` a row: of several references the best counts.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

NO_COMET = 3
"""Exit code when unbabel-comet is not installed."""


def main() -> None:
    """Score all rows of the input at once."""
    try:
        from comet import download_model, load_from_checkpoint  # pyright: ignore
    except ImportError:
        sys.exit(NO_COMET)
    output, checkpoint, gpus = sys.argv[1:]
    rows = [json.loads(line) for line in sys.stdin]
    local = Path(checkpoint).is_file()
    model = load_from_checkpoint(checkpoint if local else download_model(checkpoint))
    pairs = [
        {"src": row["source"], "mt": row["output"], "ref": reference}
        for row in rows
        for reference in row["references"]
    ]
    found = iter(model.predict(pairs, batch_size=8, gpus=int(gpus)).scores)
    facts = {"package": f"unbabel-comet {version('unbabel-comet')}", "checkpoint": checkpoint}
    scores = [{"score": max(float(next(found)) for _ in row["references"])} for row in rows]
    lines = "".join(json.dumps(line) + "\n" for line in (facts, *scores))
    Path(output).write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
