"""What each trainer reads back, and what stands beside it.

Formats: TRL's dataset formats, LLaMA-Factory's data/README.md, Axolotl's docs/dataset-formats.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML
from test_index_chat import build as build_chats
from test_index_chat import chats
from tests.helpers import tiny_tokenizer

from igds.config.training import Finetune
from igds.data.index_files import INDEX_SCHEMA, IndexWriter
from igds.data.tokens import added_bos
from igds.errors import RequestError
from igds.exports.rows import Chosen
from igds.exports.run import export_run, stamp
from igds.exports.trl import write_trl
from igds.finetuning.engines import write_engine
from igds.finetuning.examples import IGNORED, rows_by_id, training_examples
from igds.rows import canonical
from igds.runs.folder import RunFolder

RAW = [
    {"prompt": "1+1\nA:", "response": " 2"},
    {"prompt": "line\u2028break\u2029s\x85 and \\n\nA:", "response": ' "quoted"\n\ttwice'},
    {"prompt": "not chosen\nA:", "response": " x"},
    {"prompt": "../../etc/passwd\nA:", "response": " {instruction} %s \U0001f600\x00"},
]
ORDER = [0, 3, 1]
"""Chosen rows, best first."""
CHATS = [
    [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}],
    [
        {"role": "system", "content": "Be\u2028brief."},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": "z"},
        {"role": "assistant", "content": "!"},
    ],
    [{"role": "user", "content": "not chosen"}, {"role": "assistant", "content": "n"}],
    [
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ],
]


def run_of(folder: Path, rows: list[dict[str, Any]]) -> RunFolder:
    """Return a run of four pool rows, of which all but the third are selected."""
    folder.joinpath("select").mkdir(parents=True)
    with IndexWriter(folder / "index", {}) as writer:
        for place, row in enumerate(rows):
            known = {
                "row_id": f"id{place}", "content_hash": f"{place:032}", "source": f"s{place % 2}",
                "ordinal": place, "status": "ok", "fields": '{"q":1}',
                "original": json.dumps({"n": place}).encode(),
            }  # fmt: skip
            writer.add([{**dict.fromkeys(INDEX_SCHEMA.names), **known, **row}])
    table = pa.table(
        {
            "row_id": [f"id{place}" for place in range(4)],
            "pool_score": [5.0, 2.0, 1.0, 4.0],
            "rank": [1, 3, 4, 2],
            "selected": [True, True, False, True],
        }
    )
    pq.write_table(table, folder / "select" / "selection.parquet")
    (folder / "index" / "summary.json").write_text('{"eos": "<eos>"}')
    (folder / "select" / "summary.json").write_text('{"method": "igds"}')
    return RunFolder(folder)


def raw_run(tmp_path: Path) -> RunFolder:
    return run_of(tmp_path / "run", RAW)


def chat_run(tmp_path: Path) -> RunFolder:
    rows = [{"prompt": "rendered", "fields": canonical({"messages": c}).decode()} for c in CHATS]
    return run_of(tmp_path / "run", rows)


def load(path: Path, tmp_path: Path) -> list[dict[str, Any]]:
    loaded = datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    return list(loaded)


def test_trl_reads_prompt_and_completion(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    export_run(raw_run(tmp_path), path, "trl", "pool")
    assert load(path, tmp_path) == [
        {"prompt": RAW[n]["prompt"], "completion": RAW[n]["response"]} for n in (0, 1, 3)
    ]
    # Readers that split at every line break of Unicode see three lines too.
    assert len(path.read_text().splitlines()) == 3


def test_trl_reads_messages_of_chat_rows(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    notes = export_run(chat_run(tmp_path), path, "trl", "rank")
    assert load(path, tmp_path) == [{"messages": CHATS[n]} for n in ORDER]
    assert "assistant_only_loss=True" in notes[1]


def test_conversations_from_the_index_to_a_trainer(tmp_path: Path) -> None:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    share = [{"from": names[turn["role"]], "value": turn["content"]} for turn in CHATS[1]]
    build_chats(tmp_path, chats(tmp_path, CHATS[0], share))
    write_trl(tmp_path / "out.jsonl", Chosen(tmp_path / "index", np.array([True, True])))
    assert load(tmp_path / "out.jsonl", tmp_path) == [{"messages": turns} for turns in CHATS[:2]]


def test_a_huge_row_is_read_back(tmp_path: Path) -> None:
    rows = [*RAW[:3], {"prompt": "long\u2028" * 3_000_000 + "A:", "response": " 1"}]
    path = tmp_path / "out.jsonl"
    export_run(run_of(tmp_path / "run", rows), path, "trl", "pool")
    assert [row["prompt"] for row in load(path, tmp_path)] == [rows[n]["prompt"] for n in (0, 1, 3)]


def test_llamafactory_alpaca(tmp_path: Path) -> None:
    path = tmp_path / "chosen.jsonl"
    notes = export_run(raw_run(tmp_path), path, "llamafactory", "pool")
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info == {
        "chosen": {
            "file_name": "chosen.jsonl",
            "formatting": "alpaca",
            "columns": {"prompt": "instruction", "response": "output"},
        }
    }
    columns = info["chosen"]["columns"]
    read = load(tmp_path / info["chosen"]["file_name"], tmp_path)
    assert [(row[columns["prompt"]], row[columns["response"]]) for row in read] == [
        (RAW[n]["prompt"], RAW[n]["response"] + "<eos>") for n in (0, 1, 3)
    ]
    assert "template: empty" in " ".join(notes)


def test_llamafactory_sharegpt(tmp_path: Path) -> None:
    path = tmp_path / "chosen.jsonl"
    notes = export_run(chat_run(tmp_path), path, "llamafactory", "pool")
    entry = json.loads((tmp_path / "dataset_info.json").read_text())["chosen"]
    assert entry["formatting"] == "sharegpt"
    turns = [row[entry["columns"]["messages"]] for row in load(path, tmp_path)]
    tags = entry["tags"]
    shown = [[(t[tags["role_tag"]], t[tags["content_tag"]]) for t in chat] for chat in turns]
    assert shown == [[(t["role"], t["content"]) for t in CHATS[n]] for n in (0, 1, 3)]
    assert (tags["user_tag"], tags["assistant_tag"], tags["system_tag"]) == (
        "user", "assistant", "system",
    )  # fmt: skip
    assert any("skips 1 rows" in note for note in notes)
    assert any("leave template out" in note for note in notes)


def test_a_selection_that_was_moved_away_is_no_run(tmp_path: Path) -> None:
    run = raw_run(tmp_path)
    earlier = RunFolder(run.path / "cells" / "0123")
    shutil.copytree(run.path / "select", earlier.path / "select")
    with pytest.raises(RequestError, match="has no index: name the run's own folder"):
        export_run(earlier, tmp_path / "out.jsonl", "trl", "pool")
    assert not (tmp_path / "out.jsonl").exists()


def test_dataset_info_keeps_its_other_entries(tmp_path: Path) -> None:
    run, info = raw_run(tmp_path), tmp_path / "dataset_info.json"
    others = {"identity": {"file_name": "identity.json"}, "hub": {"hf_hub_url": "a/b"}}
    info.write_text(json.dumps(others))
    for _ in range(2):
        export_run(run, tmp_path / "mine.jsonl", "llamafactory", "pool")
    known = json.loads(info.read_text())
    assert {name: known[name] for name in others} == others
    assert list(known) == ["identity", "hub", "mine"]
    for name in others:
        with pytest.raises(RequestError, match=f"another data set '{name}'"):
            export_run(run, tmp_path / f"{name}.jsonl", "llamafactory", "pool")
        assert not (tmp_path / f"{name}.jsonl").exists()
    assert json.loads(info.read_text()) == known


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}'])
def test_a_damaged_dataset_info_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset_info.json").write_text(text)
    with pytest.raises(RequestError, match=r"dataset_info\.json is n"):
        export_run(raw_run(tmp_path), tmp_path / "out.jsonl", "llamafactory", "pool")
    assert (tmp_path / "dataset_info.json").read_text() == text
    assert not (tmp_path / "out.jsonl").exists()


def test_axolotl_instruction(tmp_path: Path) -> None:
    path = tmp_path / "it's: out.jsonl"
    export_run(raw_run(tmp_path), path, "axolotl", "pool")
    (entry,) = YAML(typ="safe").load(tmp_path / "it's: out.axolotl.yaml")["datasets"]
    assert (entry["path"], entry["ds_type"]) == (str(path), "json")
    kind = entry["type"]
    for n, row in zip((0, 1, 3), load(path, tmp_path), strict=True):
        prompt = kind["no_input_format"].format(instruction=row[kind["field_instruction"]])
        assert (prompt, row[kind["field_output"]]) == (RAW[n]["prompt"], RAW[n]["response"])


def test_axolotl_chat(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    notes = export_run(chat_run(tmp_path), path, "axolotl", "pool")
    text = (tmp_path / "out.axolotl.yaml").read_text()
    assert notes[-1] == text.rstrip()
    (entry,) = YAML(typ="safe").load(text)["datasets"]
    assert entry == {
        "path": str(path), "ds_type": "json", "type": "chat_template", "field_messages": "messages",
    }  # fmt: skip
    assert [row["messages"] for row in load(path, tmp_path)] == [CHATS[n] for n in (0, 1, 3)]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "trl", "llamafactory", "axolotl"])
@pytest.mark.parametrize("order", ["pool", "rank"])
def test_scores_stand_beside_in_the_same_order(tmp_path: Path, form: Any, order: Any) -> None:
    path = tmp_path / ("out.parquet" if form == "parquet" else "out.jsonl")
    export_run(raw_run(tmp_path), path, form, order)
    table = pq.read_table(tmp_path / "out.scores.parquet")
    places = [0, 1, 3] if order == "pool" else ORDER
    assert table.to_pylist() == [
        {
            "row_id": f"id{n}", "pool_score": [5.0, 2.0, 1.0, 4.0][n], "rank": [1, 3, 4, 2][n],
            "source": f"s{n % 2}",
        }
        for n in places
    ]  # fmt: skip
    if form == "parquet":
        rows = pq.read_table(path).to_pylist()
        assert [row["original"] for row in rows] == [json.dumps({"n": n}) for n in places]
    elif form == "jsonl":
        assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == places
    else:
        assert not {"row_id", "pool_score", "rank"} & set(
            json.loads(path.read_bytes().split(b"\n")[0])
        )


@pytest.mark.parametrize(("make", "template"), [(chat_run, None), (raw_run, "empty")])
def test_an_engine_renders_chats_itself_and_nothing_else(
    tmp_path: Path, make: Any, template: str | None
) -> None:
    rows = Chosen.for_trainer(
        make(tmp_path).path / "index", np.array([True, True, False, True]), "llamafactory"
    )
    settings = Finetune(engine="llamafactory", batch=4)
    notes = write_engine(tmp_path, tmp_path, rows, settings, model="m", seed=1)
    text = (tmp_path / "llamafactory.yaml").read_text()
    assert YAML(typ="safe").load(text).get("template") == template
    assert any("skips 1 rows" in note for note in notes) == (template is None)


@pytest.mark.parametrize("bos", [True, False])
def test_llamafactory_sees_the_tokens_that_igds_trains_on(tmp_path: Path, bos: bool) -> None:
    """Its template `empty` tokenizes prompt and response apart, and adds neither BOS nor EOS."""
    run, tokenizer = raw_run(tmp_path), tiny_tokenizer(bos=bos)
    known = {"raw_bos": added_bos(tokenizer), "eos": tokenizer.eos_token}
    (run.path / "index" / "summary.json").write_text(json.dumps(known))
    notes = " ".join(export_run(run, tmp_path / "out.jsonl", "llamafactory", "pool"))
    assert ("no <bos> and <eos>:" in notes) == bos and "<eos>: the rows bring them" in notes
    table = rows_by_id(run.path / "index", ["id0", "id1", "id3"])
    wanted = training_examples(tokenizer, table, max_tokens=1000, chat=False)
    for row, example in zip(
        load(tmp_path / "out.jsonl", tmp_path), wanted.to_pylist(), strict=True
    ):
        prompt, response = (
            tokenizer.encode(row[key], add_special_tokens=False)
            for key in ("instruction", "output")
        )
        assert [*prompt, *response] == example["input_ids"]
        assert response == [label for label in example["labels"] if label != IGNORED]
    export_run(run, tmp_path / "trl.jsonl", "trl", "pool")
    assert "<eos>" not in (tmp_path / "trl.jsonl").read_text()
    (run.path / "index" / "summary.json").write_text(json.dumps({**known, "eos": None}))
    with pytest.raises(RequestError, match="names no EOS of the model to be trained"):
        export_run(run, tmp_path / "none.jsonl", "llamafactory", "pool")


@pytest.mark.parametrize(
    ("method", "stamped"), [("random-matched-2", True), ("probe", True), ("random", False)]
)
def test_the_stamp_is_of_selections_made_from_features(
    tmp_path: Path, method: str, stamped: bool
) -> None:
    run = raw_run(tmp_path)
    (run.path / "select" / "summary.json").write_text(json.dumps({"method": method}))
    (run.path / "intervene").mkdir()
    outcome = run.path / "intervene" / "task_features.json"
    outcome.write_text('{"outcome": "unconfirmed", "reason": "no test exists yet"}')
    assert (stamp(run) is not None) == stamped


@pytest.mark.parametrize("form", ["jsonl", "parquet", "trl", "llamafactory", "axolotl"])
def test_the_stamp_reaches_every_format(tmp_path: Path, form: Any) -> None:
    run, notice = raw_run(tmp_path), tmp_path / "out.UNCONFIRMED.txt"
    path = tmp_path / ("out.parquet" if form == "parquet" else "out.jsonl")
    outcome = run.path / "intervene" / "task_features.json"
    outcome.parent.mkdir()
    outcome.write_text('{"outcome": "unconfirmed", "reason": "no test exists yet"}')
    lines = export_run(run, path, form, "pool")
    assert lines[-1] == "UNCONFIRMED: no test exists yet"
    assert notice.read_text() == lines[-1] + "\n"
    facts = pq.read_schema(tmp_path / "out.scores.parquet").metadata[b"igds"]
    assert json.loads(facts) == {"format": form, "order": "pool", "stamp": lines[-1]}
    # The same file written anew from confirmed features has no stamp.
    outcome.write_text('{"outcome": "confirmed", "reason": "passed"}')
    assert "UNCONFIRMED" not in "".join(export_run(run, path, form, "pool"))
    assert not notice.exists()


def test_the_stamp_says_that_s3_was_read_before(tmp_path: Path) -> None:
    run, path = raw_run(tmp_path), tmp_path / "out.jsonl"
    notices = [tmp_path / f"out.{name}.txt" for name in ("UNCONFIRMED", "S3-READ-AGAIN")]
    first = {"time": "t", "run": "old", "features": ["L1/0"], "coefficient": 1.0, "top_k": 1}
    found = {"outcome": "unconfirmed", "reason": "no", "s3_readings": 2, "s3_first_plan": first}
    outcome = run.path / "intervene" / "task_features.json"
    outcome.parent.mkdir()
    for word, notice in zip(("unconfirmed", "confirmed"), notices, strict=True):
        outcome.write_text(json.dumps({**found, "outcome": word}))
        said = export_run(run, path, "jsonl", "pool")[-1]
        assert "S3 was read 2 times" in said and "run old" in said
        assert notice.read_text() == said + "\n"
        assert ("UNCONFIRMED" in said) == (word == "unconfirmed")
        facts = pq.read_schema(tmp_path / "out.scores.parquet").metadata[b"igds"]
        assert json.loads(facts)["stamp"] == said
        assert [one.exists() for one in notices] == [one == notice for one in notices]
    outcome.write_text('{"outcome": "confirmed", "reason": "passed"}')
    export_run(run, path, "jsonl", "pool")
    assert not any(one.exists() for one in notices)


def test_rows_that_no_trainer_takes(tmp_path: Path) -> None:
    rows = [{**row} for row in RAW]
    rows[1]["response"] = None  # type: ignore[assignment]
    with pytest.raises(RequestError, match="row id1 has no response to train on"):
        export_run(run_of(tmp_path / "a", rows), tmp_path / "out.jsonl", "trl", "pool")
    rows[1] |= {"fields": canonical({"messages": CHATS[0]}).decode()}
    with pytest.raises(RequestError, match="row id1: some rows are chats and some are not"):
        export_run(run_of(tmp_path / "b", rows), tmp_path / "out.jsonl", "trl", "pool")
    strange = [{"role": "user", "content": float("nan")}]
    rows[0]["fields"] = canonical({"messages": strange}).decode()
    with pytest.raises(RequestError, match="row id0 holds a number that JSON cannot"):
        export_run(run_of(tmp_path / "c", rows), tmp_path / "out.jsonl", "trl", "pool")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_field_named_messages_makes_no_chat(tmp_path: Path) -> None:
    for number, value in enumerate((["text"], [{"role": "user"}], [[]], [])):
        rows = [{**row, "fields": canonical({"messages": value}).decode()} for row in RAW]
        export_run(run_of(tmp_path / str(number), rows), tmp_path / "out.jsonl", "trl", "pool")
        assert set(load(tmp_path / "out.jsonl", tmp_path)[0]) == {"prompt", "completion"}


@pytest.mark.parametrize(
    ("name", "form", "reason"),
    [
        ("out.json", "trl", r"does not end in \.jsonl"),
        ("out.jsonl", "parquet", r"does not end in \.parquet"),
        ("none/out.jsonl", "jsonl", "there is no folder"),
    ],
)
def test_wrong_places(tmp_path: Path, name: str, form: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        export_run(raw_run(tmp_path), tmp_path / name, form, "pool")
