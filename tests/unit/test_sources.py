from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from igds.config.inputs import Source
from igds.data.identity import source_identity
from igds.data.sources import RawRow, column_names, read_source
from igds.errors import RequestError
from igds.rows import Status


def read(base: Path, path: str, fields: tuple[str, ...] = ("q",), **settings: Any) -> list[RawRow]:
    return list(read_source(Source(path=path, **settings), fields, base))


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def test_jsonl_is_split_on_newlines_only(tmp_path: Path) -> None:
    lines = [
        '{"q": "a\u2028b\u2029c\x85d"}'.encode(),
        b'{"q": "crlf"}\r',
        b'{"q" : "spaced",   "z": 1.0}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    rows = read(tmp_path, "a.jsonl")
    assert [row.original for row in rows] == lines
    assert [row.fields for row in rows] == [
        {"q": "a\u2028b\u2029c\x85d"},
        {"q": "crlf"},
        {"q": "spaced"},
    ]
    assert [row.ordinal for row in rows] == [0, 1, 2]
    assert {row.source for row in rows} == {"a.jsonl"}


def test_bom_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"q": 1}\n{"q": 2}\n')
    assert [row.original for row in read(tmp_path, "a.jsonl")] == [b'{"q": 1}', b'{"q": 2}']


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\n{"q": 1}\n \r\n\n{"q": 2}\n\n')
    assert [(row.ordinal, row.fields) for row in read(tmp_path, "a.jsonl")] == [
        (0, {"q": 1}),
        (1, {"q": 2}),
    ]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b'{"q": ', Status.BAD_JSON),
        (b"[1]", Status.BAD_JSON),
        (b'"q"', Status.BAD_JSON),
        (b'{"q": "\xff"}', Status.BAD_UTF8),
        (b'{"q": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", Status.BAD_JSON),
        (b'{"q": ' + b"9" * 5000 + b"}", Status.BAD_JSON),
    ],
)
def test_unreadable_lines_are_counted(tmp_path: Path, line: bytes, status: Status) -> None:
    (tmp_path / "a.jsonl").write_bytes(line + b'\n{"q": 1}\n')
    bad, good = read(tmp_path, "a.jsonl")
    assert (bad.status, bad.fields, bad.original) == (status, None, line)
    assert (good.status, good.ordinal) == (Status.OK, 1)


@pytest.mark.parametrize("tail", [b'{"q": "half', '{"q": "ü'.encode()[:-1], b"{"])
def test_torn_last_line(tmp_path: Path, tail: bytes) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"q": 1}\n' + tail)
    assert [row.status for row in read(tmp_path, "a.jsonl")] == [Status.OK, Status.TORN_LINE]


def test_last_line_without_newline_that_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"q": 1}\n{"q": 2}')
    assert [row.status for row in read(tmp_path, "a.jsonl")] == [Status.OK, Status.OK]


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".zst", zstd)])
def test_compressed_files_of_several_members(tmp_path: Path, ending: str, compress: Any) -> None:
    data = b'{"q": 1}\n{"q"', b': 2}\n{"q": 3}\n'
    (tmp_path / f"a.jsonl{ending}").write_bytes(b"".join(map(compress, data)))
    assert [row.fields for row in read(tmp_path, f"a.jsonl{ending}")] == [
        {"q": 1},
        {"q": 2},
        {"q": 3},
    ]


def test_cut_off_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"q": 1}\n' * 5000)[:-20])
    with pytest.raises(RequestError, match=r"a\.jsonl\.gz cannot be read"):
        read(tmp_path, "a.jsonl.gz")


def test_json_array(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"q": "x", "n": 2.0, "m": null}, 5, {"q": "\\ud800"}]')
    rows = read(tmp_path, "a.json")
    assert [row.status for row in rows] == [Status.OK, Status.BAD_JSON, Status.BAD_UTF8]
    assert rows[0].original == b'{"n":2,"q":"x"}'
    assert rows[2].original == b'{"q": "\\ud800"}'


