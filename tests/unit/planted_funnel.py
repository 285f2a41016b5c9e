"""A planted world for the funnel: what its steps would measure, without a model."""

import numpy as np
import pyarrow as pa

from igds.config.schema import Intervene
from igds.interventions.controls import CONTROLS
from igds.interventions.funnel import Funnel, run_funnel
from igds.interventions.samples import SAMPLES

SETTINGS = Intervene(screen_keep=5, exact_keep=4, confirm_n=3, top_k=1)
DELTAS = {"L1/0": 0.5, "L1/1": 0.4, "L1/2": 0.3, "L2/0": 0.2, "L2/10": 0.1, "L2/9": -0.1}
"""What the screen says, and what the exact deltas are on average, unless a test says otherwise."""


class Bench:
    """A planted world that records what the funnel asked for."""

    def __init__(self, rows=30, deltas=DELTAS, contrast=0.1, rest=0.1):
        self.calls = []
        self.rows, self.deltas, self.contrast, self.rest = rows, dict(deltas), contrast, rest
        self.activation_of = {}
        self.control_delta, self.ablated, self.together = 0.0, -0.1, 0.8

    def screen(self):
        self.calls.append("screen")
        pairs = [(f, r) for f in DELTAS for r in range(4)]
        return pa.table(
            {
                "feature": [f for f, _ in pairs],
                "row_id": [f"S1-{r}" for _, r in pairs],
                "activation": [1.0] * len(pairs),
                "screen": [DELTAS[f] + (r - 1.5) / 100 for f, r in pairs],
            }
        )

    def exact(self, split, features, contrast):
        self.calls.append((split, tuple(features), contrast))
        rng, samples = np.random.default_rng(len(self.calls)), []
        shared = {r: rng.normal(0, 0.02) for r in range(self.rows)}
        for row in range(self.rows):
            for feature in features:
                source = self.activation_of.get(feature, feature)
                samples.append(
                    {
                        "feature": feature,
                        "row_id": f"{split}-{row}",
                        "activation": 2 + np.sin(row * (1 + list(DELTAS).index(source))),
                        "delta": self.deltas[feature] + shared[row],
                        "delta_contrast": self.contrast + shared[row] if contrast else None,
                        "delta_without_first_5": self.rest + shared[row],
                        "delta_answer": None,
                        "delta_by_token": [self.deltas[feature]],
                    }
                )
        return pa.Table.from_pylist(samples, schema=SAMPLES)

    def group(self, features):
        self.calls.append(("group", tuple(features)))
        rng = np.random.default_rng(99)
        shared = rng.normal(0, 0.02, self.rows)
        samples = [
            {
                "feature": "+".join(features),
                "row_id": f"S3-{row}",
                "activation": 2.0,
                "delta": self.together + shared[row],
                "delta_contrast": self.contrast + shared[row],
                "delta_without_first_5": self.rest + shared[row],
                "delta_answer": None,
                "delta_by_token": [self.together],
            }
            for row in range(self.rows)
        ]
        return pa.Table.from_pylist(samples, schema=SAMPLES)

    def controls(self, feature):
        self.calls.append(("controls", feature))
        kinds = ["decoder"] * 20 + ["residual"] * 20 + ["dose"]
        deltas = [self.control_delta + k / 1000 for k in range(20)] * 2 + [self.ablated]
        return pa.table(
            {
                "feature": [feature] * 41,
                "kind": kinds,
                "number": [*range(20), *range(20), 0],
                "coefficient": [1.0] * 40 + [-1.0],
                "n": [self.rows] * 41,
                "delta": deltas,
                "delta_low": [d - 0.05 for d in deltas],
                "delta_high": [d + 0.05 for d in deltas],
            },
            schema=CONTROLS,
        )

    def direction(self, feature):
        vector = np.zeros(8)
        vector[list(DELTAS).index(feature)] = 1.0
        return vector

    def run(self, settings=SETTINGS, **changes):
        splits = ("S1", "S2", "S3")
        parts = {
            "settings": settings,
            "mixed_pool": False,
            "clusters": {f"{s}-{r}": f"{s}-{r}" for s in splits for r in range(self.rows)},
            "specificity_low": dict.fromkeys(DELTAS, 0.9),
            "direction": self.direction,
            "seed": 0,
            "screen": self.screen,
            "exact": self.exact,
            "commit_plan": lambda plan: self.calls.append(plan),
            "group": self.group,
            "controls": self.controls,
        }
        return run_funnel(Funnel(**parts | changes))
