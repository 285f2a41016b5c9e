"""A run folder with planted values, as the stages would leave it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from igds.features import group_name
from igds.interventions.controls import CONTROLS
from igds.interventions.side_effects import SIDE_EFFECTS
from igds.interventions.words import WORDS

STAGES = ("index", "recall", "intervene", "score", "select", "report")
LAYERS = (9, 14, 21)
HOSTILE = "<script>alert('x')</script>\u202eevil\u202c\u2028next\u0000 &amp; \"q\""
TASK_FEATURE = "L14/11575"
FIRST_PLAN = {
    "time": "2026-01-02T03:04:05+00:00",
    "run": "before",
    "features": ["L9/7", "L14/8"],
    "coefficient": 0.5,
    "top_k": 1,
}

CONFIG = """\
name: {name}
model:
  id: models/SmolLM2-135M-Instruct
task:
  name: math
data:
  pool: [{{path: data/pool.jsonl}}]
  overlap: {overlap}
recall:
  min_frequency: 0.8
  candidates: frequent
intervene: {{}}
score:
  methods: [igds, random]
select: {{}}
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to plant."""

    until: str = "report"
    outcome: str = "unconfirmed"
    task_features: tuple[str, ...] = (TASK_FEATURE,)
    overlap: str = "refuse"
    pool_rows: int = 600
    tied: bool = False
    recalled: int = 90
    readings: int = 1


def write_run(folder: Path, plan: Plan) -> Path:
    """Write the run folder up to the plan's last stage and return it."""
    rng = np.random.default_rng(7)
    writers = (_index, _recall, _intervene, _score, _select, _rows)
    for stage, writer in zip(STAGES, writers, strict=True):
        (folder / stage).mkdir(parents=True, exist_ok=True)
        writer(folder / stage, plan, rng)
        if stage == plan.until:
            break
    (folder / "config.yaml").write_text(CONFIG.format(name="smol-math", overlap=plan.overlap))
    _json(folder / "manifest.json", _manifest())
    return folder


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as one Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)


def drop_column(path: Path, column: str) -> None:
    """Remove one column of a Parquet file."""
    pq.write_table(pq.read_table(path).drop_columns([column]), path)


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _manifest() -> dict[str, Any]:
    return {
        "name": "smol-math",
        "seed": 20260113,
        "versions": {"igds": "0.1.0", "torch": "2.9.0", "transformers": "5.0.1"},
        "model": {"id": "models/SmolLM2-135M-Instruct", "revision": None, "weights": "ab" * 32},
        "saes": {f"L{layer}": f"{layer:02d}" * 32 for layer in LAYERS},
        "plan": {"batch_tokens": 4096, "threads": 2},
        "stages": {
            name: {"seconds": seconds, "driver_peak_rss_mb": 1234.5 + seconds}
            for name, seconds in zip(STAGES, (3.2, 41.8, 192.4, 65.0, 0.4, 6.1), strict=True)
        },
    }


