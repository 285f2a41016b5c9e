"""A stage's folder: written beside its place, resumed shard by shard, committed by one rename.

On disk: `<stage>` is committed, `<stage>.part` is being written, `<stage>.old` is being replaced.
`stage.json` (identity and plan) is the first file of a part, so a part without it holds nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from igds.config.identity import ABSENT, differences, digest
from igds.errors import RequestError
from igds.runs.files import TEMPORARY, read_json, whole_file, write_json

_RECORD = "stage.json"
_ROW_GROUP = 8192
_SHOWN = 20


class StageMismatch(RequestError):
    """What is on disk was made by other settings or inputs than those asked for."""

    def __init__(self, found: str) -> None:
        """Keep what differs, for callers that have other advice to give."""
        advice = "Give the run another name, or add --overwrite to make this stage again."
        super().__init__(f"{found}\n{advice}")
        self.found = found


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a run, open for work or already done."""

    folder: Path
    """Place of the committed stage."""
    identity: dict[str, Any]
    """Everything its result depends on; JSON values."""
    plan: dict[str, Any]
    """How the work is cut; the recorded one where the stage was started before."""
    done: bool
    """The committed stage has this identity: there is nothing to do."""
    archive: Path | None = None
    """Folder that keeps replaced stages, as `<archive>/<digest>/<stage>`; None deletes them."""
    scratch: tuple[str, ...] = ()
    """Files and folders that only a resumed run reads: they go once the stage is committed."""

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        identity: Mapping[str, Any],
        plan: Mapping[str, Any],
        overwrite: bool = False,
        replace: bool = False,
        archive: Path | None = None,
        scratch: Sequence[str] = (),
    ) -> Stage:
        """Return the stage: done, resumed with its recorded plan and whole files, or begun.

        Args:
            folder: Place of the committed stage.
            identity: Everything the result depends on.
            plan: How the work is to be cut if it begins now.
            overwrite: Begin again where identity, or the plan of unfinished work, differs.
            replace: Begin again where identity differs: for stages that are cheap to redo.
            archive: Folder that keeps replaced stages.
            scratch: Files and folders of the stage that only resuming needs.

        Raises:
            StageMismatch: there is a stage of another identity, and neither `overwrite` nor
                `replace` is set.
            RequestError: the folder exists and is no stage.
        """
        wanted, asked = _plain(identity), _plain(plan)
        repair(folder, archive)
        found = _committed(folder)
        if found is not None:
            _remove(folder, scratch)  # what a kill right behind the commit left
            if found["identity"] == wanted:
                return cls(
                    folder=folder, identity=wanted, plan=found["plan"], done=True, archive=archive
                )
        part = _part(folder)
        begun = read_json(part / _RECORD)
        for record in (found, begun):
            if record and record["identity"] != wanted and not (overwrite or replace):
                raise StageMismatch(difference_text(folder, record["identity"], wanted))
        if begun and begun["identity"] == wanted and (begun["plan"] == asked or not overwrite):
            asked = begun["plan"]
            for leftover in part.rglob(f"*{TEMPORARY}"):
                leftover.unlink()
        else:
            _begin(part, {"identity": wanted, "plan": asked})
        return cls(
            folder=folder,
            identity=wanted,
            plan=asked,
            done=False,
            archive=archive,
            scratch=tuple(scratch),
        )

    @property
    def path(self) -> Path:
        """Folder with the stage's files: the committed one when done, else the part."""
        return self.folder if self.done else _part(self.folder)

    @property
    def archived(self) -> Path | None:
        """Where the committed stage goes when this one takes its place; None if nowhere."""
        record = None if self.done else read_json(self.folder / _RECORD)
        return _kept(self.folder, record, self.archive)

    def has(self, name: str) -> bool:
        """Return whether the file was written whole."""
        return (self.path / name).exists()

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as zstd Parquet in row groups of 8192 rows."""
        with self.create(name) as file:
            pq.write_table(table, file, compression="zstd", row_group_size=_ROW_GROUP)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON value; NaN and infinity are ValueErrors."""
        write_json(self._new(name), value)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write bytes as they are."""
        with self.create(name) as file:
            file.write(data)

    def write_tensors(self, name: str, tensors: dict[str, np.ndarray]) -> None:
        """Write named arrays as one safetensors file."""
        self.write_bytes(name, save(tensors))

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Yield a binary file that joins the stage, whole, when the block ends without an error.

        Raises:
            WorkError: the disk is full.
        """
        with whole_file(self._new(name)) as file:
            yield file

    def commit(self) -> Stage:
        """Put the part in the stage's place, without its scratch, and return the stage, done.

        The scratch goes last: until the stage is committed, a killed run still needs it.
        """
        assert not self.done, f"{self.folder} is done"
        if self.folder.exists():
            self.folder.rename(_old(self.folder))
        repair(self.folder, self.archive)
        if not self.folder.exists():
            _part(self.folder).rename(self.folder)
        _remove(self.folder, self.scratch)
        return replace(self, done=True)

    def _new(self, name: str) -> Path:
        """Return the path of a file to write."""
        assert not self.done, f"{self.folder} is done"
        return self.path / name


def stage_state(folder: Path) -> Literal["done", "partial", "missing"]:
    """Return what is on disk of a stage, changing nothing: safe while it is being written."""
    if (folder / _RECORD).exists():
        return "done"
    return "partial" if (_part(folder) / _RECORD).exists() else "missing"


