"""Tables and figures of an experiment, written beside its cells."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from igds.config.load import ConfigFile
from igds.experiments.comparison import arms
from igds.experiments.figures import figures
from igds.experiments.state import Finished, finished, open_experiment
from igds.experiments.tables import comparison
from igds.runs.files import whole_file

TITLES = {
    "ratio.svg": "Held-out performance by the share of the pool that is kept",
    "activation.svg": "Held-out performance by the fine-tuned model's feature activation",
}
"""Figure -> its caption."""


def write_pages(file: ConfigFile) -> tuple[Finished, Path]:
    """Write `comparison.md` and its figures into the experiment's folder.

    Of several processes that end at once the last writes all cells.

    Returns:
        The experiment as it is on the page, and the page.

    Raises:
        RequestError: as `finished`.
    """
    folder = open_experiment(file).folder
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".pages.lock", fallback_to_soft=False):
        made = finished(file)
        found = arms(made)
        drawn = figures(made, found)
        for name, svg in drawn.items():
            with whole_file(folder / name) as target:
                target.write(svg)
        text = f"# {file.config.name}\n\n{comparison(made, found)}"
        text += "".join(f"\n![{TITLES[name]}]({name})\n" for name in drawn)
        with whole_file(folder / "comparison.md") as target:
            target.write(text.encode())
    return made, folder / "comparison.md"
