"""A run folder's artifacts read into frozen values; nothing is computed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool
from ruamel.yaml import YAML

from igds.data.remote import public
from igds.errors import RequestError
from igds.features import FeatureId, is_group
from igds.interventions.side_effects import SIDE_EFFECTS
from igds.reporting.artifacts import read_json, read_parts, read_table, require_keys
from igds.reporting.training import read_evaluation, read_training
from igds.reporting.values import (
    Control,
    Effect,
    Interval,
    Intervene,
    Outputs,
    Pool,
    Quality,
    Recall,
    Recalled,
    Run,
    ShownRow,
    Strip,
    Transfer,
    Transferred,
    Word,
)
from igds.runs.readings import reading_words
from igds.selection.quotas import source_numbers
from igds.selection.showcase import GROUPS
from igds.stats.null import or_nan


def read_run(folder: Path, token_activations: Path) -> Run:
    """Return the artifacts of a run folder.

    Args:
        folder: the run folder.
        token_activations: file of the rows to show token by token; none are shown when it is not
            there.

    Raises:
        RequestError: an artifact of a stage that has run misses, or lacks a column or key.
    """
    text = _config_text(folder / "config.yaml")
    config = YAML(typ="safe", pure=True).load(text)
    # A folder may be left of a stage, or of a model, that the configuration has no more.
    trained = config["model"].get("train_id") and (folder / "transfer").is_dir()
    selected = _ran(folder, config, "select")
    return Run(
        config=config,
        config_text=public(text),
        manifest=_manifest(folder / "manifest.json"),
        index=_index(folder / "index" / "summary.json"),
        recall=_recall(folder / "recall", config) if _ran(folder, config, "recall") else None,
        intervene=_intervene(folder / "intervene") if _ran(folder, config, "intervene") else None,
        transfer=_transfer(folder / "transfer") if trained else None,
        methods=_methods(folder / "score", config.get("score", {}).get("methods", ())),
        pool=_pool(folder, config) if selected else None,
        rows=_shown_rows(folder, token_activations) if selected else (),
        training=read_training(folder / "finetune") if _ran(folder, config, "finetune") else None,
        evaluation=read_evaluation(folder / "evaluate")
        if _ran(folder, config, "evaluate")
        else None,
    )


def _ran(folder: Path, config: Mapping[str, Any], stage: str) -> bool:
    """Return whether a stage that the configuration still has was finished."""
    return stage in config and (folder / stage).is_dir()


def _config_text(path: Path) -> str:
    if not path.is_file():
        raise RequestError(f"{path} is missing: {path.parent} is not a run folder")
    return path.read_text(encoding="utf-8")


def _manifest(path: Path) -> dict[str, Any]:
    manifest = read_json(path, ("name", "seed", "versions", "model", "saes", "stages"))
    for name, stage in manifest["stages"].items():
        require_keys(path, f"stages.{name}", ("seconds",), stage)
    return manifest


def _index(path: Path) -> dict[str, Any]:
    summary = read_json(path, ("sets", "template", "rendering_hash", "overlaps"))
    for name, data_set in summary["sets"].items():
        require_keys(path, f"sets.{name}", ("rows", "status", "tokens"), data_set)
    for place, overlap in enumerate(summary["overlaps"]):
        require_keys(path, f"overlaps.{place}", ("a", "b", "rows", "ngrams"), overlap)
    return summary


def _recall(folder: Path, config: Mapping[str, Any]) -> Recall:
    path = folder / "features.parquet"
    every = read_table(path, ("layer", "frequency", "recalled"))
    layers = every.column("layer").to_numpy()
    recalled = every.column("recalled").to_numpy(zero_copy_only=False).astype(bool)
    counts = Counter(layers[recalled].tolist())
    return Recall(
        candidates=config["recall"]["candidates"],
        features=_recalled_features(path),
        per_layer={layer: counts[layer] for layer in np.unique(layers).tolist()},
        measured=every.num_rows,
        highest_frequency=float(every.column("frequency").to_numpy().max()),
        quality=_quality(folder / "quality.json"),
    )


def _recalled_features(path: Path) -> dict[FeatureId, Recalled]:
    plain = ("frequency", "control_frequency", "mean_activation", "max_activation")
    rest = ("specificity", "specificity_low", "specificity_high", "template_specificity")
    columns = ("layer", "index", *plain, *rest)
    table = read_table(path, columns, where=pc.field("recalled"))
    features = (
        Recalled(
            id=FeatureId(row["layer"], row["index"]),
            **{name: or_nan(row[name]) for name in (*plain, "template_specificity")},
            specificity=_interval(row, "specificity", "specificity"),
        )
        for row in table.sort_by([("layer", "ascending"), ("index", "ascending")]).to_pylist()
    )
    return {feature.id: feature for feature in features}


def _quality(path: Path) -> dict[int, Quality]:
    names = ("release", "revision", "neuronpedia_id")
    numbers = ("explained_variance", "l0", "dead_share", "edge_cases")
    found = {}
    for layer, values in read_json(path).items():
        require_keys(path, layer, (*names, *numbers), values)
        found[int(layer.removeprefix("L"))] = Quality(**_fields(values, names, numbers))
    return found


def _intervene(folder: Path) -> Intervene:
    numbers = ("screen_spearman", "screen_missed_high", "split_half_spearman", "top_share")
    counts = ("screen_checked", "screen_missed")
    facts = ("outcome", "judged_by", "judged_on", "features", "order", "reason", "refused")
    keys = (*facts, "two_sided", *numbers, *counts)
    path = folder / "task_features.json"
    found = read_json(path, keys)
    if found["judged_by"] == "S3":
        require_keys(path, "", ("group", "s3_readings", "s3_first_plan", "spent", "budget"), found)
    effects = _effects(folder / "effects.parquet")
    group = found.get("group")
    return Intervene(
        outcome=found["outcome"],
        reason=found["reason"] or "",
        task_features=tuple(FeatureId.parse(name) for name in found["features"]),
        order=tuple(FeatureId.parse(name) for name in found["order"]),
        refused={FeatureId.parse(name): why for name, why in found["refused"].items()},
        two_sided={FeatureId.parse(name): both for name, both in found["two_sided"].items()},
        screen_checked=found["screen_checked"],
        screen_missed=found["screen_missed"],
        **{name: or_nan(found[name]) for name in numbers},
        controls=_controls(folder / "controls.parquet"),
        effects={
            (FeatureId.parse(name), split): effect
            for (name, split), effect in effects.items()
            if not is_group(name)
        },
        group=group,
        joint=effects[group, "S3"] if group else None,
        reread=reading_words(found),
        spent=found.get("spent"),
        budget=found.get("budget"),
        judged_by=found["judged_by"],
        promoted=_promoted(folder / "promoted.parquet"),
        judged_on=found["judged_on"],
        pilot=_pilot(folder / "pilot.json"),
        words=_words(folder / "words.parquet"),
    )


def _effects(path: Path) -> dict[tuple[str, str], Effect]:
    """Return (name of a feature or group, split or position) -> effect."""
    intervals = {
        "delta": "delta",
        "contrast": "delta_contrast",
        "without_first_5": "delta_without_first_5",
        "answer": "delta_answer",
        "logprob": "delta_logprob",
    }
    facts = ("n", "active", "metric", "rule", "position", "coefficient", "label")
    numbers = ("push", "kl", "neutral_perplexity_ratio", "p_family", "q")
    ends = [f"{stem}_{end}" for stem in intervals for end in ("low", "high")]
    columns = ("feature", "split", *facts, *numbers, *intervals.values(), *ends, *SIDE_EFFECTS)
    return {
        (row["feature"], _measurement(row)): Effect(
            n=row["n"],
            active=row["active"] or 0,
            metric=row["metric"],
            rule=row["rule"],
            position=row["position"],
            coefficient=row["coefficient"],
            label=row["label"] or "",
            push=or_nan(row["push"]),
            kl=or_nan(row["kl"]),
            neutral_perplexity_ratio=or_nan(row["neutral_perplexity_ratio"]),
            p_family=or_nan(row["p_family"]),
            q=or_nan(row["q"]),
            outputs=None if row["task_score"] is None else _outputs(row),
            **{stem: _interval(row, value, stem) for stem, value in intervals.items()},
        )
        for row in read_table(path, columns).to_pylist()
    }


def _outputs(row: Mapping[str, Any]) -> Outputs:
    names = [name for name in SIDE_EFFECTS if "pass_k" not in name]
    pass_k = _interval(row, "delta_pass_k", "pass_k")
    return Outputs(**{name: row[name] for name in names}, pass_k=pass_k)


def _pilot(path: Path) -> dict[str, Any] | None:
    """Return what the pilot found; None where no outputs were generated."""
    keys = ("rows", "score", "discordant", "expected_discordant", "prompts", "reason", "broken")
    return read_json(path, keys) if path.is_file() else None


def _words(path: Path) -> dict[tuple[FeatureId, str], tuple[Word, ...]]:
    columns = ("word", "log_ratio", "outputs", "original_outputs", "n")
    found: dict[tuple[FeatureId, str], tuple[Word, ...]] = {}
    for row in read_table(path, ("feature", "position", *columns)).to_pylist():
        key = (FeatureId.parse(row["feature"]), row["position"])
        word = Word(**{name: row[name] for name in columns})
        found[key] = (*found.get(key, ()), word)
    return found


def _measurement(row: Mapping[str, Any]) -> str:
    """Return the split; the position where one split was measured at several."""
    return row["position"] if row["split"] == "all" else row["split"]


def _controls(path: Path) -> dict[FeatureId, tuple[Control, ...]]:
    columns = ("feature", "kind", "coefficient", "delta", "delta_low", "delta_high")
    found: dict[FeatureId, tuple[Control, ...]] = {}
    for row in read_table(path, columns).to_pylist():
        feature, delta = FeatureId.parse(row["feature"]), _interval(row, "delta", "delta")
        control = Control(kind=row["kind"], coefficient=row["coefficient"], delta=delta)
        found[feature] = (*found.get(feature, ()), control)
    return found


def _promoted(path: Path) -> dict[FeatureId, tuple[tuple[str, float], ...]]:
    table = read_table(path, ("feature", "rank", "token", "logit"))
    found: dict[FeatureId, tuple[tuple[str, float], ...]] = {}
    for row in table.sort_by("rank").to_pylist():
        feature = FeatureId.parse(row["feature"])
        found[feature] = (*found.get(feature, ()), (row["token"], row["logit"]))
    return found


def _transfer(folder: Path) -> Transfer:
    summary = read_json(folder / "summary.json", ("model", "reason"))
    return Transfer(
        model=summary["model"],
        reason=summary["reason"] or "",
        features={} if summary["reason"] else _transferred(folder / "features.parquet"),
    )


def _transferred(path: Path) -> dict[FeatureId, Transferred]:
    specificity = ("specificity", "specificity_low", "specificity_high")
    table = read_table(path, ("feature", "frequency", "control_frequency", *specificity))
    return {
        FeatureId.parse(row["feature"]): Transferred(
            frequency=or_nan(row["frequency"]),
            control_frequency=or_nan(row["control_frequency"]),
            specificity=_interval(row, "specificity", "specificity"),
        )
        for row in table.to_pylist()
    }


def _methods(folder: Path, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return the finished methods that the configuration names, and what each did not score."""
    done = sorted(name for name in names if (folder / name / "method.json").is_file())
    return {name: _method_statuses(folder / name) for name in done}


