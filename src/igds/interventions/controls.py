"""Amplitude-matched controls: the same push in other directions, and the same direction in doses.

A control adds `u * a_f(x) * |W_dec[f]|` where the feature itself is edited (`intervene.position`):
what amplifying it adds, but along the unit vector u; beside clamp, as far as clamping pushes. A
feature whose delta is no larger than theirs is a push, not a meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from igds.data.seeds import seeded_bits
from igds.errors import RequestError
from igds.interventions.rules import Rule
from igds.stats.bootstrap import paired_bootstraps
from igds.stats.null import or_null

DOSES = (-1.0, -0.5, 0.5, 1.0, 2.0)
"""Coefficients that are measured, beside or with the run's own; at -1 the feature is ablated."""
UNLIKE = 0.3
"""Decoder cosine below which another feature counts as another direction."""
QUANTILE = 0.95
"""Share of the controls of a kind that a feature's delta must exceed."""
MATCHED = ("decoder", "residual", "isotropic")
"""Kinds drawn many times: rows of the decoder, draws from the residuals' covariance at t*, and
directions without preference."""

CONTROLS = pa.schema(
    {
        "feature": pa.string(),
        "kind": pa.string(),
        "number": pa.int32(),
        "coefficient": pa.float64(),
        "n": pa.int32(),
        "delta": pa.float64(),
        "delta_low": pa.float64(),
        "delta_high": pa.float64(),
    }
)
"""Columns of `intervene/controls.parquet`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The vectors that stand in for one feature, and what each is."""

    kinds: tuple[str, ...]
    """`decoder`, `residual`, `isotropic`, `mean`, `difference` or `dose`."""
    coefficients: tuple[float, ...]
    """Multiple of the feature's own contribution in size."""
    vectors: Float[np.ndarray, "controls d_model"]
    """What is added for an activation of 1, float32."""


def doses(rule: Rule, coefficient: float) -> list[float]:
    """Return the multiples of a feature's own contribution that the run's edit is not already."""
    return [dose for dose in DOSES if rule != "amplify" or dose != coefficient]


def make_controls(
    feature: str,
    direction: Float[np.ndarray, " d_model"],
    decoder: Float[np.ndarray, "features d_model"],
    task: Float[np.ndarray, "task d_model"],
    other: Float[np.ndarray, "control d_model"],
    *,
    draws: int,
    rule: Rule,
    coefficient: float,
    seed: int,
) -> Controls:
    """Return the controls of one feature: `draws` of each matched kind, the two means, the doses.

    Without control prompts there is no mean of theirs, and no control `difference`.

    Args:
        feature: its name, part of the seed.
        direction: its decoder row.
        decoder: decoder rows of the same SAE.
        task: residuals at t* of task prompts, from which no delta is measured.
        other: residuals at t* of control prompts; may be none.
        draws: controls a matched kind.
        rule: what the run does to features.
        coefficient: the run's own.
        seed: the run's.

    Raises:
        RequestError: the SAE has too few features of another direction.
    """
    rng = np.random.default_rng(seeded_bits(seed, "intervene/controls", feature))
    unit = _unit(decoder)
    unlike = np.flatnonzero(np.abs(unit @ _unit(direction[None])[0]) < UNLIKE)
    if len(unlike) < draws:
        raise RequestError(
            f"{feature}: only {len(unlike)} features of its SAE point elsewhere (|cos| under "
            f"{UNLIKE}): set intervene.controls to at most that (now {draws})"
        )
    centre, measured = task.mean(axis=0), doses(rule, coefficient)
    families = {
        "decoder": unit[rng.choice(unlike, draws, replace=False)],
        # a weighted sum of centred rows has their covariance
        "residual": _unit(rng.normal(size=(draws, len(task))) @ (task - centre)),
        "isotropic": _unit(rng.normal(size=(draws, len(direction)))),
        "mean": _unit(centre[None]),
        **({"difference": _unit((centre - other.mean(axis=0))[None])} if len(other) else {}),
        "dose": np.stack([direction / np.linalg.norm(direction)] * len(measured)),
    }
    sizes = {kind: [coefficient] * len(rows) for kind, rows in families.items()}
    sizes["dose"] = measured
    norm = np.linalg.norm(direction)
    scales = np.concatenate([sizes[kind] for kind in families])[:, None] * norm
    return Controls(
        kinds=tuple(kind for kind, rows in families.items() for _ in rows),
        coefficients=tuple(size for kind in families for size in sizes[kind]),
        vectors=(scales * np.concatenate(list(families.values()))).astype(np.float32),
    )


