"""Runs every identification in a run folder of its own, then says how far they agree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from igds import pipeline
from igds.config.identity import to_plain
from igds.config.inputs import Source
from igds.config.load import ConfigFile
from igds.config.schema import Config
from igds.data.remote import public
from igds.errors import RequestError
from igds.interventions.paper import SPLIT
from igds.progress import Progress, make_progress
from igds.runs.files import whole_file, write_json
from igds.runs.lock import RunLock
from igds.stability.agreement import Identification, agreement
from igds.stability.page import stability_page
from igds.stability.priors import drawn, prior_sets

FOLDER = "stability"
"""Folder in the run folder."""
TOP = 5
"""Features that count as the best, as in the paper's Table 5."""


@dataclass(frozen=True, slots=True)
class Stability:
    """What was found, and where it is."""

    folder: Path
    """`stability/` of the run folder."""
    results: Mapping[str, Any]
    """`results.json`."""


def stability(
    file: ConfigFile,
    priors: Sequence[str],
    *,
    seeds: int = 3,
    rows: int | None = None,
    top: int = TOP,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Stability:
    """Identify features from each prior set with each seed, and return how far they agree.

    Each identification is a run of its own, `stability/<prior>-s<seed>/`, which ends at the order
    on S2, so that S3 stays unread for the run itself. One that is done is skipped; so a call that
    was cut short goes on.

    Args:
        file: what `igds.load_config` returns.
        priors: see `prior_sets`.
        seeds: how many, from the configuration's own.
        rows: rows of each source, drawn anew for each seed; all of them when absent, and then
            seeds part only what interventions read.
        top: features that count as the best.
        overwrite: replace identifications that other settings made.
        progress: where progress goes.

    Raises:
        RequestError: the priors or the configuration cannot be used.
        WorkError: the work failed, and can be resumed by the same call.
    """
    config = file.config
    for name, least, given in (("seeds", 1, seeds), ("rows", 1, rows), ("top", 1, top)):
        if given is not None and given < least:
            raise RequestError(f"--{name} must be at least {least}, not {given}")
    if config.recall is None or config.intervene is None:
        raise RequestError("igds stability needs the sections recall and intervene")
    sets = prior_sets(priors, config.data, file.base)
    runs = (file.base / config.runs_dir).resolve()
    folder = runs / config.name / FOLDER
    progress = progress or make_progress()
    found = []
    with RunLock(folder):
        for label, sources in sets.items():
            for seed in range(config.seed, config.seed + seeds):
                own = _config(config, label, drawn(sources, rows, seed), seed)
                progress.note(f"stability: prior {label}, seed {seed}")
                run = _run(replace(file, config=own), runs, overwrite, progress)
                found.append(_identification(run, label, seed))
        results = {
            "priors": {label: [_public(one) for one in own] for label, own in sets.items()},
            "rows": rows,
            "seeds": list(range(config.seed, config.seed + seeds)),
            **agreement(found, top),
        }
        write_json(folder / "results.json", results)
        with whole_file(folder / "index.html") as page:
            page.write(stability_page(config.name, results).encode())
    return Stability(folder=folder, results=results)


def _config(config: Config, label: str, sources: tuple[Source, ...], seed: int) -> Config:
    """Return the configuration of one identification: no pool, and no model to be trained."""
    return replace(
        config,
        name=f"{label}-s{seed}",
        seed=seed,
        runs_dir=f"{config.runs_dir}/{config.name}/{FOLDER}",
        model=replace(
            config.model, train_id=None, train_revision=None, train_trust_remote_code=False
        ),
        data=replace(config.data, prior=sources, pool=(), test=()),
        score=None,
        select=None,
        report=None,
    )


def _public(source: Source) -> dict[str, Any]:
    """Return a source in plain values, without the query of its URL."""
    return to_plain(replace(source, path=public(source.path)))


def _run(file: ConfigFile, runs: Path, overwrite: bool, progress: Progress) -> pipeline.Run:
    try:
        return pipeline.run_part(
            file, runs, until="intervene", seals=True, overwrite=overwrite, progress=progress
        )
    except RequestError as error:
        raise RequestError(f"stability, {file.config.name}: {public(str(error))}") from error


def _identification(run: pipeline.Run, label: str, seed: int) -> Identification:
    """Return what a finished run found."""
    features, effects = run.features, run.effects
    chosen = json.loads((run.folder.path / "intervene" / "task_features.json").read_bytes())
    split = "S1"
    if chosen["judged_by"] != "S2":  # the paper mode: a position
        split = SPLIT
        effects = effects.filter(pc.equal(effects["position"], chosen["judged_by"]))
    measured = effects.filter(pc.equal(effects["split"], split))
    names, deltas = (measured[column].to_pylist() for column in ("feature", "delta"))
    return Identification(
        prior=label,
        seed=seed,
        recalled=frozenset(features.filter(features["recalled"])["feature"].to_pylist()),
        order=tuple(chosen["order"]),
        deltas=dict(zip(names, deltas, strict=True)),
        outcome=chosen["outcome"],
        features=tuple(chosen["features"]),
    )
