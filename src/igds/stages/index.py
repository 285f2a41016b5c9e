"""Index: one pass over each set of rows, then the check that the sets are disjoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.compute as pc

from igds.config.identity import to_plain
from igds.config.inputs import Source
from igds.data.chat import ChatTemplate, chat_template
from igds.data.identity import rendering_hash, source_identity
from igds.data.index import IndexSummary, build_index, check_first_rows, iter_index
from igds.data.index_files import mark_rows
from igds.data.overlap import Overlap, check_overlap, row_words, rows_with
from igds.data.remote import is_url
from igds.data.rendering import Rendering
from igds.data.templates import parse_template
from igds.data.tokens import added_bos
from igds.errors import RequestError, WorkError
from igds.models.load import describe, load_tokenizer, tokenizer_identity
from igds.rows import Status
from igds.runs.stage import Stage, StageMismatch
from igds.stages.commits import commits, pinned_or_recorded
from igds.stages.context import Context
from igds.tasks.registry import task_identity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 4
CHECKED = ("prior", "validation", "control", "pool", "test")
"""Sets that must be disjoint."""


MIN_CONTROLS = 200
"""Control rows under which an interval of specificity says little."""


class Set(NamedTuple):
    """One set of rows and how it is rendered."""

    folder: str
    """Folder below `index/`; the pool's is `index/` itself."""
    sources: Sequence[Source]
    needs_response: bool
    other_templates: bool = False


def run(context: Context) -> None:
    """Write `index/`: the rows of every set, and `summary.json`."""
    sets = {name: entry for name, entry in _sets(context).items() if entry.sources}
    # A pass that was cut short has nothing worth keeping: other settings may take its place.
    fresh = not context.has_stage("index")
    identity = _identity(context, sets)
    try:
        stage = context.open_stage("index", identity, replace=fresh)
    except StageMismatch:
        _check_fields(context, sets)
        raise
    if stage.done:
        return
    tokenizer, prompts = load_tokenizer(context.model), context.config.prompts
    chat = chat_template(tokenizer, prompts)
    if chat and not chat.is_consistent:
        context.progress.note(
            "note: the chat template writes a finished answer otherwise than it asks for one; "
            "responses are taken as they stand behind the generation prompt"
        )
    others = tuple(
        parse_template(text, user_turn=prompts.chat_template) for text in prompts.control_templates
    )
    train_tokenizer = load_tokenizer(context.train_model) if context.train_model else None
    summaries = {}
    for name, entry in sets.items():
        with context.progress.task(f"index: {name}", None) as bar:
            summaries[name] = build_index(
                entry.sources,
                folder=stage.path / entry.folder,
                base=context.base,
                template=context.template,
                task=context.task,
                tokenizer=tokenizer,
                train_tokenizer=train_tokenizer,
                max_prompt_tokens=describe(context.model).context,
                require_response=entry.needs_response,
                fit_response=name == "validation",
                progress=bar.advance,
                other_templates=others if entry.other_templates else (),
                chat=chat,
            )
        if name in CHECKED:
            _say_unusable(context, name, summaries[name])
    controls = summaries["control"].status.get("ok", 0) if "control" in summaries else 0
    if controls < MIN_CONTROLS:
        context.progress.note(
            f"note: {controls} control rows; specificity wants at least {MIN_CONTROLS}, of four "
            "sources and of the task's length"
        )
    folders = {name: stage.path / sets[name].folder for name in CHECKED if name in sets}
    overlaps = _overlaps(context, folders, summaries)
    if to_plain(_contents(context, sets)) != identity["data"]:
        raise WorkError("a source changed while it was read: run the same command again")
    summary = _summary(context, stage, summaries, overlaps, tokenizer, chat)
    trained = train_tokenizer or tokenizer
    bos = added_bos(trained)
    summary |= {
        "added_bos": bos if chat else None,
        "raw_bos": None if chat else bos,
        "eos": trained.eos_token,
    }
    summary["commits"] = [
        entry
        for name in CHECKED
        if name in sets
        for entry in commits(getattr(context.config.data, name), sets[name].sources)
    ]
    stage.write_json("summary.json", summary)
    stage.commit()


def _say_unusable(context: Context, name: str, summary: IndexSummary) -> None:
    """Note how many rows of a set cannot be used, and why."""
    lost = {status: n for status, n in summary.status.items() if status != Status.OK}
    if lost:
        why = ", ".join(f"{n} {status}" for status, n in lost.items())
        count = f"{sum(lost.values())} of {summary.rows}"
        context.progress.note(f"note: {name}: {count} rows cannot be used: {why}")


def _sets(context: Context) -> dict[str, Set]:
    """Return every set of rows; the last two are the controls' other templates."""
    given = context.config.data
    sources = {
        name: tuple(pinned_or_recorded(context, source) for source in getattr(given, name))
        for name in CHECKED
    }
    data = replace(given, **sources)
    return {
        "prior": Set("prior", data.prior, needs_response=False),
        "validation": Set("validation", data.validation, needs_response=True),
        "control": Set("control", data.control, needs_response=False),
        "pool": Set("", data.pool, needs_response=True),
        "test": Set("test", data.test, needs_response=False),
        "control_other": Set("control_other", data.control, False, other_templates=True),
        "task_other": Set("task_other", data.validation or data.prior, False, other_templates=True),
    }


def _check_fields(context: Context, sets: dict[str, Set]) -> None:
    """Raise RequestError for a template that no row can fill, which says more than its difference.

    Only files of this machine are looked at.
    """
    rendering = Rendering(template=context.template, task=context.task, require_response=False)
    for entry in sets.values():
        for source in entry.sources:
            if source.messages is None and not source.on_hub and not is_url(source.path):
                check_first_rows(source, rendering, context.base)


