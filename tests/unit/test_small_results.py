"""The page of the small experiment, from cells with planted values."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from planted_cells import cell_result, item

import small_results
from igds.config.experiment import split_arm
from igds.config.load import load_config
from igds.experiments.cells import Cell, budget_label, plan_cells
from igds.experiments.state import Finished

measure = small_results.measure
CONFIGS = Path(__file__).parents[2] / "configs" / "small"


def planted(
    name: str,
    mean: Callable[[Cell], float],
    chosen: Callable[[Cell], np.ndarray] = lambda _: np.arange(1200) < 240,
) -> Finished:
    """Return the whole grid of a config with a mean for each cell, and the rows it selected."""
    plan = plan_cells(load_config(CONFIGS / f"{name}.yaml").config)
    rng = np.random.default_rng(0)
    level = rng.normal(0, 1, 30)
    results = {}
    for cell in plan.cells:
        values = mean(cell) + level + rng.normal(0, 0.001) + rng.normal(0, 0.01, 30)
        items = [item(f"{n}", "logprob", float(v)) for n, v in enumerate(values)]
        results[cell] = cell_result(items, chosen(cell))
    return Finished(plan=plan, folder=Path("unused"), results=results)


def labels(name: str) -> np.ndarray:
    with gzip.open(CONFIGS / "data" / f"{name}_labels.csv.gz", "rt", encoding="utf-8") as file:
        return np.array([row["noise"] == "1" for row in csv.DictReader(file)])


def with_noise(share: float, noisy: np.ndarray) -> np.ndarray:
    """Return 240 selected rows of which this share is noise."""
    picked = np.zeros(len(noisy), bool)
    picked[np.flatnonzero(noisy)[: round(240 * share)]] = True
    picked[np.flatnonzero(~noisy)[: 240 - round(240 * share)]] = True
    return picked


def by_arm(values: dict[str, float], other: float, cell: Cell) -> float:
    return values.get(cell.arm, other)


def test_the_committed_page_is_what_the_stored_cells_say() -> None:
    page, drawn = small_results.page(*small_results.stored())
    assert page == (small_results.RESULTS / "small.md").read_text(encoding="utf-8")
    for path, svg in drawn.items():
        assert (small_results.RESULTS / path).read_bytes() == svg


def test_a_prediction_of_noise_is_met_or_not_by_every_seed() -> None:
    noisy = labels("noise_prompt")
    shares = {"igds": 0.2, "cosine": 0.25, "length": 0.05 - 1 / 240, "random": 0.5, "loss": 0.9}
    grid = planted(
        "noise-prompt", lambda _: 0.0, lambda cell: with_noise(shares.get(cell.arm, 0.0), noisy)
    )
    table = small_results.noise_table("noise-prompt", grid, measure(grid).arms).splitlines()
    said = {line.split(" | ")[0].strip("| "): line for line in table[2:7]}
    assert said["igds"].startswith("| igds | 20.0 % | ")
    assert said["igds"].endswith(" | 0.0 % to under 25.0 % | met |")
    parts = [float(cell.split()[0]) for cell in said["igds"].split(" | ")[2:-2]]
    assert len(parts) == 2 and sum(parts) == pytest.approx(20.0, abs=0.1)
    assert said["cosine"].endswith("| 0.0 % to under 25.0 % | **not met** |")
    assert said["length"].endswith("| met |") and said["random"].endswith("| met |")
    assert said["loss"].startswith("| loss | 90.0 % |") and said["loss"].endswith("| - |  |")
    assert table[-1].startswith("Of the pool 50.0 % is noise.")
    short = replace(grid, results=dict(list(grid.results.items())[:-1]))
    assert small_results.noise_table("noise-prompt", short, measure(short).arms).startswith(
        "Not looked at"
    )


@pytest.mark.parametrize(
    ("untrained", "said"), [(0.0, "not contradicted; 0.0"), (0.1, "**not met**; 0.0")]
)
def test_the_page_holds_contrasts_predictions_and_rates(untrained: float, said: str) -> None:
    better = {"original": -1.0, "igds": 0.1, "igds@untrained": untrained}
    found = {
        name: planted(name, partial(by_arm, better if name == "math" else {"original": -1.0}, 0.0))
        for name in small_results.NAMES
    }
    rate = {"original": -1.0, "random@lr1e-4": 0.1}
    tuned = {name: planted(name, partial(by_arm, rate, 0.0)) for name in small_results.TUNED}
    gains = {"original": -1.0, "igds": -0.1, "igds@strata": 0.1}
    tried = {name: planted(name, partial(by_arm, gains, 0.0)) for name in small_results.VARIANTS}
    page, drawn = small_results.page(found, tuned, tried)
    assert page.count("math: igds is better") == 3
    assert page.count("no difference found") == 6  # summarization's, in short and in the table
    row = next(line for line in page.splitlines() if line.startswith("| math | igds@untrained"))
    assert f"| {said}" in row
    lead = float(row.rstrip("| ").split(" | ")[-1].split()[0])
    assert lead == pytest.approx(0.1 - untrained, abs=0.01)
    full = next(line for line in page.splitlines() if line.startswith("full@"))
    assert float(full.split()[2]) == pytest.approx(1.0, abs=0.01)
    assert "deviations of random rows over seeds" in full
    strata = [line for line in page.splitlines() if line.startswith("| igds@strata")]
    assert "`--select.stratify length`" in strata[0]
    shown = [float(line.split(" | ")[-1].split()[0].replace("−", "-")) for line in strata[:2]]
    assert shown == pytest.approx([-0.2, 0.1], abs=0.01)  # igds minus it, it minus random
    assert {split_arm(cell.arm)[0] for cell in tuned["math-dev"].results} >= {"full", "random"}
    assert {path.split("/")[1] for path in drawn} == set(small_results.NAMES)


def test_a_rate_is_not_judged_before_random_rows_have_two_seeds() -> None:
    grid = planted("math-dev", partial(by_arm, {"original": -1.0}, 0.0))
    kept = {cell: one for cell, one in grid.results.items() if cell.seed == 0}
    *_, said = small_results.rates(replace(grid, results=kept))
    assert said.startswith("full@lr1e-4 is +") and "not judged" in said


def test_a_null_is_judged_by_as_many_seeds_as_were_wanted_and_may_have_no_feature() -> None:
    grid = planted("math", lambda _: 0.0)
    wanted = [cell for cell in grid.results if cell.arm in small_results.NULLS]
    lacking = next(c for c in grid.results if (c.arm, c.seed) == ("random", 1) and "0.2" in c.name)
    kept = {cell: one for cell, one in grid.results.items() if cell != lacking}
    rest = {name: replace(planted(name, lambda _: 0.0), results={}) for name in small_results.NAMES}
    pools = {name: measure(one) for name, one in rest.items()}
    table = small_results.null_predictions({**pools, "math": measure(replace(grid, results=kept))})
    assert table.count("| 1 |") == 2 and "contradicted" not in table
    none = tuple(cell for cell in wanted if cell.arm == "igds@untrained")
    left = {cell: one for cell, one in grid.results.items() if cell not in none}
    found = {
        **rest,
        "math": replace(grid, results=left, unselected=dict.fromkeys(none, "there is no feature")),
    }
    table = small_results.null_predictions({**pools, "math": measure(found["math"])})
    assert "| math | igds@untrained |  |  | met: no usable feature |" in table
    assert "| math | igds@permuted | 2 |" in table
    assert ("math", 50, 50) in [
        tuple(int(word) if word.isdigit() else word for word in line.strip("| ").split(" | "))
        for line in small_results.progress(found).splitlines()
    ]


def test_the_page_says_in_short_what_is_better_and_what_is_worse() -> None:
    values = {"original": -1.0, "igds": 0.1, "loss": -0.1, "cosine": 0.1}
    grid = planted("noise-prompt", partial(by_arm, values, 0.0))
    said = small_results.in_short(
        {"noise-prompt": measure(grid)}, {"noise-prompt": []}
    ).splitlines()
    assert said[:3] == [
        "- **noise-prompt**.",
        "  - Compared with random rows, not declared: better igds, cosine; worse loss; "
        "no difference seen length.",
        "  - igds compared with other arms, not declared: better than length, loss; "
        "no difference seen from cosine.",
    ]
    first = {cell: one for cell, one in grid.results.items() if cell.seed == 0}
    cut = measure(replace(grid, results=first))
    short = small_results.in_short({"noise-prompt": cut}, {"noise-prompt": []})
    assert short.startswith("- **noise-prompt** (not all cells yet).\n")
    assert "  - Compared with random rows, not declared: nothing can be said yet." in short
    broken = next(one for cell, one in grid.results.items() if cell.arm == "cosine")
    nan = pa.array([float("nan")] * len(broken.items), pa.float64())
    items = broken.items.set_column(4, "value", nan)
    results = {
        cell: replace(one, items=items) if cell.arm == "cosine" else one
        for cell, one in grid.results.items()
    }
    nowhere = measure(replace(grid, results=results))
    said = small_results.in_short({"noise-prompt": nowhere}, {"noise-prompt": []})
    assert "no difference seen length; diverged cosine." in said


def test_what_was_declared_is_said_by_its_verdict_alone() -> None:
    values = {"original": -1.0, "igds": 0.1}
    found = {"math": planted("math", partial(by_arm, values, 0.0))}
    pools = {"math": measure(found["math"])}
    said = small_results.in_short(pools, small_results.all_contrasts(found)).splitlines()
    assert said[1] == "  - Declared, igds - random: igds is better."
    assert [line.split(":")[0].split(" - ")[-1] for line in said[1:4]] == [
        "random", "igds-bottom", "cosine",
    ]  # fmt: skip
    random, igds = said[4:6]
    assert " igds," not in random and "igds-frequency" in random
    assert "cosine" not in igds and "bottom" not in igds and "igds-frequency" in igds


def test_shares_are_compared_with_the_whole_pool_by_seed() -> None:
    def mean(cell: Cell) -> float:
        share = (
            {"0.2": -0.3, "0.5": -0.1}[budget_label(cell.budget)] if cell.arm == "igds" else -0.2
        )
        return cell.seed + (0.0 if cell.arm == "full" else share)  # far apart unless paired

    grid = planted("math", mean)
    found = small_results.minus_full(grid, measure(grid).arms)
    assert set(found) == {(arm, share) for arm in ("igds", "random") for share in ("0.2", "0.5")}
    assert {gap.seeds for gap in found.values()} == {3}  # the whole pool has three
    assert found["igds", "0.2"].interval.mean == pytest.approx(-0.3, abs=0.02)
    assert found["igds", "0.5"].interval.mean == pytest.approx(-0.1, abs=0.02)
    assert found["igds", "0.5"].interval.high < 0
    none = {cell: one for cell, one in grid.results.items() if cell.arm != "full"}
    assert small_results.minus_full(grid, measure(replace(grid, results=none)).arms) == {}


@pytest.mark.parametrize(
    ("bottom", "lowest"),
    [(0.0, None), (0.1, "do as well as"), (0.2, "do better than")],
)
def test_a_score_whose_lowest_rows_do_as_well_may_be_empty(
    bottom: float, lowest: str | None
) -> None:
    values = {"original": -1.0, "igds": 0.1, "igds-bottom": bottom}
    found = {"math": planted("math", partial(by_arm, values, 0.0))}
    for cell, one in found["math"].results.items():
        if cell.arm.startswith("igds") and str(cell.budget and cell.budget.ratio) == "0.2":
            # 100, 200, .. 500 tokens a row over 5 seeds of igds: 300; four times that of its bottom
            tokens = one.facts["trained"]["rows"] * 100 * (cell.seed + 1)
            one.facts["trained"]["tokens"] = tokens * (4 if cell.arm == "igds-bottom" else 1)
    tested = small_results.all_contrasts(found)
    said = small_results.in_short({"math": measure(found["math"])}, tested)
    if lowest is None:
        assert "may be empty" not in said
    else:
        assert said.splitlines()[4] == (
            "  - The score may be empty here: as far as these trainings show, its lowest rows "
            f"{lowest} its highest. Equal rows are not equal tokens: 300 a row for igds, 1200 for "
            "igds-bottom."
        )
    first = {cell: one for cell, one in found["math"].results.items() if cell.seed < 4}
    unfinished = {"math": replace(found["math"], results=first)}
    tested = small_results.all_contrasts(unfinished)
    short = small_results.in_short({"math": measure(unfinished["math"])}, tested)
    assert "not judged yet" in short and "may be empty" not in short


def test_in_short_says_how_halves_stand_beside_the_whole_pool() -> None:
    found, _, _ = small_results.stored()
    grid = found["summarization"]
    gaps = small_results.minus_full(grid, measure(grid).arms)
    halves = [gaps[arm, "0.5"] for arm in ("igds", "random")]
    assert all(gap.seeds > 1 and gap.interval.high < 0 for gap in halves)
    heard = "Half of the pool compared with all of it, not declared: "
    said = small_results.in_short({"summarization": measure(grid)}, {"summarization": []})
    assert f"  - {heard}worse igds, random." in said.splitlines()
    none = {cell: kept for cell, kept in grid.results.items() if cell.arm != "full"}
    cut = measure(replace(grid, results=none))
    assert heard not in small_results.in_short({"summarization": cut}, {"summarization": []})
