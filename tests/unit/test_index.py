from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers import bracket_tokenizer, tiny_tokenizer

from igds.config.inputs import Source
from igds.data import index_files
from igds.data.index import IndexSummary, build_index, iter_index, load_index
from igds.data.index_files import INDEX_SCHEMA
from igds.data.row_ids import RowIds
from igds.data.templates import parse_template
from igds.errors import RequestError
from igds.rows import canonical, content_hash

TEMPLATE = parse_template("{q}\nA:")


class Answers:
    fields = ("a",)

    def response(self, row: Mapping[str, Any]) -> str:
        if isinstance(row["a"], list):
            raise ValueError("a list")
        return f" {row['a']}"


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Source:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(path=name)


def build(base: Path, *sources: Source, **options: Any) -> IndexSummary:
    settings: dict[str, Any] = {
        "folder": base / "index",
        "base": base,
        "template": TEMPLATE,
        "task": Answers(),
        "tokenizer": tiny_tokenizer(),
        "train_tokenizer": None,
        "max_prompt_tokens": 50,
        "require_response": False,
        "progress": lambda _n: None,
    }
    return build_index(sources, **(settings | options))


def rows_of(base: Path) -> list[dict[str, Any]]:
    return load_index(base / "index").to_pylist()


def test_every_column_of_a_row(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", [{"q": "1+1", "a": 2.0, "extra": 1}])
    summary = build(tmp_path, source)
    prompt, fields = "1+1\nA:", {"a": 2, "q": "1+1"}
    assert rows_of(tmp_path) == [
        {
            "row_id": content_hash(canonical(fields)),
            "content_hash": content_hash(canonical(fields)),
            "source": "a.jsonl",
            "ordinal": 0,
            "status": "ok",
            "prompt": prompt,
            "prompt_hash": content_hash(prompt.encode()),
            "response": " 2.0",
            "prompt_ids": tiny_tokenizer()(prompt)["input_ids"],
            "n_prompt_tokens": 7,
            "n_response_tokens": 4,
            "n_train_tokens": 11,
            "fields": '{"a":2,"q":"1+1"}',
            "original": b'{"q": "1+1", "a": 2.0, "extra": 1}',
        }
    ]
    assert load_index(tmp_path / "index").schema.equals(INDEX_SCHEMA)
    assert summary == IndexSummary(
        rows=1, status={"ok": 1}, tokens=7, duplicates=0, source_rows=(1,)
    )


def test_statuses(tmp_path: Path) -> None:
    lines = [
        b'{"q": "fine", "a": 1}',
        b'{"a": 1}',
        b'{"q": null}',
        b'{"q": ["list"]}',
        b'{"q": NaN}',
        b'{"q": " \\n"}',
        b'{"q": "' + b"x" * 47 + b'"}',
        b'{"q": "' + b"x" * 46 + b'"}',
        b'{"q": "half \\ud800"}',
        b'{"q": "\xff"}',
        b"[]",
        b'{"q": "torn',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    summary = build(tmp_path, Source(path="a.jsonl"))
    rows = rows_of(tmp_path)
    assert [row["status"] for row in rows] == [
        "ok", "missing_field", "missing_field", "missing_field", "missing_field", "empty_prompt",
        "too_long", "ok", "bad_utf8", "bad_utf8", "bad_json", "torn_line",
    ]  # fmt: skip
    assert [row["original"] for row in rows] == lines
    assert summary.status == {
        "bad_json": 1, "bad_utf8": 2, "empty_prompt": 1, "missing_field": 4, "ok": 2,
        "too_long": 1, "torn_line": 1,
    }  # fmt: skip
    assert [rows[i]["row_id"] for i in (8, 10)] == [content_hash(lines[i]) for i in (8, 10)]
    assert all(row["prompt"] is None for row in rows if row["n_prompt_tokens"] is None)


@pytest.mark.parametrize("answer", [None, "", " ", ["x"]])
def test_row_without_gold_response(tmp_path: Path, answer: Any) -> None:
    source = write(tmp_path, "a.jsonl", [{"q": "x", "a": answer}, {"q": "y", "a": 1}])
    build(tmp_path, source)
    row = rows_of(tmp_path)[0]
    assert (row["status"], row["response"], row["n_response_tokens"]) == ("ok", None, None)
    assert row["n_train_tokens"] == row["n_prompt_tokens"] == 5
    build(tmp_path, source, require_response=True)
    assert [row["status"] for row in rows_of(tmp_path)] == ["missing_field", "ok"]


def test_response_counts_for_the_context_where_the_model_reads_it(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", [{"q": "x", "a": "y" * 44}, {"q": "x", "a": "y" * 45}])
    build(tmp_path, source)
    assert [row["status"] for row in rows_of(tmp_path)] == ["ok", "ok"]
    build(tmp_path, source, fit_response=True)
    assert [row["status"] for row in rows_of(tmp_path)] == ["ok", "too_long"]


def test_duplicates_are_numbered_across_files(tmp_path: Path) -> None:
    one = write(tmp_path, "a.jsonl", [{"q": "x", "n": 1}, {"q": "y"}, {"q": "x", "a": None}])
    two = write(tmp_path, "b.jsonl", [{"q": "x", "n": 2}, {"q": 1}, {"q": 1.0}, {"q": "1"}])
    summary = build(tmp_path, one, two)
    x, y, number, text = (content_hash(canonical({"q": q})) for q in ("x", "y", 1, "1"))
    ids = [row["row_id"] for row in rows_of(tmp_path)]
    assert ids == [x, y, f"{x}-2", f"{x}-3", number, f"{number}-2", text]
    assert [row["content_hash"] for row in rows_of(tmp_path)] == [x, y, x, x, number, number, text]
    assert summary.duplicates == 3


def test_own_ids(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", [{"q": "x", "id": "one"}, {"q": "x", "id": 2}])
    build(tmp_path, Source(path="a.jsonl", id_column="id"))
    assert [row["row_id"] for row in rows_of(tmp_path)] == ["one", "2"]


def test_own_ids_must_be_unique(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", [{"q": "x", "id": 1}, {"q": "y", "id": "1"}])
    with pytest.raises(RequestError, match=r"a\.jsonl, row 1: id '1' stands twice"):
        build(tmp_path, Source(path="a.jsonl", id_column="id"))


def test_wrong_column_names_the_columns_seen(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", [{"problem": "x", "answer": 1}] * 3)
    with pytest.raises(RequestError, match=r"3 missing_field.*needed are q, .*are problem, answer"):
        build(tmp_path, source)


def test_wrong_column_of_one_source_among_several(tmp_path: Path) -> None:
    good, bad = write(tmp_path, "a.jsonl", [{"q": "x"}]), write(tmp_path, "b.jsonl", [{"Q": "x"}])
    with pytest.raises(RequestError, match=r"every row of b\.jsonl lacks a field"):
        build(tmp_path, good, bad)


def test_no_usable_row(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", [{"q": ""}, {"p": 1}])
    with pytest.raises(RequestError, match=r"no row of a\.jsonl.*1 empty_prompt, 1 missing_field"):
        build(tmp_path, source)
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(RequestError, match=r"no row of b\.jsonl can be used: 0 rows"):
        build(tmp_path, Source(path="b.jsonl"))


def test_the_same_rows_in_other_templates(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", [{"q": name} for name in "wxyz"])
    build(tmp_path, source)
    ids = [row["row_id"] for row in rows_of(tmp_path)]
    others = [parse_template("{text}\nNext:"), parse_template("{text}\nThen:")]
    build(tmp_path, source, other_templates=others)
    assert [row["prompt"] for row in rows_of(tmp_path)] == [
        "w\nNext:", "x\nThen:", "y\nNext:", "z\nThen:",
    ]  # fmt: skip
    assert [row["row_id"] for row in rows_of(tmp_path)] == ids


def test_text_of_other_templates_joins_the_prompt_fields(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", [{"to": "German", "q": "{to}", "n": 2.0}])
    template = parse_template("{q} to {to}, {n} times:")
    build(tmp_path, source, template=template, other_templates=[parse_template("{text}\nNext:")])
    assert rows_of(tmp_path)[0]["prompt"] == "{to}\nGerman\n2\nNext:"


def test_other_template_with_a_place_no_row_fills(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="place for body; it can have q, text"):
        build(tmp_path, Source(path="a"), other_templates=[parse_template("{body}\nNext:")])


def test_neutral_set_maps_its_text_to_the_only_prompt_field(tmp_path: Path) -> None:
    summary = build(tmp_path, Source(path="builtin:neutral", limit=20), max_prompt_tokens=10_000)
    assert summary.status == {"ok": 20}
    assert rows_of(tmp_path)[0]["source"] == "builtin:neutral"
    several = parse_template("{q} {r}:")
    with pytest.raises(RequestError, match="map each of q, r"):
        build(tmp_path, Source(path="builtin:neutral"), template=several)


def test_train_tokenizer_counts_its_own_tokens(tmp_path: Path) -> None:
    source = write(tmp_path, "a.jsonl", [{"q": "x", "a": 12}])
    build(tmp_path, source, train_tokenizer=bracket_tokenizer())
    row = rows_of(tmp_path)[0]
    assert (row["n_prompt_tokens"], row["n_response_tokens"], row["n_train_tokens"]) == (5, 3, 9)


def test_files_and_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_files, "FILE_ROWS", 1000)
    monkeypatch.setattr(index_files, "GROUP_ROWS", 300)
    source = write(tmp_path, "a.jsonl", [{"q": str(number)} for number in range(2345)])
    seen: list[int] = []
    build(tmp_path, source, progress=seen.append)
    files = [pq.ParquetFile(file) for file in sorted((tmp_path / "index").glob("rows-*.parquet"))]
    sizes = [
        [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] for file in files
    ]
    assert sizes == [[300, 300, 300, 100], [300, 300, 300, 100], [300, 45]]
    assert load_index(tmp_path / "index", ["ordinal"])["ordinal"].to_pylist() == list(range(2345))
    streamed = [
        n for b in iter_index(tmp_path / "index", ["ordinal"]) for n in b["ordinal"].to_pylist()
    ]
    assert streamed == list(range(2345))
    assert sum(seen) == 2345


def test_big_rows_are_written_before_a_row_group_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_files, "_GROUP_BYTES", 1000)
    source = write(
        tmp_path, "a.jsonl", [{"q": f"{number:03d}" + "x" * 40} for number in range(600)]
    )
    build(tmp_path, source)
    metadata = pq.read_metadata(tmp_path / "index" / "rows-00000.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [
        256,
        256,
        88,
    ]


def test_an_attempt_that_was_cut_short_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "rows-00007.parquet").write_bytes(b"half")
    build(tmp_path, write(tmp_path, "a.jsonl", [{"q": "x"}]))
    assert [file.name for file in (tmp_path / "index").iterdir()] == ["rows-00000.parquet"]


def test_full_disk_is_named_and_leaves_an_error_the_user_can_act_on(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", [{"q": os.urandom(30).hex()} for _ in range(3000)])
    script = (
        "import resource, sys; from pathlib import Path; from test_index import build, Source\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "build(Path(sys.argv[1]), Source(path='a.jsonl'), max_prompt_tokens=99)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([path, *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "igds.errors.WorkError: cannot write" in done.stderr.splitlines()[-1]


def test_row_ids_against_a_plain_dictionary() -> None:
    # Digests that share a bucket and whose bytes overlap at any offset are the hard case.
    digests = ["0000" + "ab" * shift + "cd" * (14 - shift) for shift in range(15)]
    digests += ["0000" + f"{number:028x}" for number in range(300)]
    ids, seen = RowIds(), dict[str, int]()
    for digest in digests * 3:
        seen[digest] = seen.get(digest, 0) + 1
        suffix = "" if seen[digest] == 1 else f"-{seen[digest]}"
        assert ids.take(digest, None, "") == digest + suffix
    assert ids.duplicates == 2 * len(digests)


def test_an_id_may_not_be_another_rows_content_hash(tmp_path: Path) -> None:
    named = write(tmp_path, "a.jsonl", [{"q": "x", "a": 1}])
    build(tmp_path, named, folder=tmp_path / "first")
    (first,) = load_index(tmp_path / "first", ["row_id"])["row_id"].to_pylist()
    write(tmp_path, "b.jsonl", [{"q": "other", "a": 2, "id": first}])
    own = Source(path="b.jsonl", id_column="id")
    for order in ([named, own], [own, named]):
        with pytest.raises(RequestError, match=f"id '{first}' stands twice"):
            build(tmp_path, *order, folder=tmp_path / "both")


def test_a_mapped_column_that_no_row_has(tmp_path: Path) -> None:
    named = write(tmp_path, "a.jsonl", [{"q": "x", "answer": 1}, {"q": "y", "note": 2}])
    source = Source(path=named.path, columns={"a": "anser"})
    with pytest.raises(RequestError, match="no row of a.jsonl has the column anser .* q, answer"):
        build(tmp_path, source)


def test_a_mapped_column_may_be_empty_or_come_late(tmp_path: Path) -> None:
    empty = write(tmp_path, "a.jsonl", [{"q": "x", "answer": None}])
    late = write(tmp_path, "b.jsonl", [{"q": "y"}, {"q": "z", "answer": 1}])
    columns = {"a": "answer"}
    build(tmp_path, *(Source(path=source.path, columns=columns) for source in (empty, late)))
    assert [row["response"] for row in rows_of(tmp_path)] == [None, None, " 1"]


def test_a_row_that_brings_the_bos_is_a_status_and_a_template_with_it_is_refused(
    tmp_path: Path,
) -> None:
    rows = [{"q": "What does <bos> mean?", "a": 1}, {"q": "1+1", "a": 2}]
    source = write(tmp_path, "a.jsonl", rows)
    assert build(tmp_path, source).status == {"ok": 1, "special_token": 1}
    first, second = rows_of(tmp_path)
    assert (first["status"], first["prompt_ids"]) == ("special_token", None)
    assert second["n_train_tokens"] == second["n_prompt_tokens"] + second["n_response_tokens"]
    doubled = parse_template("<bos>{q}\nA:")
    with pytest.raises(RequestError, match="adds its BOS itself: take it out of prompts.template"):
        build(tmp_path, source, template=doubled, folder=tmp_path / "again")
