from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_index import build, load_index

from igds.config.inputs import Source
from igds.exports.jsonl import write_jsonl
from igds.exports.parquet import write_parquet
from igds.exports.rows import Chosen


def test_jsonl_rows_come_back_byte_for_byte(tmp_path: Path) -> None:
    lines = [
        b'{"q" : "crlf"}\r',
        '{"q": "a\u2028b", "x": [1.0, 2]}'.encode(),
        b'{"q": "\\u00fc"}',
        b'  {"q": "spaced"}  ',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    build(tmp_path, Source(path="a.jsonl"))
    write_jsonl(
        tmp_path / "out.jsonl", Chosen(tmp_path / "index", np.array([True, True, False, True]))
    )
    assert (tmp_path / "out.jsonl").read_bytes() == b"\n".join([lines[0], lines[1], lines[3], b""])


def test_selected_rows_read_back_have_the_same_ids(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('q,a,extra\n"x, y",1,e\n2,3,\n')
    build(tmp_path, Source(path="a.csv"))
    ids = load_index(tmp_path / "index")["row_id"].to_pylist()
    write_jsonl(tmp_path / "out.jsonl", Chosen(tmp_path / "index", np.array([True, True])))
    assert (tmp_path / "out.jsonl").read_text() == (
        '{"a":"1","extra":"e","q":"x, y"}\n{"a":"3","extra":"","q":"2"}\n'
    )
    build(tmp_path, Source(path="out.jsonl"))
    assert load_index(tmp_path / "index")["row_id"].to_pylist() == ids


def test_parquet_has_prompt_and_completion(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "x", "a": 1}\n{"q": "y"}\n{"q": "z", "a": 3}\n')
    build(tmp_path, Source(path="a.jsonl"))
    ids = load_index(tmp_path / "index")["row_id"].to_pylist()
    write_parquet(
        tmp_path / "out.parquet", Chosen(tmp_path / "index", np.array([True, True, False]))
    )
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [
        {
            "row_id": ids[0], "source": "a.jsonl", "prompt": "x\nA:", "completion": " 1",
            "original": '{"q": "x", "a": 1}',
        },
        {
            "row_id": ids[1], "source": "a.jsonl", "prompt": "y\nA:", "completion": None,
            "original": '{"q": "y"}',
        },
    ]  # fmt: skip


def test_nothing_is_left_half_written(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "x"}\n')
    build(tmp_path, Source(path="a.jsonl"))
    with pytest.raises(AssertionError, match="1 rows in the index, 2 in the mask"):
        write_jsonl(tmp_path / "out.jsonl", Chosen(tmp_path / "index", np.array([True, True])))
    assert not list(tmp_path.glob("out*"))
