"""From samples to effects: labels, what is missing, prompts that count as one."""

import numpy as np
import pyarrow as pa
import pytest
from planted_funnel import Bench

from igds.interventions.effects import effects_of, label, with_neutral
from igds.interventions.samples import SAMPLES
from igds.stats.bootstrap import Interval


def interval(mean, low=None, high=None):
    return Interval(
        mean=mean, low=mean - 0.1 if low is None else low, high=mean + 0.1 if high is None else high
    )


@pytest.mark.parametrize(
    ("delta", "contrast", "rest", "expected"),
    [
        (interval(0.3), interval(0.2), interval(0.1), "helpful"),
        (interval(0.05), interval(0.2), interval(0.1), "unclear"),
        (interval(-0.3), interval(-0.2), interval(-0.1), "harmful"),
        (interval(0.3), interval(0.0), interval(0.1), "format"),
        (interval(0.3), interval(0.2), interval(-0.1), "format"),
        (interval(0.3), interval(0.2), interval(np.nan), "helpful"),
        (interval(0.3), interval(np.nan), interval(0.1), "unclear"),
        (interval(0.3, np.nan, np.nan), interval(0.2), interval(0.1), "unclear"),
    ],
)
def test_labels(delta, contrast, rest, expected):
    assert label(delta, contrast, rest) == expected


def test_effects_count_what_is_missing_and_cluster_by_prompt():
    rows = [
        {
            "feature": "L1/0",
            "row_id": str(row),
            "activation": float(row % 2),
            "delta": row / 10,
            "delta_contrast": None,
            "delta_without_first_5": None if row < 3 else 1.0,
            "push": row % 2 / 2,
            "delta_by_token": [0.0],
        }
        for row in range(8)
    ]
    samples = pa.Table.from_pylist(rows, schema=SAMPLES)
    options = {"split": "S1", "rule": "amplify", "position": "generated", "coefficient": 2.0}
    options |= {"screen": {}, "seed": 0}
    alone = effects_of(samples, {str(r): str(r) for r in range(8)}, **options).to_pylist()[0]
    pairs = effects_of(samples, {str(r): str(r // 2) for r in range(8)}, **options).to_pylist()[0]
    assert (alone["n"], alone["active"], alone["n_without_first_5"]) == (8, 4, 5)
    assert alone["delta"] == pytest.approx(0.35) == pairs["delta"]
    assert alone["delta_contrast"] is None and alone["contrast_low"] is None
    assert alone["delta_without_first_5"] == 1.0
    assert alone["coefficient"] == 2.0 and alone["screen"] is None
    assert (alone["rule"], alone["position"]) == ("amplify", "generated")
    assert (alone["push"], alone["kl"]) == (0.25, None)
    assert pairs["delta_high"] - pairs["delta_low"] > alone["delta_high"] - alone["delta_low"]


def test_the_ratio_on_neutral_texts_stands_in_its_split_alone():
    effects = Bench().run().effects
    filled = with_neutral(effects, "S3", {"L1/0": 1.25, "L1/1": 0.5, "L2/10": 9.0})
    rows = [row for row in filled.to_pylist() if row["neutral_perplexity_ratio"] is not None]
    found = {(row["feature"], row["split"]): row["neutral_perplexity_ratio"] for row in rows}
    assert found == {("L1/0", "S3"): 1.25, ("L1/1", "S3"): 0.5}
    assert filled.schema.equals(effects.schema)