def _method_statuses(folder: Path) -> dict[str, int]:
    """Return status -> rows of a method; ok rows that it gave no value count as `no_value`."""
    columns = list(read_json(folder / "method.json", ("weights",))["weights"])
    table = read_parts(folder, "shard-*.parquet", ("status", *columns))
    valued = np.all([table.column(name).is_valid().to_numpy() for name in columns], axis=0)
    status = table.column("status").to_numpy(zero_copy_only=False)
    named = np.where((status == "ok") & ~valued, "no_value", status)
    return dict(Counter(named.tolist()))


def _pool(folder: Path, config: Mapping[str, Any]) -> Pool:
    path = folder / "select" / "selection.parquet"
    selection = read_table(path, ("row_id", "pool_score", "selected"))
    index = read_parts(folder / "index", "rows-*.parquet", ("row_id", "n_prompt_tokens"))
    if not selection.column("row_id").equals(index.column("row_id")):
        raise RequestError(f"{path} is not of this index: run `igds select` again")
    counts = ("scored", "reasons", "tied_at_cut", "tied_at_cut_selected")
    plain = ("method", "budget", "diversity", *counts)
    numbers = ("cut", "share_zero", "spearman_prompt_length")
    summary = read_json(folder / "select" / "summary.json", (*plain, *numbers, "selected"))
    selected = selection.column("selected").to_numpy().astype(bool)
    return Pool(
        score=_floats(selection.column("pool_score")),
        selected=selected,
        sources=_by_source(folder, config["data"]["pool"], selected),
        prompt_tokens=_floats(index.column("n_prompt_tokens")),
        n_selected=summary["selected"],
        **_fields(summary, plain, numbers),
    )