def _identity(context: Context, sets: dict[str, Set]) -> dict[str, Any]:
    """Return what makes two indexes the same."""
    trained, prompts = context.train_model, context.config.prompts
    return context.stage_identity(
        VERSION,
        data=_contents(context, sets),
        overlap=context.config.data.overlap,
        template=context.template.text,
        control_templates=prompts.control_templates,
        chat_template=prompts.chat_template,  # its text is the tokenizer's
        system=prompts.system,
        thinking=prompts.thinking,
        cue=prompts.cue,
        task=task_identity(context.config.task, context.base),
        context=describe(context.model).context,
        tokenizer=tokenizer_identity(context.model),
        train_tokenizer=tokenizer_identity(trained) if trained else None,
    )


def _contents(context: Context, sets: dict[str, Set]) -> dict[str, list[dict[str, Any]]]:
    """Return set -> what tells the rows of its sources from changed ones."""
    return {
        name: _source_identities(name, sets[name].sources, context.base)
        for name in CHECKED
        if name in sets
    }


def _source_identities(name: str, sources: Sequence[Source], base: Path) -> list[dict[str, Any]]:
    """Return the identity of each source of a set; an error names the setting."""
    found = []
    for place, source in enumerate(sources):
        try:
            found.append(source_identity(source, base))
        except RequestError as error:
            raise RequestError(f"data.{name}.{place}.path: {error}") from error
    return found


def _summary(
    context: Context,
    stage: Stage,
    summaries: dict[str, IndexSummary],
    overlaps: list[Overlap],
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatTemplate | None,
) -> dict[str, Any]:
    """Return `index/summary.json`."""
    text = context.template.text
    return {
        "sets": {name: asdict(summary) for name, summary in summaries.items()},
        "template": chat.prompt([{"role": "user", "content": text}]) if chat else text,
        "rendering_hash": rendering_hash(context.template, tokenizer, chat),
        "read_tokens": _read_tokens(stage.path, tokenizer),
        "overlaps": [
            {name: getattr(overlap, name) for name in ("a", "b", "rows", "ngrams", "examples")}
            for overlap in overlaps
        ],
    }


def _read_tokens(index: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return text of the token at the read position -> rows, over all sets, most rows first."""
    counts: Counter[int] = Counter()
    for folder in sorted({file.parent for file in index.rglob("rows-*.parquet")}):
        for batch in iter_index(folder, ["prompt_ids"]):
            ids = batch["prompt_ids"].drop_null()
            last = pc.subtract(pc.cumulative_sum(ids.value_lengths()), 1)
            for entry in ids.flatten().take(last).value_counts().to_pylist():
                counts[entry["values"]] += entry["counts"]
    return {str(tokenizer.decode([token])): rows for token, rows in counts.most_common()}


def _overlaps(
    context: Context, folders: Mapping[str, Path], summaries: dict[str, IndexSummary]
) -> list[Overlap]:
    """Return what sets share; with `data.overlap: drop` the pool's rows and counts change.

    Raises:
        RequestError: sets share what they must not, or no row of the pool is left.
    """
    rule, overlaps = context.config.data.overlap, check_overlap(folders)
    if rule == "allow" or not overlaps:
        return overlaps
    elsewhere = [overlap for overlap in overlaps if "pool" not in (overlap.a, overlap.b)]
    if rule == "drop" and not elsewhere:
        summaries["pool"] = _without_shared(context, folders, summaries["pool"], overlaps)
        return overlaps
    refused, advice = elsewhere, ""
    if rule == "refuse":
        refused = overlaps
        if len(elsewhere) < len(overlaps):
            advice = " or drop (leaves out such rows of the pool alone)"
    lines = [
        "the sets of rows overlap, so that what is found in one cannot be tested in another:",
        *_in_words(refused, folders),
        f"Take the rows out of one set, or set data.overlap: allow (the page will say so){advice}.",
    ]
    raise RequestError("\n".join(lines))


def _without_shared(
    context: Context,
    folders: Mapping[str, Path],
    summary: IndexSummary,
    overlaps: Sequence[Overlap],
) -> IndexSummary:
    """Give the pool's rows that other sets share the status overlap, and return the new counts."""
    shared = rows_with(folders["pool"], frozenset().union(*(one.keys for one in overlaps)))
    words, counts = _in_words(overlaps, folders), Counter(summary.status)
    counts.subtract({str(Status.OK): len(shared)})
    if not counts[Status.OK]:
        raise RequestError("\n".join(["data.overlap: drop leaves no row of the pool:", *words]))
    counts[str(Status.OVERLAP)] = len(shared)
    tokens = mark_rows(folders["pool"], shared, Status.OVERLAP)
    head = f"note: pool: {len(shared)} of {summary.rows} rows share text with another set and are "
    context.progress.note("\n".join([f"{head}not used (data.overlap: drop):", *words]))
    return replace(summary, status=dict(sorted(counts.items())), tokens=summary.tokens - tokens)


def _in_words(overlaps: Sequence[Overlap], folders: Mapping[str, Path]) -> list[str]:
    """Return lines that say what sets share, with the first two rows of each pair."""
    lines = []
    for overlap in overlaps:
        lines.append(
            f"  {overlap.a} and {overlap.b}: {overlap.rows} equal rows, {overlap.ngrams} rows with "
            "13 words in common, such as (rows counted from 1):"
        )
        for name, row_id in zip((overlap.a, overlap.b), overlap.examples[0], strict=True):
            lines.append(f"    {name}: {row_words(folders[name], row_id)}")
    return lines