def finished_files(folder: Path) -> int | None:
    """Return the files that a stage under way has finished, or left when it was cut short.

    None when none is under way; beside a committed stage it is that stage being made again.
    """
    part = _part(folder)
    if not (part / _RECORD).exists():
        return None
    # os.walk, unlike glob, bears with a folder that the run renames meanwhile.
    files = sum(len(names) for _, _, names in os.walk(part))
    return max(0, files - 1)  # all but the record


def committed_identity(folder: Path) -> dict[str, Any]:
    """Return the identity a stage was committed with.

    Raises:
        RequestError: the stage is not there.
    """
    record = read_json(folder / _RECORD)
    if record is None:
        raise RequestError(f"{folder} is not there yet: run the stage {folder.name} first")
    return record["identity"]


def outdated_by(run: Path, name: str) -> list[str]:
    """Return the stages of a run that were made anew since a committed one was made from them.

    What outdates a stage that it was made from counts too.
    """
    record = read_json(run / name / _RECORD)
    if record is None:
        return []
    identity, found = record["identity"], dict[str, None]()
    for source, made_from in {**identity.get("index", {}), **identity.get("inputs", {})}.items():
        now = read_json(run / source / _RECORD)
        if now is not None and digest(now["identity"]) != made_from:
            found[source] = None
        found |= dict.fromkeys(outdated_by(run, source))
    chosen = read_json(run / "intervene" / "task_features.json")
    reads_them = name.partition("/")[0] in ("score", "transfer", "evaluate")
    if reads_them and chosen and identity.get("features", chosen["features"]) != chosen["features"]:
        found["intervene"] = None
    return list(found)


def adopt(
    folder: Path, identity: Mapping[str, Any], plan: Mapping[str, Any], others: Sequence[Path]
) -> Path | None:
    """Put a stage of this identity and plan that another run has committed in its place; return it.

    Its files are linked, as a stage that is made again has new ones. Nothing is done where a stage
    is there or under way, or where the disk knows no links.
    """
    part = _part(folder)
    if folder.exists() or (part / _RECORD).exists():
        return None
    wanted = {"identity": _plain(identity), "plan": _plain(plan)}
    source = next((other for other in others if read_json(other / _RECORD) == wanted), None)
    if source is None:
        return None
    if part.exists():
        shutil.rmtree(part)
    try:
        # The record comes last, as a part without it holds nothing.
        shutil.copytree(source, part, copy_function=os.link, ignore=shutil.ignore_patterns(_RECORD))
        os.link(source / _RECORD, part / _RECORD)
    except OSError:
        return None
    part.rename(folder)
    return source


def differs_in(folder: Path, identity: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """Return the keys in which a committed stage differs from one to be made; [] without one.

    What follows from the stages that it was made from is left out.
    """
    record = read_json(folder / _RECORD)
    if record is None:
        return []
    wanted = {"identity": _plain(identity), "plan": _plain(plan)}
    keys = (key.removeprefix("identity.") for key, _, _ in differences(record, wanted))
    return [key for key in keys if key.partition(".")[0] not in ("index", "inputs")]


def repair(folder: Path, archive: Path | None = None) -> None:
    """Finish a replacement that was cut short: the new stage takes its place, the old one leaves.

    Only `commit` makes a `.old`, so the part beside one is complete.
    """
    old = _old(folder)
    if not old.exists():
        return
    if not folder.exists():
        if not _part(folder).exists():  # someone deleted it by hand
            old.rename(folder)
            return
        _part(folder).rename(folder)
    kept = _kept(folder, read_json(old / _RECORD), archive)
    if kept is None or kept.exists():
        shutil.rmtree(old)
    else:
        kept.parent.mkdir(parents=True, exist_ok=True)
        old.rename(kept)


def _kept(folder: Path, record: dict[str, Any] | None, archive: Path | None) -> Path | None:
    """Return where a replaced stage of that record is kept; None if it is not."""
    if record is None or archive is None:
        return None
    return archive / digest(record["identity"])[:16] / folder.name


def _begin(part: Path, record: dict[str, Any]) -> None:
    """Leave a part that holds nothing but its record."""
    if part.exists():
        # The record goes first: whatever a kill leaves behind is then known to hold nothing.
        (part / _RECORD).unlink(missing_ok=True)
        shutil.rmtree(part)
    write_json(part / _RECORD, record)


def _remove(folder: Path, names: Sequence[str]) -> None:
    """Delete files and folders of a stage, where they are there."""
    for name in names:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _committed(folder: Path) -> dict[str, Any] | None:
    """Return the committed stage's record, None when there is no such folder."""
    record = read_json(folder / _RECORD)
    if record is None and folder.exists():
        raise RequestError(f"{folder} was not made by igds (no {_RECORD}): move it elsewhere")
    return record


def difference_text(folder: Path, recorded: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return the differing keys with both values."""
    found = differences(recorded, wanted)
    lines = [f"{folder} was made by other settings or inputs:"]
    for key, on_disk, asked in found[:_SHOWN]:
        lines.append(f"  {key}: {_shown(on_disk)} on disk, {_shown(asked)} asked for")
    if len(found) > _SHOWN:
        lines.append(f"  and {len(found) - _SHOWN} more")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """Return a value of an identity as JSON, and a key's absence as a word."""
    return value if value is ABSENT else json.dumps(value, ensure_ascii=False)


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value as JSON reads it back: tuples as lists, keys as text."""
    return json.loads(json.dumps(value, allow_nan=False))


def _part(folder: Path) -> Path:
    """Return where a stage is written before it is committed."""
    return folder.with_name(folder.name + ".part")


def _old(folder: Path) -> Path:
    """Return where a stage waits while another takes its place."""
    return folder.with_name(folder.name + ".old")
