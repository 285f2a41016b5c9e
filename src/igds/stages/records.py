"""What a run writes about itself: events, each stage's cost, and the manifest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from igds.config.identity import dump_yaml
from igds.data.remote import public
from igds.errors import WorkError
from igds.runs.folder import RunFolder
from igds.runs.git import git_state
from igds.runs.memory import peak_rss_mb
from igds.stages.context import Context

RECORDED = ("igds", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "safetensors")
"""Packages whose versions go into the manifest."""


@contextmanager
def recorded(folder: RunFolder, name: str) -> Iterator[None]:
    """Write a stage's end, failure or skipping to the events, its cost to the manifest.

    One that was taken from another run has its cost from there.

    The stage itself writes its start, once it knows that there is work (`Context.open_stage`).
    """
    started = time.monotonic()
    before = committed_folders(folder, name)
    try:
        yield
    except BaseException as error:
        # What went wrong must not be hidden by a disk that is full.
        with suppress(OSError, WorkError):
            words = public(f"{type(error).__name__}: {error}")
            folder.event("stage_failed", stage=name, error=words)
        raise
    if committed_folders(folder, name) == before:
        folder.event("stage_skipped", stage=name)
        return
    if name in folder.manifest().get("taken", {}):
        folder.event("stage_taken", stage=name)
        return
    seconds = round(time.monotonic() - started, 3)
    folder.event("stage_finished", stage=name, seconds=seconds)
    cost = {"seconds": seconds, "driver_peak_rss_mb": round(peak_rss_mb(), 1)}
    folder.update_manifest({"stages": {**folder.manifest().get("stages", {}), name: cost}})


def committed_folders(folder: RunFolder, name: str) -> list[tuple[str, int]]:
    """Return the records of a stage's committed folders and when each was written."""
    found = [*folder.path.glob(f"{name}/stage.json"), *folder.path.glob(f"{name}/*/stage.json")]
    whole = [file for file in found if file.parent.suffix not in (".part", ".old")]
    return sorted((str(file), file.stat().st_mtime_ns) for file in whole)


def describe(context: Context, wanted: Sequence[str], *, first: bool = False) -> None:
    """Write `config.yaml`, and what the manifest says of the run as a whole.

    With `first` only where there is no record yet.
    """
    # The index alone needs no SAE; any other run learns at once that one is missing.
    needs_saes = list(wanted) != ["index"]
    saes = context.sae_identity if needs_saes else None
    if first and context.run.manifest():
        return
    context.run.write_config(dump_yaml(context.config))
    model, trained = context.model, context.train_model
    found = context.outcome if context.has_stage("intervene") else None
    facts = {
        "name": context.config.name,
        "seed": context.config.seed,
        "versions": {package: version(package) for package in RECORDED},
        "model": {"id": model.id, "revision": model.revision, **context.model_identity},
        "train_model": {"id": trained.id, "revision": trained.revision} if trained else None,
        "saes": saes,
        "data": context.data_identity,
        "git": git_state(Path.cwd()),
        "sae_sources": (
            {f"L{layer}": spec.source for layer, spec in context.saes.items()}
            if needs_saes
            else None
        ),
        "plan": context.plan(),
        "splits": context.split_sizes,
        "overlap": context.config.data.overlap,
        "outcome": found["outcome"].upper() if found else None,
        "judged_on": found["judged_on"] if found else None,
        "budget": found.get("budget") if found else None,
        "spent": found.get("spent") if found else None,
    }
    context.run.update_manifest(facts)
