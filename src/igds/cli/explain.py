"""`igds explain`: why one pool row was or was not selected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tyro.conf import Positional

from igds.cli.command import shown
from igds.config.scoring import scored_by
from igds.errors import RequestError

if TYPE_CHECKING:
    import pyarrow.dataset as ds

_SHOWN = 5
"""Row ids named when several begin alike."""


@dataclass(frozen=True, kw_only=True)
class Explain:
    """Say where a pool row came from, what became of it, and which features it excites."""

    overridable: ClassVar[bool] = False

    run: Positional[Path]
    """Run folder."""
    row_id: Positional[str | None] = None
    """Row id, as in select/selection.parquet, or enough of its beginning to be the only one."""
    rank: int | None = None
    """Rank of the row, 1 is the first, in place of its id."""

    def execute(self, overrides: Sequence[str]) -> None:  # noqa: ARG002
        """Print the facts, one a line, then the prompt and the response."""
        from igds.exports.run import stamp
        from igds.runs.folder import RunFolder

        if (self.row_id is None) == (self.rank is None):
            raise RequestError("igds explain takes a row id or --rank, one of them")
        row_id = (
            row_of_rank(self.run, self.rank)
            if self.rank is not None
            else whole_id(self.run, self.row_id or "")
        )
        facts = row_facts(self.run, row_id)
        texts = {name: facts.pop(name) for name in ("prompt", "response")}
        for name, value in facts.items():
            print(f"{name}: {shown(value)}")
        for name, text in texts.items():
            print(f"{name}:\n{text}" if text is not None else f"{name}: -")
        if said := stamp(RunFolder(self.run)):
            print(said)


def whole_id(run: Path, start: str) -> str:
    """Return the id of the pool's row that has it, or else of the only row whose id begins so.

    Raises:
        RequestError: no such run, no pool, no such row, or several.
    """
    import pyarrow.compute as pc

    begins = pc.starts_with(pc.field("row_id"), start)
    found = _dataset(run / "index", "rows-*.parquet").to_table(["row_id"], filter=begins)
    ids = found["row_id"].to_pylist()
    if start in ids or len(ids) == 1:
        return start if start in ids else ids[0]
    if not ids:
        raise RequestError(f"no row {start} in the pool of {run}")
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    raise RequestError(f"{len(ids)} rows begin with {start}: {', '.join(ids[:_SHOWN])}{more}")


def row_of_rank(run: Path, rank: int) -> str:
    """Return the id of the row with a rank.

    Raises:
        RequestError: nothing is selected yet, or no row has the rank.
    """
    import pyarrow.compute as pc

    ranked = _dataset(run / "select", "selection.parquet")
    found = ranked.to_table(["row_id"], filter=pc.field("rank") == rank)["row_id"].to_pylist()
    if not found:
        scored = _summary(run)["scored"]
        raise RequestError(f"no row of {run} has rank {rank}: ranks are 1 to {scored}")
    return found[0]


def row_facts(run: Path, row_id: str) -> dict[str, Any]:
    """Return what the run knows of a row: index, selection, raw columns of the selecting method.

    Raises:
        RequestError: no such run, or no such row in its pool.
    """
    columns = ["row_id", "source", "ordinal", "status", "n_prompt_tokens", "prompt", "response"]
    row = _one(run / "index", "rows-*.parquet", row_id, columns)
    if row is None:
        raise RequestError(f"no row {row_id} in the pool of {run}")
    if not (run / "select" / "selection.parquet").exists():
        return row
    chosen = _one(run / "select", "selection.parquet", row_id, None)
    assert chosen is not None, "a selection has every row of the pool"
    summary = _summary(run)
    if chosen["rank"] is not None:
        chosen["rank"] = (
            f"{chosen['rank']} of {summary['scored']} scored ({summary['selected']} kept, "
            f"cut {shown(summary['cut'])})"
        )
    method = scored_by(summary["method"])
    raw = _one(run / "score" / method, "shard-*.parquet", row_id, None) or {}
    features = {f"{method} {name}": value for name, value in raw.items() if name not in row}
    return {**row, **chosen, **features}


def _summary(run: Path) -> dict[str, Any]:
    """Return what the selection says of itself."""
    return json.loads((run / "select" / "summary.json").read_text())


def _one(
    folder: Path, pattern: str, row_id: str, columns: list[str] | None
) -> dict[str, Any] | None:
    """Return a row of the folder's tables by its id, None when it has none."""
    import pyarrow.compute as pc

    found = _dataset(folder, pattern).to_table(columns, filter=pc.field("row_id") == row_id)
    return found.to_pylist()[0] if len(found) else None


def _dataset(folder: Path, pattern: str) -> ds.Dataset:
    import pyarrow.dataset as ds

    files = sorted(map(str, folder.glob(pattern)))
    if not files and folder.name == "index" and (folder / "stage.json").exists():
        raise RequestError(f"{folder.parent} has no pool: its configuration names no data.pool")
    if not files:
        raise RequestError(
            f"{folder} holds no {pattern}: `igds status` shows which stages are done"
        )
    return ds.dataset(files)
