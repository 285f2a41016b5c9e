from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from igds.data.columns import column_values, column_vectors
from igds.errors import RequestError

ORIGINALS = [
    b'{"q": "a", "topic": "sums", "level": 2}',
    b'{"q": "b", "topic": null, "level": 2.5}',
    b'{"q": "c"',  # torn
    b'{"q": "d", "tags": ["x"], "level": "2"}',
]


@pytest.fixture
def index(tmp_path):
    table = pa.table(
        {
            "source": ["one.jsonl", "one.jsonl", "two.jsonl", "two.jsonl"],
            "status": ["ok", "ok", "torn_line", "ok"],
            "original": ORIGINALS,
        }
    )
    pq.write_table(table.slice(0, 3), tmp_path / "rows-00000.parquet")
    pq.write_table(table.slice(3), tmp_path / "rows-00001.parquet")
    return tmp_path


def test_values_are_text_in_row_order(index):
    assert column_values(index, "source") == ["one.jsonl"] * 2 + ["two.jsonl"] * 2
    assert column_values(index, "topic") == ["sums", "", "", ""]
    assert column_values(index, "level") == ["2", "2.5", "", "2"]
    assert column_values(index, "tags") == ["", "", "", '["x"]']


def test_a_column_that_no_row_has_is_refused_with_those_there_are(index):
    with pytest.raises(RequestError, match=r"'kind'; the columns are q, topic, level, tags"):
        column_values(index, "kind")


def vectors(tmp_path, *values):
    """Return an index of rows with these values in a column, in two files."""
    rows = [{"q": "a", "v": value} if value != "absent" else {"q": "a"} for value in values]
    table = pa.table(
        {
            "row_id": [f"r{place}" for place in range(len(rows))],
            "original": [json.dumps(row).encode() for row in rows],
        }
    )
    half = len(rows) // 2
    pq.write_table(table.slice(0, half), tmp_path / "rows-00000.parquet")
    pq.write_table(table.slice(half), tmp_path / "rows-00001.parquet")
    return tmp_path


def test_vectors_of_some_rows_come_at_length_1_in_the_order_asked_for(tmp_path):
    index = vectors(tmp_path, [3, 4], [9, 9], "absent", [0.0, -2], None, "no list")
    found = column_vectors(index, "v", np.array([3, 0, 2, 4]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:2], [[0, -1], [0.6, 0.8]], rtol=1e-6)
    assert np.isnan(found[2:]).all()
    assert (column_vectors(index, "v", np.array([0, 3])) == found[[1, 0]]).all()


@pytest.mark.parametrize("value", ["text", {"a": 1}, [], [0, 0], [1, "2"], [[1, 2]], [1, None]])
def test_what_is_no_vector_is_refused_by_row(tmp_path, value):
    index = vectors(tmp_path, [1, 2], value)
    with pytest.raises(RequestError, match=r"row r1: its column 'v' is no list of numbers"):
        column_vectors(index, "v", np.array([0, 1]))
    column_vectors(index, "v", np.array([0]))  # no other row is looked at


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400", "1" + "0" * 400])
def test_numbers_without_a_size_are_refused(tmp_path, number):
    line = f'{{"v": [1, {number}]}}'.encode()
    table = pa.table({"row_id": ["r0"], "original": [line]})
    pq.write_table(table, tmp_path / "rows-00000.parquet")
    with pytest.raises(RequestError, match="no list of numbers with a length"):
        column_vectors(tmp_path, "v", np.array([0]))


def test_vectors_of_two_sizes_are_refused(tmp_path):
    index = vectors(tmp_path, [1, 2], [1, 2, 3])
    with pytest.raises(RequestError, match="row r1: .* holds 3 numbers, that of other rows 2"):
        column_vectors(index, "v", np.array([0, 1]))


def test_a_column_without_a_vector_is_refused_with_those_there_are(tmp_path):
    index = vectors(tmp_path, None, "absent")
    with pytest.raises(RequestError, match="none of the 2 best rows .* 'w'; the columns are q, v"):
        column_vectors(index, "w", np.array([0, 1]))


def test_keys_of_a_column_and_numbers_as_prompts_show_them(tmp_path):
    rows = [{"m": {"k": 2}}, {"m": {"k": 2.0}}, {"m": {}}, {"m.k": "own"}, {"m": {"k": [1]}}]
    table = pa.table(
        {
            "row_id": [f"r{place}" for place in range(len(rows))],
            "status": ["ok"] * len(rows),
            "original": [json.dumps(row).encode() for row in rows],
        }
    )
    pq.write_table(table, tmp_path / "rows-00000.parquet")
    assert column_values(tmp_path, "m.k") == ["2", "2", "", "own", "[1]"]
    assert column_vectors(tmp_path, "m.k", np.array([4])).tolist() == [[1.0]]
    with pytest.raises(RequestError, match="no row of the pool has the column 'm.other'"):
        column_values(tmp_path, "m.other")