def control_effects(
    feature: str,
    controls: Controls,
    deltas: Float[np.ndarray, "prompts controls"],
    clusters: Sequence[str],
    *,
    seed: int,
) -> pa.Table:
    """Return each control's mean delta with its interval, with the columns of `CONTROLS`."""
    rows, seen = [], dict.fromkeys(controls.kinds, 0)
    intervals = paired_bootstraps(deltas.T, clusters, seed=seed)
    for place, (kind, found) in enumerate(zip(controls.kinds, intervals, strict=True)):
        rows.append(
            {
                "feature": feature,
                "kind": kind,
                "number": seen[kind],
                "coefficient": controls.coefficients[place],
                "n": len(deltas),
                "delta": found.mean,
                "delta_low": or_null(found.low),
                "delta_high": or_null(found.high),
            }
        )
        seen[kind] += 1
    return pa.Table.from_pylist(rows, schema=CONTROLS)


def beaten_by(delta: float, effects: pa.Table) -> str:
    """Return which controls do as well as the feature; empty when it beats them.

    It must exceed the 95th percentile of the decoder rows and of the residual draws.
    """
    for kind, words in (
        ("decoder", "other decoder rows of its SAE"),
        ("residual", "draws from the residuals' covariance"),
    ):
        bar = percentile_95(effects, kind)
        if not delta > bar:
            return f"{words}, pushed as far, reach {bar:+.4f} at their 95th percentile"
    return ""


def control_doubt(
    delta: float, draws: int, measured: Callable[[], pa.Table | None], where: str = ""
) -> str:
    """Return why its controls do not let a feature be confirmed; empty when it beats them.

    Args:
        delta: the feature's own on S3, as its controls are measured.
        draws: controls of a kind that are asked for.
        measured: their effects, None when they do not fit the budget; not called without draws.
        where: what the comparison is in, where that must be said.
    """
    if not draws:
        return "not confirmed: no controls were drawn (intervene.controls is 0)"
    effects = measured()
    if effects is None:
        return "not confirmed: its controls did not fit the budget (intervene.budget)"
    beaten = beaten_by(delta, effects)
    return f"no better than its controls{where}: {beaten}" if beaten else ""


def percentile_95(effects: pa.Table, kind: str) -> float:
    """Return the delta that a feature must exceed: see `bar_of`; NaN when none was drawn."""
    deltas = effects.filter(pc.equal(effects["kind"], kind))["delta"].to_numpy()
    return bar_of(deltas) if len(deltas) else float("nan")


def bar_of(deltas: Float[np.ndarray, " controls"]) -> float:
    """Return the 95th percentile of one kind's controls, which is the delta of one of them."""
    return float(np.quantile(deltas, QUANTILE, method="higher"))


def two_sided(effect: Mapping[str, Any], effects: pa.Table) -> bool:
    """Return whether amplification raises the score and ablation lowers it, by their intervals.

    Under another rule than amplify the dose +1 is the amplification.
    """
    up = effect if effect["rule"] == "amplify" else dose(effects, 1.0)
    low, high = up["delta_low"], dose(effects, -1.0)["delta_high"]
    return low is not None and high is not None and low > 0 > high


def dose(effects: pa.Table, coefficient: float) -> dict[str, Any]:
    """Return the effect of one multiple of the feature's own contribution."""
    chosen = pc.and_(
        pc.equal(effects["kind"], "dose"), pc.equal(effects["coefficient"], coefficient)
    )
    return effects.filter(chosen).to_pylist()[0]


def _unit(rows: Float[np.ndarray, "rows d_model"]) -> Float[np.ndarray, "rows d_model"]:
    """Return the rows at length 1; rows of length 0 stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)
