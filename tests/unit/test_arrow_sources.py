from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from igds.config.inputs import Source
from igds.data.sources import RawRow, read_source
from igds.errors import RequestError

ROWS = [{"q": f"row {place}", "n": float(place)} for place in range(1000)]


def read(base: Path, path: str, **settings: Any) -> list[RawRow]:
    return list(read_source(Source(path=path, **settings), ("q", "n"), base))


def texts(rows: list[RawRow]) -> list[str]:
    return [row.fields["q"] for row in rows if row.fields]


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
def test_both_arrow_formats(tmp_path: Path, new: Any) -> None:
    table = pa.Table.from_pylist(ROWS)
    with new(str(tmp_path / "a.arrow"), table.schema) as writer:
        for batch in table.to_batches(max_chunksize=300):
            writer.write_batch(batch)
    rows = read(tmp_path, "a.arrow")
    assert [row.fields for row in rows] == ROWS
    assert [row.ordinal for row in rows] == list(range(1000))
    assert rows[3].original == b'{"n":3,"q":"row 3"}'


@pytest.mark.parametrize("data", [b"", b"ARROW1 and no more", b"\xff\xff\xff\xff\x10"])
def test_broken_arrow(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.arrow").write_bytes(data)
    with pytest.raises(RequestError, match=r"a\.arrow cannot be read"):
        read(tmp_path, "a.arrow")


def test_a_cut_off_stream_is_an_error(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=300)
    data = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(RequestError, match=r"a\.arrow cannot be read"):
        read(tmp_path, "a.arrow")


def test_compressed_arrow_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.arrow.gz").write_bytes(b"")
    with pytest.raises(RequestError, match="Arrow is compressed inside"):
        read(tmp_path, "a.arrow.gz")


def test_a_saved_dataset_keeps_its_order(tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS).shuffle(seed=1)
    saved.save_to_disk(str(tmp_path / "set"), num_shards=12)
    # What `map` leaves in such a folder is none of its rows.
    (tmp_path / "set" / "cache-1234.arrow").write_bytes(b"not read")
    rows = read(tmp_path, "set")
    assert texts(rows) == saved["q"][:]
    assert rows[0].source == "set/data-00000-of-00012.arrow"


def test_a_saved_dict_needs_a_split(tmp_path: Path) -> None:
    both = {name: datasets.Dataset.from_list([{"q": name}]) for name in ("train", "test")}
    datasets.DatasetDict(both).save_to_disk(str(tmp_path / "set"))
    assert texts(read(tmp_path, "set", split="test")) == ["test"]
    with pytest.raises(RequestError, match="has several splits: set split; there are train, test"):
        read(tmp_path, "set")
    with pytest.raises(RequestError, match="has no split 'dev'; there are train, test"):
        read(tmp_path, "set", split="dev")
    datasets.DatasetDict({"only": both["train"]}).save_to_disk(str(tmp_path / "one"))
    assert texts(read(tmp_path, "one")) == ["train"]


def test_a_split_of_plain_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": 1}\n')
    for path in ("a.jsonl", "."):
        with pytest.raises(RequestError, match="has no splits"):
            read(tmp_path, path, split="train")


def test_a_state_that_names_files_elsewhere(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS[:1]).save_to_disk(str(tmp_path / "set"))
    state = tmp_path / "set" / "state.json"
    changed = json.loads(state.read_text()) | {"_data_files": [{"filename": "../a.arrow"}]}
    state.write_text(json.dumps(changed))
    with pytest.raises(RequestError, match=r"names '\.\./a\.arrow', no file of the folder"):
        read(tmp_path, "set")
    state.write_text("{")
    with pytest.raises(RequestError, match="set cannot be read"):
        read(tmp_path, "set")


def test_a_sample_is_seeded_and_in_order(tmp_path: Path) -> None:
    for name, part in (("a", ROWS[:400]), ("b", ROWS[400:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    drawn = texts(read(tmp_path, "*.jsonl", sample=100))
    assert len(drawn) == 100
    assert drawn == sorted(drawn, key=lambda text: int(text.split()[1]))
    assert drawn == texts(read(tmp_path, "*.jsonl", sample=100))
    assert drawn != texts(read(tmp_path, "*.jsonl", sample=100, sample_seed=1))
    # A larger sample holds the smaller one; rows come from everywhere.
    assert set(drawn) < set(texts(read(tmp_path, "*.jsonl", sample=300)))
    assert 25 <= sum(int(text.split()[1]) < 400 for text in drawn) <= 55
    assert texts(read(tmp_path, "*.jsonl", sample=5000)) == [row["q"] for row in ROWS]
    first = texts(read(tmp_path, "*.jsonl", limit=50, sample=20))
    assert len(first) == 20
    assert all(int(text.split()[1]) < 50 for text in first)
    # Places in the files stay those of the files.
    assert all(
        row.fields and row.fields["n"] == row.ordinal + 400 * (row.source == "b.jsonl")
        for row in read(tmp_path, "*.jsonl", sample=10)
    )


def test_maps_are_objects(tmp_path: Path) -> None:
    kind = pa.map_(pa.string(), pa.string())
    pairs = [("en", "bye"), ("en", "hello"), ("fr", "salut")]
    table = pa.table({"m": pa.array([pairs], kind), "n": [1.0]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="key 'en' which was already encountered"):
        (row,) = read(tmp_path, "a.parquet", columns={"q": "m.en"})
    assert row.fields == {"q": "hello", "n": 1.0}
    assert json.loads(row.original)["m"] == {"en": "hello", "fr": "salut"}


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["q", "q"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=r"a\.parquet .*: two columns have one name in q, q"):
        read(tmp_path, "a.parquet")