def _index(folder: Path, plan: Plan, rng: np.random.Generator) -> None:
    statuses = ["ok"] * (plan.pool_rows - 7) + ["too_long"] * 4 + ["torn_line"] + ["bad_json"] * 2
    lengths = np.clip(rng.lognormal(4.3, 0.5, plan.pool_rows), 12, 900).astype(int)
    rows = [
        {
            "row_id": f"{place:032x}",
            "source": ("gsm8k", "strategyqa<b>")[place % 3 == 0],
            "ordinal": place,
            "status": status,
            "n_prompt_tokens": int(lengths[place]) if status == "ok" else None,
            "response": f" The answer is {place}. <img src=x onerror=alert(1)>",
        }
        for place, status in enumerate(statuses)
    ]
    schema = pa.schema(
        [
            ("row_id", pa.string()),
            ("source", pa.string()),
            ("ordinal", pa.int64()),
            ("status", pa.string()),
            ("n_prompt_tokens", pa.int32()),
            ("response", pa.string()),
        ]
    )
    half = plan.pool_rows // 2
    for part, chunk in enumerate((rows[:half], rows[half:])):
        table = pa.Table.from_pylist(chunk, schema=schema)
        pq.write_table(table, folder / f"rows-{part:05d}.parquet")
    counts = {name: statuses.count(name) for name in sorted(set(statuses))}
    sets = {
        "prior": {"rows": 300, "status": {"ok": 299, "empty_prompt": 1}, "tokens": 27_411},
        "validation": {"rows": 300, "status": {"ok": 300}, "tokens": 26_903},
        "control": {"rows": 400, "status": {"ok": 400}, "tokens": 31_870},
        "control_other": {"rows": 400, "status": {"ok": 400}, "tokens": 21_015},
        "task_other": {"rows": 300, "status": {"ok": 300}, "tokens": 22_318},
        "pool": {"rows": plan.pool_rows, "status": counts, "tokens": int(lengths.sum())},
    }
    overlaps = [{"a": "prior", "b": "pool", "rows": 3, "ngrams": 17, "examples": []}]
    summary = {
        "sets": sets,
        "template": "{question}\nPlease reason step by step, and put your final answer within "
        "\\boxed{}.\nSolution:",
        "rendering_hash": "9f" * 32,
        "overlaps": overlaps if plan.overlap == "allow" else [],
        "splits": {"S1": 100, "S2": 100, "S3": 100},
    }
    _json(folder / "summary.json", summary)


def _measured(plan: Plan) -> list[str]:
    """Return the features measured on S2, in its order."""
    rest = [f"L{LAYERS[k % 3]}/{1000 + 37 * k}" for k in range(15)]
    return [*plan.task_features, *rest]


def _recall(folder: Path, plan: Plan, rng: np.random.Generator) -> None:
    named = _measured(plan)
    extra = [f"L{LAYERS[k % 3 % 2 + 1]}/{3000 + 11 * k}" for k in range(plan.recalled - len(named))]
    rows = []
    for name in [*named, *extra]:
        frequency = float(rng.uniform(0.8, 1.0))
        specificity = float(np.clip(rng.normal(0.58, 0.2), 0.02, 0.99))
        rows.append(_feature(name, frequency, specificity, recalled=True))
    rows[0] |= {"frequency": 0.9431, "specificity": 0.8765, "control_frequency": 0.1234}
    rows[0] |= {"specificity_low": 0.8401, "specificity_high": 0.9098}
    rows[1] |= {"control_frequency": rows[1]["frequency"]}
    rare = [f"L{layer}/{k}" for layer in LAYERS for k in range(50)]
    rows += [_feature(name, 0.2, 0.5, recalled=False) for name in rare]
    write_table(folder / "features.parquet", rows)
    quality = {
        f"L{layer}": {
            "release": "smol-resid-jumprelu",
            "revision": f"{layer:02d}" * 32,
            "neuronpedia_id": "gemma-2-2b/14-gemmascope-res-16k" if layer == 14 else None,
            "explained_variance": 0.8123,
            "l0": 47.3,
            "dead_share": 0.021,
            "edge_cases": 3,
        }
        for layer in LAYERS
    }
    _json(folder / "quality.json", quality)


def _feature(name: str, frequency: float, specificity: float, *, recalled: bool) -> dict[str, Any]:
    layer, index = (int(part) for part in name[1:].split("/"))
    return {
        "feature": name,
        "layer": layer,
        "index": index,
        "frequency": frequency,
        "mean_activation": 3.21,
        "max_activation": 18.9,
        "control_frequency": max(0.0, frequency - 1.2 * abs(specificity - 0.4)),
        "specificity": specificity,
        "specificity_low": max(0.0, specificity - 0.04),
        "specificity_high": min(1.0, specificity + 0.04),
        "template_specificity": 0.6421,
        "recalled": recalled,
    }


