"""`igds explain`: why one pool row was or was not selected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tyro.conf import Positional

from igds.cli.command import shown
from igds.errors import RequestError

if TYPE_CHECKING:
    import pyarrow.dataset as ds


@dataclass(frozen=True, kw_only=True)
class Explain:
    """Say where a pool row came from, what became of it, and which features it excites."""

    overridable: ClassVar[bool] = False

    run: Positional[Path]
    """Run folder."""
    row_id: Positional[str]
    """Row id, as in select/selection.parquet."""

    def execute(self, overrides: Sequence[str]) -> None:  # noqa: ARG002
        """Print the facts, one a line, then the prompt."""
        facts = row_facts(self.run, self.row_id)
        prompt = facts.pop("prompt")
        for name, value in facts.items():
            print(f"{name}: {shown(value)}")
        print(f"prompt:\n{prompt}" if prompt is not None else "prompt: -")


def row_facts(run: Path, row_id: str) -> dict[str, Any]:
    """Return what the run knows of a row: index, selection, raw columns of the selecting method.

    Raises:
        RequestError: no such run, or no such row in its pool.
    """
    columns = ["row_id", "source", "ordinal", "status", "n_prompt_tokens", "prompt"]
    row = _one(run / "index", "rows-*.parquet", row_id, columns)
    if row is None:
        raise RequestError(f"no row {row_id} in the pool of {run}")
    selection = run / "select" / "selection.parquet"
    if not selection.exists():
        return row
    chosen = _one(run / "select", "selection.parquet", row_id, None)
    assert chosen is not None, "a selection has every row of the pool"
    method = json.loads((run / "select" / "summary.json").read_text())["method"]
    raw = _one(run / "score" / method, "shard-*.parquet", row_id, None) or {}
    features = {f"{method} {name}": value for name, value in raw.items() if name not in row}
    percentile = _percentile(run / "select", chosen["rank"])
    return {**row, **chosen, "percentile": percentile, **features}


def _one(
    folder: Path, pattern: str, row_id: str, columns: list[str] | None
) -> dict[str, Any] | None:
    """Return a row of the folder's tables by its id, None when it has none."""
    import pyarrow.compute as pc

    found = _dataset(folder, pattern).to_table(columns, filter=pc.field("row_id") == row_id)
    return found.to_pylist()[0] if len(found) else None


def _percentile(folder: Path, rank: int | None) -> float | None:
    """Return the share of scored rows, in per cent, that rank no better than this one."""
    import pyarrow.compute as pc

    if rank is None:
        return None
    scored = _dataset(folder, "selection.parquet").count_rows(filter=pc.field("rank").is_valid())
    return 100 * (scored - rank + 1) / scored


def _dataset(folder: Path, pattern: str) -> ds.Dataset:
    import pyarrow.dataset as ds

    files = sorted(map(str, folder.glob(pattern)))
    if not files:
        raise RequestError(
            f"{folder} holds no {pattern}: `igds status` shows which stages are done"
        )
    return ds.dataset(files)