@pytest.mark.parametrize(
    ("text", "reason"), [('{"q": 1}', "no array"), ('{"q": 1}\n{"q": 2}', "format: jsonl")]
)
def test_json_file_that_is_no_array(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RequestError, match=reason):
        read(tmp_path, "a.json")


@pytest.mark.parametrize(
    "text", ['[{"q": 1}]', '[\n{"q": 1}\n]', ' [ {"q": 1},\n{"q": 2}]', '\n[{"role": "user"}]\n[]']
)
def test_an_array_in_a_file_of_lines(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(RequestError, match="JSON arrays, .* set format: json; .*messages"):
        read(tmp_path, "a.jsonl")


def test_csv_values_are_text_as_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbfid,q\r\n007,"two\nlines, ""quoted"""\r\n\r\nNA,1.0\r\n8,\xff\r\n'
    )
    first, second, third = read(tmp_path, "a.csv", ("id", "q"))
    assert first.fields == {"id": "007", "q": 'two\nlines, "quoted"'}
    assert json.loads(first.original) == first.fields
    assert second.fields == {"id": "NA", "q": "1.0"}
    assert third.status == Status.BAD_UTF8


def test_a_quote_that_is_never_closed_is_no_cell(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('q\ttarget\na\t1\nb\t"6 inches\nc\t3\n')
    with pytest.raises(RequestError, match="a.tsv cannot be read: unexpected end of data"):
        read(tmp_path, "a.tsv")


def test_long_csv_cell(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q\n" + "x" * 300_000 + "\n")
    (row,) = read(tmp_path, "a.csv")
    assert row.fields == {"q": "x" * 300_000}


@pytest.mark.parametrize(
    ("text", "reason"),
    [("q,a\n1,2\n3,4,5\n", "line 3 has 3 cells, the header has 2"), ("q,q\n1,2\n", "one name")],
)
def test_malformed_csv(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(RequestError, match=reason):
        read(tmp_path, "a.csv")


def test_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('q\ta\nx, "y"\tz\n')
    (row,) = read(tmp_path, "a.tsv", ("q", "a"))
    assert row.fields == {"q": 'x, "y"', "a": "z"}


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "q": ["x", None],
            "n": pa.array([2.0, float("nan")]),
            "d": [Decimal("1.50"), None],
            "l": [["a", "b"], []],
            "s": [{"k": 1, "v": b"\x01"}, None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = read(tmp_path, "a.parquet", ("q", "n", "l"))
    assert first.fields == {"q": "x", "n": 2.0, "l": ["a", "b"]}
    assert second.fields == {"l": []}
    assert first.original == b'{"d":"1.50","l":["a","b"],"n":2,"q":"x","s":{"k":1,"v":"01"}}'


def test_broken_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RequestError, match=r"a\.parquet cannot be read"):
        read(tmp_path, "a.parquet")


def test_glob_and_folder_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "rows [v1]"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.jsonl", "a.jsonl", "deep/c.csv", "README.md", ".hidden.jsonl"):
        (folder / name).write_text("q\n1\n" if name.endswith("csv") else '{"q": 1}\n')
    names = [row.source for row in read(tmp_path, "rows [v1]")]
    assert names == ["rows [v1]/a.jsonl", "rows [v1]/b.jsonl", "rows [v1]/deep/c.csv"]
    assert [row.source for row in read(folder, "*.jsonl")] == [
        ".hidden.jsonl",
        "a.jsonl",
        "b.jsonl",
    ]
    assert [row.source for row in read(folder / "deep", "../?.jsonl")] == [
        "../a.jsonl",
        "../b.jsonl",
    ]
    absolute = f"{folder}/deep/**/*.csv".replace("[", "[[]")
    assert [row.source for row in read(tmp_path, absolute)] == [f"{folder}/deep/c.csv"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none.jsonl", "no such file"),
        ("*.csv", "no file matches"),
        ("empty", "holds no file that ends in"),
        ("a.txt", "unknown ending.*set format"),
        ("a.parquet.gz", "decompress"),
        ("s3x://bucket/a.jsonl", "Protocol not known"),
        ("builtin:other", "not built in"),
    ],
)
def test_refused_paths(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("a.txt", "a.parquet.gz"):
        (tmp_path / name).write_text("")
    with pytest.raises(RequestError, match=reason):
        read(tmp_path, path)


def test_given_format_overrules_the_ending(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text('{"q": 1}\n')
    assert len(read(tmp_path, "a.txt", format="jsonl")) == 1


def test_columns_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"problem": "x", "answer": null, "q": "no"}\n')
    (row,) = read(tmp_path, "a.jsonl", ("q", "answer"), columns={"q": "problem"})
    assert row.fields == {"q": "x"}
    source = Source(path="a.jsonl")
    assert column_names(source, tmp_path) == ["problem", "answer", "q"]


def test_mapping_of_a_field_that_nothing_reads(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="maps quesiton, which nothing reads"):
        read(tmp_path, "a.jsonl", columns={"quesiton": "problem"})


def test_limit_runs_over_all_files(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"q": 1}\n{"q": 2}\n')
    rows = read(tmp_path, "*.jsonl", limit=3)
    assert [(row.source, row.ordinal) for row in rows] == [
        ("a.jsonl", 0),
        ("a.jsonl", 1),
        ("b.jsonl", 0),
    ]


def test_skip_and_limit_part_a_source(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"q": {n}}}\n' for n in range(10)))

    def ordinals(**settings: int) -> list[int]:
        return [row.ordinal for row in read(tmp_path, "a.jsonl", **settings)]

    assert ordinals(skip=4, limit=3) == [4, 5, 6]
    assert ordinals(limit=4) + ordinals(skip=4) == list(range(10))
    assert ordinals(skip=20) == []
    # A draw behind skipped rows is the whole draw without them: rows keep their numbers.
    whole = ordinals(sample=10)
    assert set(ordinals(skip=5, sample=3)) <= set(whole[5:])
    assert source_identity(Source(path="a.jsonl", skip=4), tmp_path)["skip"] == 4


def test_a_dotted_column_is_a_key_of_a_column(tmp_path: Path) -> None:
    pairs = ['{"t": {"en": {"text": "one"}}}', '{"t": null}', '{"t": "x"}', '{"t.en.text": "two"}']
    (tmp_path / "a.jsonl").write_text("".join(f"{pair}\n" for pair in pairs))
    rows = read(tmp_path, "a.jsonl", columns={"q": "t.en.text"})
    assert [row.fields for row in rows] == [{"q": "one"}, {}, {}, {"q": "two"}]


def test_id_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": 1, "id": "x"}\n{"q": 1, "id": 7.0}\n{"q": 1}\n')
    rows = read_source(Source(path="a.jsonl", id_column="id"), ("q",), tmp_path)
    assert [next(rows).id, next(rows).id] == ["x", "7"]
    with pytest.raises(RequestError, match="row 2: no value in id_column 'id'; columns: q"):
        next(rows)


def test_neutral_rows_ship_with_the_package(tmp_path: Path) -> None:
    rows = read(tmp_path, "builtin:neutral", ("text", "source"))
    assert len(rows) >= 200
    assert len({row.fields["source"] for row in rows if row.fields}) >= 4
    assert all(row.status == Status.OK for row in rows)


def test_identity_follows_bytes_and_mapping(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"q": 1}\n')
    first = source_identity(Source(path="a.jsonl"), tmp_path)
    assert first["files"][0]["name"] == "a.jsonl"
    assert first["files"][0]["bytes"] == 9
    assert source_identity(Source(path="a.jsonl"), tmp_path) == first
    assert source_identity(Source(path="a.jsonl", limit=1), tmp_path) != first
    file.write_text('{"q": 2}\n')
    assert source_identity(Source(path="a.jsonl"), tmp_path) != first