def _intervene(folder: Path, plan: Plan, rng: np.random.Generator) -> None:
    order = _measured(plan)
    rows = []
    for place, name in enumerate(order):
        for split in ("S2", "S3") if place < 10 else ("S2",):
            delta = 0.041 * 0.8**place + float(rng.normal(0, 0.004))
            if (name, split) == (TASK_FEATURE, "S3"):
                delta = 0.0417
            rows.append(_effect(name, split, delta, rng))
    chosen = [] if plan.outcome == "none" else list(plan.task_features)
    if len(chosen) > 1:
        rows.append(_effect(group_name(chosen), "S3", 0.0621, rng))
    write_table(folder / "effects.parquet", rows)
    found = {
        "outcome": plan.outcome,
        "judged_by": "S3",
        "judged_on": "likelihood",
        "features": chosen,
        "order": order,
        "refused": {order[-1]: "not specific: the lower end of its AUROC is 0.47"},
        "screen_spearman": 0.9312,
        "screen_checked": 12,
        "screen_missed": 1,
        "screen_missed_high": 0.3539,
        "split_half_spearman": 0.8123,
        "top_share": 0.7654,
        "two_sided": dict.fromkeys(chosen, True),
        "reason": f"best is {order[0]} <i>unproven</i>; about 240 prompts would settle it",
        "group": group_name(chosen) if len(chosen) > 1 else None,
        "s3_readings": plan.readings,
        "s3_first_plan": FIRST_PLAN if plan.readings > 1 else None,
        "spent": 123_456,
        "budget": 200_000,
    }
    _json(folder / "task_features.json", found)
    controls = [
        {"feature": name, "kind": kind, "coefficient": c, "delta": delta}
        | {"delta_low": delta - 0.004, "delta_high": delta + 0.004}
        for name in chosen
        for kind, c, delta in (
            *(("decoder", 1.0, 0.0002 * k) for k in range(20)),
            *(("residual", 1.0, 0.0001 * k) for k in range(20)),
            *(("isotropic", 1.0, 0.0) for _ in range(20)),
            ("mean", 1.0, 0.0007),
            ("difference", 1.0, 0.0211),
            ("dose", -1.0, -0.0391),
            ("dose", -0.5, -0.0201),
            ("dose", 0.5, 0.0209),
            ("dose", 2.0, 0.0601),
        )
    ]
    if controls:
        write_table(folder / "controls.parquet", controls)
    else:
        pq.write_table(CONTROLS.empty_table(), folder / "controls.parquet")
    tokens = [" therefore", " =", "\n\n", " answer", " \u05d0", "<b>", " total", " sum", " each"]
    promoted = [
        {"feature": name, "rank": rank, "token": token, "logit": 3.0 - 0.2 * rank}
        for name in order
        for rank, token in enumerate(tokens)
    ]
    write_table(folder / "promoted.parquet", promoted)
    pq.write_table(WORDS.empty_table(), folder / "words.parquet")


def _effect(name: str, split: str, delta: float, rng: np.random.Generator) -> dict[str, Any]:
    row: dict[str, Any] = {"feature": name, "split": split, "n": 100, "active": 96}
    row |= {"coefficient": 1.0, "screen": delta * 1.1}
    row |= {"metric": "logprob", "position": "read", "rule": "amplify"}
    row |= {"push": 0.0321, "kl": 0.00123}
    row |= {"neutral_perplexity_ratio": 1.0456 if split == "S3" else None}
    row |= {"p_family": 0.0123 if split == "S3" else None, **dict.fromkeys(SIDE_EFFECTS)}
    row |= dict.fromkeys(("delta_logprob", "logprob_low", "logprob_high"))
    row |= {"q": 0.0321 if split == "S3" else None}
    for value, stem, size in (
        ("delta", "delta", delta),
        ("delta_contrast", "contrast", 0.7 * delta),
        ("delta_without_first_5", "without_first_5", 0.5 * delta),
        ("delta_answer", "answer", 0.4 * delta),
    ):
        width = float(rng.uniform(0.006, 0.012))
        row |= {value: size, f"{stem}_low": size - width, f"{stem}_high": size + width}
    row["label"] = "helpful" if delta > 0.02 else "format" if delta > 0.008 else "unclear"
    return row


