"""Generated outputs judged by the task: one row a feature, position and prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from igds.errors import RequestError
from igds.stats.passk import pass_at_k

Judge = Callable[[str, str], tuple[float, bool]]
"""(row id, output) -> task score, 0-1, and whether the output holds what the task can judge."""

SCORED = pa.schema(
    {
        "feature": pa.string(),
        "position": pa.string(),
        "row_id": pa.string(),
        "activation": pa.float64(),
        "push": pa.float64(),
        "kl": pa.float64(),
        "task_score": pa.float64(),
        "original_score": pa.float64(),
        "delta": pa.float64(),
        "changed": pa.int32(),
        "tokens": pa.float64(),
        "original_tokens": pa.float64(),
        "broken": pa.float64(),
        "original_broken": pa.float64(),
        "pass_k": pa.float64(),
        "original_pass_k": pa.float64(),
        "text": pa.string(),
        "original_text": pa.string(),
    }
)
"""Scores, lengths and broken shares are means over the samples of a prompt, `changed` how many of
them the edit changed, texts those of its first sample; `pass_k` is null unless asked for."""

AT_READ = ("activation", "push", "kl")
"""Columns that say what the edit does at t*, as `SAMPLES` has them."""


def judge_once(judge: Judge) -> Judge:
    """Return the judge with a memory: it is asked once for equal arguments."""
    known: dict[tuple[str, str], tuple[float, bool]] = {}

    def remembered(row_id: str, text: str) -> tuple[float, bool]:
        if (row_id, text) not in known:
            known[row_id, text] = judge(row_id, text)
        return known[row_id, text]

    return remembered


def scored_outputs(outputs: pa.Table, judge: Judge, pass_k: int | None = None) -> pa.Table:
    """Return one row a feature, position and prompt, with the columns of `SCORED`.

    Args:
        outputs: see `OUTPUTS`.
        judge: of the task.
        pass_k: k of pass@k, None to leave it out.

    Raises:
        RequestError: pass@k is asked for, and a score is neither 0 nor 1.
    """
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in outputs.sort_by([("row_id", "ascending"), ("sample", "ascending")]).to_pylist():
        groups.setdefault((row["row_id"], row["position"], row["feature"]), []).append(row)
    rows = []
    for (row_id, position, feature), samples in groups.items():
        edited = _arm(row_id, samples, ("text", "tokens", "ended"), judge, pass_k)
        names = ("original", "original_tokens", "original_ended")
        plain = _arm(row_id, samples, names, judge, pass_k)
        rows.append(
            {
                "feature": feature,
                "position": position,
                "row_id": row_id,
                **{name: samples[0][name] for name in AT_READ},
                "task_score": edited["score"],
                "original_score": plain["score"],
                "delta": edited["score"] - plain["score"],
                "changed": sum(row["text"] != row["original"] for row in samples),
                "text": samples[0]["text"],
                "original_text": samples[0]["original"],
                **{name: edited[name] for name in ("tokens", "broken", "pass_k")},
                **{f"original_{name}": plain[name] for name in ("tokens", "broken", "pass_k")},
            }
        )
    return pa.Table.from_pylist(rows, schema=SCORED)


def is_broken(ended: bool, parsed: bool) -> bool:
    """Return whether an output is broken: it never ended, or holds nothing that can be judged."""
    return not (ended and parsed)


def pass_k_of(scores: Sequence[float], k: int) -> float:
    """Return pass@k of one prompt's samples.

    Raises:
        RequestError: a score is neither 0 nor 1.
    """
    other = next((score for score in scores if score not in (0.0, 1.0)), None)
    if other is not None:
        raise RequestError(
            f"intervene.pass_k needs task scores of 0 or 1, and an output has {other:g}: leave it "
            "out, or take a metric that says right or wrong"
        )
    return float(pass_at_k(np.array([sum(map(int, scores))]), len(scores), k)[0])


def _arm(
    row_id: str,
    samples: Sequence[Mapping[str, Any]],
    names: tuple[str, str, str],
    judge: Judge,
    pass_k: int | None,
) -> dict[str, Any]:
    """Return the means of one arm over the samples of a prompt."""
    text, tokens, ended = names
    found = [judge(row_id, row[text]) for row in samples]
    scores = [score for score, _ in found]
    broken = [
        is_broken(row[ended], parsed) for row, (_, parsed) in zip(samples, found, strict=True)
    ]
    return {
        "score": float(np.mean(scores)),
        "tokens": float(np.mean([row[tokens] for row in samples])),
        "broken": float(np.mean(broken)),
        "pass_k": None if pass_k is None else pass_k_of(scores, pass_k),
    }
