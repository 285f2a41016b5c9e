"""Error rates of the rigorous mode on planted truth: how often it confirms what is not there.

    python benchmarks/planted_truth.py [--runs 400] [--end-to-end 20] [--processes 2]

Each run redraws a world of features with per-prompt effects: one helpful feature, a near copy of it
(the two count as one), a harmful one, one that only moves the first tokens or any response alike,
and 44 nulls whose effects have mean 0 and the helpful feature's deviation: a third normal, a third
skewed, a third silent on most prompts. The real funnel runs on it (screen, S1, S2, family test and
controls on S3), and what it confirms is counted; in the runs without signal the helpful feature and
its copy are nulls too. Contrast and later tokens have noise of their own.

The end-to-end runs are whole: `igds.run` on a hand-made tiny model with its SAEs and rows, all of
them drawn anew (`_planted.py`). There the nulls push directions that move letters at random.

`false_...` is the share of runs in which anything else than the helpful pair is confirmed, or would
be, its controls aside, at the whole level of 0.05 that a single task feature has. It passes at most
0.072 (0.05 and two standard errors of 400 runs); `power_...` is that in which the helpful pair is
confirmed, at the given mean over deviation; `coverage` that in which the helpful feature's interval
on S3 holds its true delta, and passes from 0.92 to 0.98. `end_to_end_false` and `end_to_end_found`
are the shares of whole runs: the first at most 0.05 and two standard errors, the second as it is,
since there the contrast deviates by the square root of two more than the delta, and has to lie
above 0 too; `end_to_end_nulls` is the least number of nulls with exact deltas. Exits 1 when a limit
is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from _common import print_machine, print_result
from igds.config.schema import Intervene
from igds.features import group_name
from igds.interventions.confirm import ALPHA, Evidence, unconfirmed
from igds.interventions.controls import CONTROLS
from igds.interventions.funnel import Funnel, Outcome, run_funnel
from igds.interventions.samples import SAMPLES

PROMPTS = 100
"""Prompts a split."""
NULLS = 44
LEAST_NULLS = 40
DEVIATION = 0.02
"""Nats a token between prompts, about what is seen on a 135M model."""
HELPFUL, COPY, HARMFUL, FORMAT = "L1/0", "L2/0", "L1/1", "L1/2"
FALSE_LIMIT, POWER_LIMIT, COVERAGE_LIMITS = 0.072, 0.9, (0.92, 0.98)
SETTINGS = Intervene(screen_keep=48, exact_keep=16, confirm_n=10, top_k=10, controls=99)
"""`top_k` is the whole family, so that everything confirmed is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one run of the funnel confirmed."""

    helpful: bool
    """The helpful feature or its copy."""
    false: bool
    """Anything else."""
    covered: bool | None = None
    """Whether the interval holds the truth; None when the feature did not reach S3."""
    nulls: int = 0
    """Features without an effect that had exact deltas."""


class World:
    """Features with true effects, and prompts drawn from them."""

    def __init__(self, seed: int, effect: float) -> None:
        """Draw the world.

        Args:
            seed: of everything.
            effect: the helpful feature's mean over its deviation; 0 for a world without signal.
        """
        self.seed, self.rng = seed, np.random.default_rng(seed)
        self.mean = {HELPFUL: effect * DEVIATION, COPY: effect * DEVIATION}
        self.mean |= {HARMFUL: -0.5 * DEVIATION, FORMAT: 0.8 * DEVIATION}
        self.mean |= {f"L3/{place}": 0.0 for place in range(NULLS)}
        vectors = self.rng.normal(size=(len(self.mean), 64))
        self.direction = dict(zip(self.mean, vectors, strict=True))
        self.direction[COPY] = self.direction[HELPFUL] + 0.2 * self.direction[COPY]
        self.deltas: dict[str, np.ndarray] = {}

    def exact(self, split: str, features: list[str], contrast: bool) -> pa.Table:
        """Return fresh deltas of a split; its prompts shift all features alike."""
        rows = []
        shared = self.rng.normal(size=PROMPTS) * DEVIATION * 0.5
        noise = {name: self.shaped(name, self.noise(shared)) for name in features}
        if COPY in noise and HELPFUL in noise:
            noise[COPY] = 0.95 * noise[HELPFUL] + np.sqrt(1 - 0.95**2) * noise[COPY]
        for name in features:
            delta = self.deltas[name] = self.mean[name] + noise[name]
            # Only the first tokens, and any response: nothing of it is left without them.
            left = 0.0 if name == FORMAT else 0.9
            rows.append(self.table(name, split, delta, left, shared, contrast))
        return pa.concat_tables(rows)

    def table(
        self,
        name: str,
        split: str,
        delta: np.ndarray,
        left: float,
        shared: np.ndarray,
        contrast: bool = True,
    ) -> pa.Table:
        """Return samples with these deltas; of each `left` is left in contrast and later tokens."""
        beyond = left * delta + 0.4 * self.noise(shared)
        columns = {
            "feature": [name] * PROMPTS,
            "row_id": [f"{split}-{row:03}" for row in range(PROMPTS)],
            "activation": 2 + self.rng.normal(size=PROMPTS) * 0.5,
            "delta": delta,
            "delta_contrast": beyond if contrast else [None] * PROMPTS,
            "delta_without_first_5": left * delta + 0.4 * self.noise(shared),
            **dict.fromkeys(("delta_answer", "push", "kl"), [None] * PROMPTS),
            "delta_by_token": [[]] * PROMPTS,
        }
        return pa.table(columns, schema=SAMPLES)

    def group(self, features: Sequence[str]) -> pa.Table:
        """Return samples of features together on S3: what each does there, added up."""
        together = sum((self.deltas[name] for name in features), np.zeros(PROMPTS))
        return self.table(group_name(features), "S3", together, 0.9, np.zeros(PROMPTS))

    def shaped(self, name: str, noise: np.ndarray) -> np.ndarray:
        """Return the noise of a feature: of every third null skewed, of another mostly 0."""
        place = int(name.removeprefix("L3/")) % 3 if name.startswith("L3/") else 0
        if place == 1:
            return (self.rng.exponential(size=PROMPTS) - 1) * DEVIATION
        if place == 2:
            return noise * (self.rng.random(PROMPTS) < 0.3) / np.sqrt(0.3)
        return noise

    def noise(self, shared: np.ndarray) -> np.ndarray:
        """Return per-prompt deviations of standard deviation `DEVIATION`."""
        own = self.rng.normal(size=PROMPTS) * DEVIATION * np.sqrt(0.75)
        return own + shared

    def screen(self) -> pa.Table:
        """Return a noisy first-order estimate of each feature's mean effect."""
        estimate = [mean + self.rng.normal() * DEVIATION / 10 for mean in self.mean.values()]
        return pa.table({"feature": list(self.mean), "screen": estimate})

    def controls(self, feature: str) -> pa.Table:
        """Return controls without any effect of their own, and an ablation that undoes it."""
        size = SETTINGS.controls
        kinds = ["decoder"] * size + ["residual"] * size + ["dose"]
        means = self.rng.normal(size=2 * size + 1) * DEVIATION / np.sqrt(PROMPTS)
        means[-1] -= self.mean[feature]
        columns = {
            "feature": [feature] * len(kinds),
            "kind": kinds,
            "number": [*range(size), *range(size), 0],
            "coefficient": [1.0] * (2 * size) + [-1.0],
            "n": [PROMPTS] * len(kinds),
            "delta": means,
            "delta_low": means - DEVIATION / 5,
            "delta_high": means + DEVIATION / 5,
        }
        return pa.table(columns, schema=CONTROLS)

    def run(self) -> Outcome:
        """Return what the funnel finds."""
        splits = ("S1", "S2", "S3")
        return run_funnel(
            Funnel(
                settings=SETTINGS,
                mixed_pool=False,
                clusters={f"{s}-{r:03}": f"{s}-{r}" for s in splits for r in range(PROMPTS)},
                specificity_low=dict.fromkeys(self.mean, 0.9),
                direction=self.direction.__getitem__,
                seed=self.seed,
                screen=self.screen,
                exact=lambda split, features, contrast: self.exact(split, list(features), contrast),
                commit_plan=lambda _plan: None,
                group=self.group,
                controls=self.controls,
            )
        )


