from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from test_index import build, load_index
from test_index_chat import build as build_chat

from igds.config.inputs import Source
from igds.data.index_files import mark_rows
from igds.data.overlap import Overlap, check_overlap, row_words, rows_with, word_runs
from igds.data.templates import parse_template
from igds.data.words import words_of
from igds.rows import Status

WORDS = [f"word{number}" for number in range(40)]


def make(
    base: Path, name: str, rows: list[dict[str, Any]], **options: Any
) -> tuple[Path, list[str]]:
    (base / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    build(base, Source(path=f"{name}.jsonl"), folder=base / name, max_prompt_tokens=9999, **options)
    return base / name, load_index(base / name, ["row_id"])["row_id"].to_pylist()


def filler(n: int, name: str) -> list[dict[str, Any]]:
    return [{"q": f"{name} filler {number}"} for number in range(n)]


def test_planted_overlaps(tmp_path: Path) -> None:
    shared = " ".join(WORDS[:13])
    prior, prior_ids = make(
        tmp_path,
        "prior",
        [
            {"q": f"start {shared} end", "a": 1},
            {"q": "short question", "a": 1},
            {"q": "same", "a": 1},
        ],
    )
    pool, pool_ids = make(
        tmp_path,
        "pool",
        [
            {"q": f"Other: {shared.upper().replace(' ', ', ')}!", "a": 2},
            {"q": " ".join(WORDS[:12]) + " but not the last", "a": 2},
            {"q": "Short question?", "a": 3},
            {"q": "same", "a": 1},
            {"q": "same", "a": 1, "new": True},
            *filler(5, "pool"),
        ],
    )
    control, _ = make(tmp_path, "control", filler(4, "control"))
    digest = load_index(prior, ["content_hash"])["content_hash"][2].as_py()
    assert check_overlap({"pool": pool, "prior": prior, "control": control}) == [
        Overlap(
            a="prior",
            b="pool",
            rows=2,
            ngrams=2,
            examples=[
                [prior_ids[0], pool_ids[0]],
                [prior_ids[1], pool_ids[2]],
                [prior_ids[2], pool_ids[3]],
            ],
            keys=frozenset([shared, "short question", "same", digest]),
        )
    ]


@pytest.mark.parametrize("fillers", [0, 9], ids=["larger", "smaller"])
def test_rows_that_share_are_found_in_the_larger_and_the_smaller_set(
    tmp_path: Path, fillers: int
) -> None:
    instruction = " ".join(WORDS[20:33])  # of every prompt of the smaller set
    prior, _ = make(
        tmp_path, "prior", [{"q": "same"}, {"q": "same too"}, *filler(fillers, "prior")]
    )
    pool, ids = make(
        tmp_path,
        "pool",
        [
            {"q": "same"},
            {"q": "Same!"},
            {"q": "same", "a": 1},
            *({"q": f"{instruction} {number}"} for number in range(4)),
        ],
    )
    (found,) = check_overlap({"pool": pool, "prior": prior})
    assert (found.a == "pool") == bool(fillers)
    assert rows_with(pool, found.keys) == set(ids[:3])


def test_marked_rows_change_their_status_and_nothing_else(tmp_path: Path) -> None:
    pool, ids = make(tmp_path, "pool", [*filler(10, "pool"), {"a": 1}])
    before = load_index(pool)
    pq.write_table(before, pool / "rows-00000.parquet", row_group_size=4)
    marked = {ids[0], ids[5], ids[9]}
    kept = [row_id not in marked for row_id in ids]
    tokens = mark_rows(pool, marked, Status.OVERLAP)
    assert tokens == sum(before.filter(pc.invert(pa.array(kept)))["n_prompt_tokens"].to_pylist())
    table = load_index(pool)
    assert table["status"].to_pylist() == [
        status if keep else "overlap"
        for status, keep in zip(before["status"].to_pylist(), kept, strict=True)
    ]
    assert table.drop_columns("status").equals(before.drop_columns("status"))
    assert table.schema.equals(before.schema, check_metadata=True)
    assert pq.read_metadata(pool / "rows-00000.parquet").num_row_groups == 3


def test_files_without_a_marked_row_stay_as_they_are(tmp_path: Path) -> None:
    pool, ids = make(tmp_path, "pool", filler(3, "pool"))
    shutil.copy(pool / "rows-00000.parquet", pool / "rows-00001.parquet")
    one, other = (pool / f"rows-0000{place}.parquet" for place in (0, 1))
    pq.write_table(pq.read_table(other).slice(1), other)
    written = other.stat().st_mtime_ns
    mark_rows(pool, {ids[0]}, Status.OVERLAP)
    assert pq.read_table(one)["status"].to_pylist() == ["overlap", "ok", "ok"]
    assert other.stat().st_mtime_ns == written


def test_a_row_in_words_says_where_it_stands_and_how_it_begins(tmp_path: Path) -> None:
    rows = [{"q": "first"}, {"q": "a\n'b'  c", "a": "not shown"}, {"q": "x" * 61}]
    folder, ids = make(tmp_path, "prior", rows)
    assert [row_words(folder, row_id) for row_id in ids] == [
        "prior.jsonl, row 1: 'first'",
        """prior.jsonl, row 2: "a 'b' c\"""",
        f"prior.jsonl, row 3: '{'x' * 60}...'",
    ]


def test_every_pair_of_sets_is_compared(tmp_path: Path) -> None:
    folders = {
        name: make(tmp_path, name, [{"q": "the same row", "a": 1}, *filler(n, name)])[0]
        for n, name in enumerate("abc")
    }
    found = check_overlap(folders)
    assert [(o.a, o.b, o.rows, o.ngrams) for o in found] == [
        ("a", "b", 1, 0), ("a", "c", 1, 0), ("b", "c", 1, 0),
    ]  # fmt: skip


def test_words_of_the_template_and_of_the_response_do_not_count(tmp_path: Path) -> None:
    template = parse_template("{q} " + " ".join(WORDS) + ":")
    folders = {
        name: make(tmp_path, name, [{"q": f"row {name}", "a": " ".join(WORDS)}], template=template)[
            0
        ]
        for name in "ab"
    }
    assert check_overlap(folders) == []


def test_rows_that_cannot_be_used_do_not_count(tmp_path: Path) -> None:
    folders = {
        name: make(tmp_path, name, [{"a": "no question"}, {"q": f"row {name}"}])[0] for name in "ab"
    }
    assert check_overlap(folders) == []


def test_word_runs() -> None:
    assert word_runs("") == word_runs("?! ...") == []
    assert word_runs("One, two") == ["one two"]
    assert word_runs(" ".join(WORDS[:13])) == [" ".join(WORDS[:13])]
    assert word_runs(" ".join(WORDS)) == [" ".join(WORDS[i : i + 13]) for i in range(28)]


def test_chat_rows_are_compared_by_their_turns(tmp_path: Path) -> None:
    shared, system = " ".join(WORDS[:13]), {"role": "system", "content": " ".join(WORDS[20:40])}

    def row(first: str, last: str) -> list[dict[str, str]]:
        turns = [system, {"role": "user", "content": first}, {"role": "assistant", "content": "so"}]
        answer = {"role": "assistant", "content": " ".join(WORDS[13:30])}
        return [*turns, {"role": "user", "content": last}, answer]

    prior, prior_ids = make_chat(tmp_path, "prior", [row(f"a {shared}", "b"), row("c", "d")])
    pool, pool_ids = make_chat(
        tmp_path, "pool", [row("e", f"{shared}, f"), row("c", "d"), row("g", "h"), row("i", "j")]
    )
    digest = load_index(prior, ["content_hash"])["content_hash"][1].as_py()
    assert check_overlap({"prior": prior, "pool": pool}) == [
        Overlap(
            a="prior",
            b="pool",
            rows=1,
            ngrams=1,
            examples=[[prior_ids[0], pool_ids[0]], [prior_ids[1], pool_ids[1]]],
            keys=frozenset([shared, "c so d", digest]),
        )
    ]


def make_chat(base: Path, name: str, rows: list[Any]) -> tuple[Path, list[str]]:
    (base / f"{name}.jsonl").write_text("".join(json.dumps({"m": row}) + "\n" for row in rows))
    source = Source(path=f"{name}.jsonl", messages="m")
    build_chat(base, source, folder=base / name, max_prompt_tokens=9999)
    return base / name, load_index(base / name, ["row_id"])["row_id"].to_pylist()


@pytest.mark.parametrize(("rows", "found"), [(3, 1), (4, 0)])
def test_an_instruction_in_every_prompt_is_no_overlap(
    tmp_path: Path, rows: int, found: int
) -> None:
    instruction = " ".join(WORDS[:13])
    # Repeated prompts are one prompt: several responses do not make its words an instruction.
    prior, _ = make(
        tmp_path,
        "prior",
        [{"q": f"{instruction} a{n}", "a": r} for n in range(rows) for r in "xyz"],
    )
    pool, _ = make(tmp_path, "pool", [{"q": f"{instruction} b"}, *filler(20, "pool")])
    assert sum(o.ngrams for o in check_overlap({"prior": prior, "pool": pool})) == found


def test_words_of_many_prompts_of_a_large_set_are_no_instruction(tmp_path: Path) -> None:
    passage = " ".join(WORDS[:13])
    rows = [{"q": f"{passage} question {n}"} for n in range(5)]
    prior, _ = make(tmp_path, "prior", [*rows, *filler(60, "prior")])
    pool, _ = make(tmp_path, "pool", [{"q": f"{passage} another"}, *filler(80, "pool")])
    assert [o.ngrams for o in check_overlap({"prior": prior, "pool": pool})] == [1]


def test_words_of_scripts_that_join_or_compose_their_signs() -> None:
    hindi = "हिन्दी में एक प्रश्न का उत्तर दीजिए"
    assert words_of(hindi) == hindi.split()
    assert words_of("café CAFE\u0301 m² ½") == ["café", "cafe\u0301", "m²", "½"]
    assert words_of("他给了Ann两个，3.5个") == ["他", "给", "了", "ann", "两", "个", "3", "5", "个"]
    shared = "小明有五个苹果，他给了小红两个"
    assert set(word_runs(f"问：{shared}。")) & set(word_runs(f"{shared}，还剩几个？"))
    assert not set(word_runs("小明有五个苹果，他给了")) & set(word_runs("小明有六个苹果，他给了"))
