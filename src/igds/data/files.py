"""From a configured source to its files, their formats and their bytes."""

from __future__ import annotations

import io
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from igds.config.schema import Source
from igds.errors import RequestError

NEUTRAL = "builtin:neutral"
"""The control set that comes with the package; its columns are `text` and `source`."""

_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_MAGIC = frozenset("*?[")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One file of a source."""

    path: Path
    """Where it is."""
    name: str
    """What rows, errors and identities call it: relative to the config where the source is."""
    format: str
    """jsonl, json, csv, tsv or parquet."""
    compression: str | None
    """gzip, zstd or None."""

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Return its bytes, decompressed; a `.gz` or `.zst` may have several members."""
        if self.compression is None:
            return self.path.open("rb", buffering=1 << 20)
        stream = pa.input_stream(str(self.path), compression=self.compression)
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), 1 << 20))


def find_files(source: Source, base: Path) -> list[SourceFile]:
    """Return the files of a source, sorted by path.

    A folder stands for all files below it with a known ending, or for all files when the format
    is given; hidden ones are left out.

    Args:
        source: what the config says.
        base: folder that a relative path starts from.

    Raises:
        RequestError: no such file, no file in the folder or for the glob, or an unknown ending.
    """
    if source.path == NEUTRAL:
        path = Path(__file__).with_name("neutral.jsonl.gz")
        return [SourceFile(path=path, name=NEUTRAL, format="jsonl", compression="gzip")]
    if source.path.startswith("builtin:"):
        raise RequestError(f"{source.path} is not built in: the only one is {NEUTRAL}")
    if "://" in source.path:
        raise RequestError(f"{source.path} is a URL: copy the rows to a local file")
    given = Path(source.path).expanduser()
    if (base / given).is_dir():
        found = _below(base / given, source)
    elif (base / given).is_file():
        found = [base / given]
    else:
        found = _matching(given, base)
    return [_source_file(path, source, base) for path in found]


def _below(folder: Path, source: Source) -> list[Path]:
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (source.format != "auto" or _endings(path)[0] in _FORMATS)
    )
    if not found:
        raise RequestError(f"{folder} holds no file that ends in {_known()}")
    return found


def _matching(given: Path, base: Path) -> list[Path]:
    """Return the files that a glob matches; only the source's own part of the path is a glob."""
    parts = given.parts
    first = next((i for i, part in enumerate(parts) if _MAGIC & set(part)), None)
    if first is None:
        raise RequestError(f"{base / given}: no such file or folder")
    root = base.joinpath(*parts[:first])
    found = sorted(path for path in root.glob("/".join(parts[first:])) if path.is_file())
    if not found:
        raise RequestError(f"{base / given}: no file matches")
    return found


def _source_file(path: Path, source: Source, base: Path) -> SourceFile:
    ending, compression = _endings(path)
    form = _FORMATS.get(ending) if source.format == "auto" else source.format
    if form is None:
        raise RequestError(f"{path}: unknown ending; name it {_known()}, or set format")
    if form == "parquet" and compression is not None:
        raise RequestError(f"{path}: Parquet is compressed inside; decompress the file")
    absolute = Path(source.path).expanduser().is_absolute()
    # A relative name survives moving the config and its data together.
    name = path.as_posix() if absolute else Path(os.path.relpath(path, base)).as_posix()
    return SourceFile(path=path, name=name, format=form, compression=compression)


def _endings(path: Path) -> tuple[str, str | None]:
    """Return the ending that tells the format, and the compression."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    inner = path.with_suffix("") if compression else path
    return inner.suffix.lower(), compression


def _known() -> str:
    return ", ".join(_FORMATS) + " (or with .gz, .zst behind)"