def one_run(seed: int, effect: float) -> Found:
    """Return what the funnel confirms in one world."""
    world = World(seed, effect)
    outcome = world.run()
    rows = rows_of(outcome.effects, "S3")
    low, high = (rows.get(HELPFUL, {}).get(f"delta_{end}") for end in ("low", "high"))
    return Found(
        **judged(outcome.task_features, outcome.effects, {HELPFUL, COPY} if effect else set()),
        covered=None if low is None or high is None else low <= world.mean[HELPFUL] <= high,
    )


def whole_run(seed: int) -> Found:
    """Return what a run of everything confirms in one drawn project."""
    import igds
    from _planted import write_project
    from igds.progress import SilentProgress

    with TemporaryDirectory() as folder:
        file = igds.load_config(write_project(Path(folder), seed) / "igds.yaml")
        run = igds.run(file, until="intervene", progress=SilentProgress())
        path = run.folder.path / "intervene" / "task_features.json"
        found = judged(json.loads(path.read_text()), run.effects, {HELPFUL, COPY})
        named = {HELPFUL, COPY, HARMFUL, FORMAT}
        return Found(**found, nulls=len(rows_of(run.effects, "S1").keys() - named))


def judged(
    task_features: dict[str, Any], effects: pa.Table, helpful: Collection[str]
) -> dict[str, bool]:
    """Return whether a helpful feature is confirmed, and whether anything else is or would be."""
    s2, s3 = rows_of(effects, "S2"), rows_of(effects, "S3")
    confirmed = set(task_features["confirmed"])
    passed = {name for name, row in s3.items() if name in s2 and at_whole_level(s2[name], row)}
    return {
        "helpful": bool(confirmed & set(helpful)),
        "false": bool((confirmed | passed) - set(helpful)),
    }


