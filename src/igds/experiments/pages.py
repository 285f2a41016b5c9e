"""Tables and figures of an experiment, written beside its cells."""

from __future__ import annotations

from pathlib import Path

from igds.experiments.comparison import arms
from igds.experiments.figures import figures
from igds.experiments.state import Finished
from igds.experiments.tables import comparison
from igds.runs.files import whole_file

TITLES = {
    "ratio.svg": "Held-out performance by the share of the pool that is kept",
    "activation.svg": "Held-out performance by the fine-tuned model's feature activation",
}
"""Figure -> its caption."""


def write_pages(finished: Finished) -> Path:
    """Write `comparison.md` and its figures into the experiment's folder; return the page."""
    page = finished.folder / "comparison.md"
    found = arms(finished)
    drawn = figures(finished, found)
    for name, svg in drawn.items():
        with whole_file(finished.folder / name) as file:
            file.write(svg)
    text = f"# {finished.plan.config.name}\n\n{comparison(finished, found)}"
    text += "".join(f"\n![{TITLES[name]}]({name})\n" for name in drawn)
    with whole_file(page) as file:
        file.write(text.encode())
    return page
