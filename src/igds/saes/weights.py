"""Weight files on disk: float32 copies of the features asked for, never a whole file in memory."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from igds.cache import cache_dir, file_digest
from igds.errors import RequestError

Features = slice | Sequence[int]
"""Which features to read: a range, or their indices in any order."""
ALL = slice(None)
"""Every feature."""

_CHUNK = 1 << 25
"""Bytes of a file that are mapped at a time: mapped pages count as memory of the process."""
_PAGES = 1 << 16
"""Bytes that the system maps around a single touched place."""
_BYTES = 4
"""Bytes of a stored value, at most."""


class WeightFile:
    """One .safetensors or .pt file of named tensors, mapped anew for every piece that is read."""

    def __init__(self, path: Path) -> None:
        """Read the names and shapes.

        Raises:
            RequestError: the file is damaged, or holds other things than tensors.
        """
        self.path = path
        with self._mapped() as (names, get):
            self.shapes = {name: _shape(get(name)) for name in names}

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raise RequestError unless the file has these tensors in these shapes."""
        for name, shape in expected.items():
            if name not in self.shapes:
                raise RequestError(f"{self.path} has no {name}; it has {sorted(self.shapes)}")
            if self.shapes[name] != shape:
                raise RequestError(
                    f"{self.path}: {name} is {self.shapes[name]}, its settings say {shape}"
                )

    def vector(self, name: str, features: Features = ALL) -> Float[Tensor, ...]:
        """Return the named features of a vector, or a whole small tensor."""
        with self._mapped() as (_, get):
            whole = torch.as_tensor(get(name)[...]).float()
            picked = whole[_index(features)] if whole.ndim else whole
            return self._finite(name, picked.clone())

    def matrix(self, name: str, features: Features, axis: int) -> Float[Tensor, "features d"]:
        """Return the rows of the named features; in the file they lie along `axis` of two."""
        shape = self.shapes[name]
        size, width = shape[axis], shape[1 - axis]
        chosen = range(size)[features] if isinstance(features, slice) else list(features)
        out = torch.empty(len(chosen), width)
        if axis == 0:
            self._copy_rows(name, chosen, out)
        else:
            self._copy_columns(name, features, out)
        return self._finite(name, out)

    def _copy_rows(self, name: str, chosen: Sequence[int], out: Tensor) -> None:
        """Fill `out` with rows of a matrix: runs of neighbours, or one by one."""
        row = out.shape[1] * _BYTES
        if isinstance(chosen, range) and chosen.step == 1:
            for places in _chunks(len(chosen), row):
                run = chosen[places]
                with self._mapped() as (_, get):
                    out[places] = get(name)[run.start : run.stop]
            return
        for places in _chunks(len(chosen), max(row, _PAGES)):
            with self._mapped() as (_, get):
                view = get(name)
                for place in range(places.start, places.stop):
                    out[place] = view[chosen[place] : chosen[place] + 1][0]

    def _copy_columns(self, name: str, features: Features, out: Tensor) -> None:
        """Fill `out` with columns of a matrix, a run of its rows at a time."""
        # Of every row the system maps the pages around what is wanted of it.
        wanted = len(out) * (_BYTES if isinstance(features, slice) else _PAGES)
        row = min(self.shapes[name][1] * _BYTES, wanted + _PAGES)
        for rows in _chunks(out.shape[1], row):
            with self._mapped() as (_, get):
                out[:, rows] = get(name)[rows][:, _index(features)].T

    def _finite(self, name: str, values: Tensor) -> Tensor:
        # By the sum: a mask of a large matrix would be large too.
        if not values.sum(dtype=torch.float64).isfinite():
            raise RequestError(f"{self.path}: {name} has values that are not finite")
        return values

    @contextmanager
    def _mapped(self) -> Iterator[tuple[list[str], Callable[[str], Any]]]:
        """Yield the names, and what gives a tensor to slice by its name; unmapped after."""
        if self.path.suffix == ".safetensors":
            try:
                file = safe_open(self.path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise RequestError(f"{self.path} cannot be read: {error}") from error
            with file:
                yield list(file.keys()), file.get_slice
        else:
            tensors = _load_tensors(self.path)
            yield list(tensors), tensors.__getitem__


def convert_npz(path: Path) -> Path:
    """Return a safetensors file with the arrays of an .npz file, which cannot be mapped.

    Made once per content, at `<cache>/saes/<sha256>/params.safetensors`, beside its checksum; safe
    when several processes ask.

    Raises:
        RequestError: the file is damaged or holds pickled objects.
    """
    folder = cache_dir() / "saes" / file_digest(path)
    folder.parent.mkdir(parents=True, exist_ok=True)
    made, checksum = folder / "params.safetensors", folder / "sha256"
    with FileLock(f"{folder}.lock"):
        if not made.is_file() or file_digest(made) != checksum.read_text():
            part = folder.with_name(f"{folder.name}.part")
            for old in (part, folder):
                shutil.rmtree(old, ignore_errors=True)
            part.mkdir()
            save_file(_npz_tensors(path), part / made.name)
            (part / checksum.name).write_text(file_digest(part / made.name))
            part.rename(folder)
    return made


def _npz_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .pt file, mapped; nothing but tensors is unpickled."""
    if not zipfile.is_zipfile(path):
        raise RequestError(f"{path} is not a .pt file that can be mapped: save it anew with torch")
    try:
        loaded = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises an error class of pickle
        raise RequestError(f"{path} cannot be read as tensors alone: {error}") from error
    if not isinstance(loaded, dict):
        raise RequestError(f"{path} holds a {type(loaded).__name__}, not named tensors")
    return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}


def _chunks(count: int, size: int) -> Iterator[slice]:
    """Yield slices that cover `count` items of `size` bytes, a chunk of the file each."""
    step = max(1, _CHUNK // size)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _index(features: Features) -> slice | Tensor:
    return features if isinstance(features, slice) else torch.as_tensor(list(features))


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape if isinstance(value, Tensor) else value.get_shape())