def _score(folder: Path, _plan: Plan, _rng: np.random.Generator) -> None:
    index = sorted((folder.parent / "index").glob("rows-*.parquet"))
    columns = ["row_id", "status"]
    statuses = [row for path in index for row in pq.read_table(path, columns=columns).to_pylist()]
    for method in ("igds", "random"):
        rows = [row | {"x": 1.0 if row["status"] == "ok" else None} for row in statuses]
        rows[5]["x"] = None if method == "random" else 1.0
        write_table(folder / method / "shard-00000.parquet", rows[:256])
        write_table(folder / method / "shard-00001.parquet", rows[256:])
        _json(
            folder / method / "method.json", {"name": method, "weights": {"x": 1.0}, "offset": 0.0}
        )


def _select(folder: Path, plan: Plan, rng: np.random.Generator) -> None:
    n = plan.pool_rows - 7
    scores = np.maximum(0.0, rng.normal(4.0, 3.2, n))
    if plan.tied:
        scores = np.round(scores)
    order = np.argsort(-scores, kind="stable")
    rank = np.empty(n, dtype=int)
    rank[order] = np.arange(1, n + 1)
    kept = n // 5
    cut = float(scores[order[kept - 1]])
    rows = [
        {
            "row_id": f"{place:032x}",
            "pool_score": float(scores[place]) if place < n else None,
            "rank": int(rank[place]) if place < n else None,
            "selected": bool(place < n and rank[place] <= kept),
            "reason": ("top" if rank[place] <= kept else "budget") if place < n else "status",
        }
        for place in range(plan.pool_rows)
    ]
    write_table(folder / "selection.parquet", rows)
    summary = {
        "method": "igds",
        "budget": {"ratio": "0.2", "rows": None, "tokens": None},
        "diversity": None,
        "scored": n,
        "selected": kept,
        "reasons": {"top": kept, "budget": n - kept, "status": 7},
        "cut": cut,
        "tied_at_cut": int((scores == cut).sum()),
        "tied_at_cut_selected": int((scores[order[:kept]] == cut).sum()),
        "share_zero": float((scores == 0).mean()),
        "spearman_prompt_length": -0.1357,
    }
    _json(folder / "summary.json", summary)


PROMPT = (
    "A bakery sells 24 muffins every morning and twice as many rolls in the afternoon . If each "
    "muffin costs $ 2 and each roll costs 50 cents , how much money does the bakery earn in a "
    "week of 6 days ? \n Please reason step by step, and put your final answer within "
    "\\boxed{} . \n Solution :"
)


def _rows(folder: Path, plan: Plan, rng: np.random.Generator) -> None:
    selection = pq.read_table(folder.parent / "select" / "selection.parquet").to_pylist()
    ranked = sorted((row for row in selection if row["rank"]), key=lambda row: row["rank"])
    cut = sum(row["selected"] for row in ranked)
    groups = {"best": ranked[:3], "borderline": ranked[cut - 2 : cut + 2], "worst": ranked[-3:]}
    rows = []
    for group, members in groups.items():
        for place, member in enumerate(members):
            tokens = _tokens(group, place)
            for feature in plan.task_features:
                noise = rng.normal(-0.6, 1.0, len(tokens))
                acts = np.maximum(0.0, noise) * (0.3 + member["pool_score"] / 4)
                acts[0] = 400.0
                acts[-1] = member["pool_score"]
                rows.append(
                    {
                        "row_id": member["row_id"],
                        "group": group,
                        "feature": feature,
                        "tokens": tokens,
                        "activations": acts.tolist(),
                    }
                )
    schema = pa.schema(
        [
            ("row_id", pa.string()),
            ("group", pa.string()),
            ("feature", pa.string()),
            ("tokens", pa.list_(pa.string())),
            ("activations", pa.list_(pa.float64())),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "token_activations.parquet")


def _tokens(group: str, place: int) -> list[str]:
    """Return a prompt's tokens; the second of each group is hostile, the third worst is long."""
    first, *rest = PROMPT.split(" ")
    words = [first, *(f" {word}" for word in rest)]
    if place == 1:
        odd = [HOSTILE, "x" * 5000, " \u0645\u0631\u062d\u0628\u0627", "\t"]
        return [*words[:6], *odd, *words[6:]]
    if group == "worst" and place == 2:
        return words * 20
    return words