def _by_source(
    folder: Path, sources: Sequence[Mapping[str, Any]], selected: Bool[np.ndarray, " rows"]
) -> tuple[tuple[str, int, int], ...]:
    """Return name, rows and selected rows of each of several sources, as the run was given them."""
    if len(sources) < 2:
        return ()
    rows = read_json(folder / "index" / "summary.json")["sets"]["pool"]["source_rows"]
    chosen = np.bincount(source_numbers(rows)[selected], minlength=len(rows)).tolist()
    parts = ("config", "split", "skip", "limit", "sample", "sample_seed")
    names = [
        ", ".join([public(one["path"]), *(f"{key} {one[key]}" for key in parts if one.get(key))])
        for one in sources
    ]
    return tuple(zip(names, rows, chosen, strict=True))


def _shown_rows(folder: Path, path: Path) -> tuple[ShownRow, ...]:
    if not path.is_file():
        return ()
    columns = ("row_id", "group", "feature", "tokens", "activations")
    strips: dict[tuple[str, str], list[Strip]] = {}
    for row in read_table(path, columns).to_pylist():
        strip = Strip(
            feature=FeatureId.parse(row["feature"]),
            tokens=tuple(row["tokens"]),
            activations=tuple(row["activations"]),
        )
        strips.setdefault((row["group"], row["row_id"]), []).append(strip)
    facts = _row_facts(folder, {row_id for _, row_id in strips})
    rows = [
        ShownRow(group=group, strips=tuple(found), **facts[row_id])
        for (group, row_id), found in strips.items()
    ]
    last = len(rows) + max((row.rank or 0 for row in rows), default=0)
    return tuple(sorted(rows, key=lambda row: (GROUPS.index(row.group), row.rank or last)))


