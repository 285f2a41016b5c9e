"""A grid that cannot be run is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_experiment import with_experiment

from igds.cli.main import WRONG, main


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("arms: [igds, igds@folded", "arms: [igds, igds@fold", "did you mean folded?"),
        ("arms: [igds, igds@folded", "arms: [idgs, igds@folded", "did you mean igds?"),
        ("against: random}, ", "against: length}, ", "is no arm of this part"),
        ("budget: {ratio: 0.5}", "budget: {rows: 12}", "names igds twice at one budget"),
        ("seeds: 2", "seeds: 6", "seeds must be at most 5"),
        ("--score.aggregate folded", "--score.agregate folded", "experiment.variants.folded"),
        ("[original, igds, random]", "[original, igds, random-2, random]", "one draw"),
    ],
)
def test_a_wrong_grid_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: str
) -> None:
    config = with_experiment(project) / "igds.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    assert main(["experiment", str(config)]) == WRONG
    assert words in capsys.readouterr().err
    assert not (project / "runs").exists()