def at_whole_level(s2: dict[str, Any], s3: dict[str, Any]) -> bool:
    """Return whether a feature would be confirmed at the level of K = 1, its controls aside."""
    found = Evidence(t=s3["t"], p=s3["p"], p_family=s3["p_family"], q=s3["q"])
    usable = s2["label"] != "format" and s2["delta"] > 0
    return usable and not unconfirmed(found, s3, 0.0, ALPHA)


def rows_of(effects: pa.Table, split: str) -> dict[str, dict[str, Any]]:
    """Return feature -> its row of effects on a split."""
    return {row["feature"]: row for row in effects.to_pylist() if row["split"] == split}


def main() -> int:
    """Print the machine, the power curve and the result; return 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--end-to-end", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    # Each process has a core of its own.
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    print_machine()
    found: dict[float, list[Found]] = {}
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        for at, effect in enumerate((0.0, 0.2, 0.35, 0.5)):
            seeds = range(at * 1_000_000, at * 1_000_000 + options.runs)
            found[effect] = list(pool.map(partial(one_run, effect=effect), seeds, chunksize=5))
            print(f"mean over deviation {effect}: {summary(found[effect])}", flush=True)
        whole = list(pool.map(whole_run, range(options.end_to_end)))
    covered = [one.covered for effect in found if effect for one in found[effect]]
    result = {
        "false_no_signal": share([one.false for one in found[0.0]]),
        "false_signal": share([one.false for one in found[0.5]]),
        "power_020": share([one.helpful for one in found[0.2]]),
        "power_035": share([one.helpful for one in found[0.35]]),
        "power_050": share([one.helpful for one in found[0.5]]),
        "coverage": share([one for one in covered if one is not None]),
        "end_to_end_runs": len(whole),
        "end_to_end_false": share([one.false for one in whole]),
        "end_to_end_found": share([one.helpful for one in whole]),
        "end_to_end_nulls": min((one.nulls for one in whole), default=0),
    }
    print_result(runs=options.runs, **result)
    return 0 if met(result) else 1


def met(result: dict[str, Any]) -> bool:
    """Return whether every limit is kept; those of whole runs only where there were some."""
    simulated = (
        max(result["false_no_signal"], result["false_signal"]) <= FALSE_LIMIT
        and result["power_050"] >= POWER_LIMIT
        and COVERAGE_LIMITS[0] <= result["coverage"] <= COVERAGE_LIMITS[1]
    )
    n = result["end_to_end_runs"]
    whole = n == 0 or (
        result["end_to_end_false"] <= ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / n)
        and result["end_to_end_nulls"] >= LEAST_NULLS
    )
    return simulated and whole


def share(values: Sequence[bool]) -> float:
    """Return the share of true values; NaN of none."""
    return sum(values) / len(values) if values else float("nan")


def summary(found: Sequence[Found]) -> dict[str, Any]:
    """Return the shares of one arm, for people to read on the way."""
    return {
        "false": share([one.false for one in found]),
        "helpful": share([one.helpful for one in found]),
    }


if __name__ == "__main__":
    sys.exit(main())