def _row_facts(folder: Path, row_ids: set[str]) -> dict[str, dict[str, Any]]:
    """Return what the index and the selection say of the named rows, by row id."""
    wanted = pc.field("row_id").isin(pa.array(sorted(row_ids), pa.string()))
    from_index = ("row_id", "source", "ordinal", "response")
    from_selection = ("row_id", "pool_score", "rank", "selected", "reason")
    index = read_parts(folder / "index", "rows-*.parquet", from_index, where=wanted)
    selection = read_table(folder / "select" / "selection.parquet", from_selection, where=wanted)
    chosen = {row["row_id"]: row for row in selection.to_pylist()}
    facts = {row["row_id"]: row | chosen[row["row_id"]] for row in index.to_pylist()}
    for row in facts.values():
        row["pool_score"] = or_nan(row["pool_score"])
    return facts


def _interval(row: Mapping[str, Any], value: str, stem: str) -> Interval:
    low, high = (or_nan(row[f"{stem}_{end}"]) for end in ("low", "high"))
    return Interval(value=or_nan(row[value]), low=low, high=high)


def _fields(
    values: Mapping[str, Any], plain: Sequence[str], numbers: Sequence[str]
) -> dict[str, Any]:
    """Return the named values, those of `numbers` with NaN for null."""
    found = {name: values[name] for name in plain}
    return found | {name: or_nan(values[name]) for name in numbers}


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    """Return float64 values with NaN for nulls."""
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)
