from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from igds.cli.explain import row_facts, whole_id
from igds.cli.init import example
from igds.cli.main import main
from igds.config.load import load_config
from igds.data.index_files import INDEX_SCHEMA, IndexWriter
from igds.errors import RequestError
from igds.runs.folder import RunFolder
from igds.runs.lock import RunLock
from igds.runs.stage import Stage

ORIGINALS = [b'{"q": "one  two"}', b'{"q":"a [bold] b"}', '{"q": "drei ü"}'.encode(), b"torn"]


def row(place: int) -> dict[str, Any]:
    ok = place < 3
    return {name: None for name in INDEX_SCHEMA.names} | {
        "row_id": f"id{place}",
        "content_hash": f"hash{place}",
        "source": "pool.jsonl",
        "ordinal": place,
        "status": "ok" if ok else "torn_line",
        "prompt": f"Question {place} [red]?\nSolution:" if ok else None,
        "n_prompt_tokens": 5 if ok else None,
        "original": ORIGINALS[place],
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run of four pool rows: two selected, one beyond the budget, one without score."""
    folder = tmp_path / "runs" / "first"
    RunFolder(folder).update_manifest({"stages": {"index": {"seconds": 1.25}}})
    index = stage(folder / "index")
    with IndexWriter(index.path, {"prompt_fields": '["q"]'}) as writer:
        writer.add([row(place) for place in range(4)])
    counts = {"ok": 3, "torn_line": 1}
    index.write_json("summary.json", {"sets": {"pool": {"rows": 4, "status": counts}}})
    index.commit()
    score = stage(folder / "score" / "igds")
    statuses = ["ok", "ok", "ok", "torn_line"]
    activations = [0.5, 2.0, 0.0, None]
    ids = [f"id{place}" for place in range(4)]
    score.write_table(
        "shard-00000.parquet",
        pa.table({"row_id": ids, "status": statuses, "L2/7": activations}),
    )
    score.commit()
    select = stage(folder / "select")
    select.write_table(
        "selection.parquet",
        pa.table(
            {
                "row_id": ids,
                "pool_score": activations,
                "rank": pa.array([2, 1, 3, None]),
                "selected": [True, True, False, False],
                "reason": ["top", "top", "budget", "status"],
            }
        ),
    )
    summary = {"method": "igds", "scored": 3, "selected": 2, "cut": 0.5, "reasons": {"top": 2}}
    select.write_json("summary.json", summary)
    select.commit()
    return folder


def stage(folder: Path) -> Stage:
    return Stage.open(folder, identity={"of": folder.name}, plan={})


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    names = (
        "run, plan, recall, intervene, score, select, report, status, explain, export, init, saes, "
        "doctor"
    )
    for name in names.split(", "):
        assert f"• {name} " in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rn", "igds.yaml"], "igds has no command 'rn'; did you mean run?"),
        (["run", "absent.yaml"], "absent.yaml cannot be read"),
        (["run", "igds.yaml", "--overwrit"], "--overwrit has no value"),
        (["run", "igds.yaml", "--recall.min-freq", "1"], "did you mean recall.min_frequency?"),
        (["run", "igds.yaml", "--budget.rows", "5"], "mean intervene.budget or select.budget?"),
        (["run", "igds.yaml", "extra"], "'extra' is not an override"),
        (["status", ".", "--verbose"], "--verbose is not an option of igds status"),
        (["status", "."], "not a run folder"),
        (["explain", ".", "id0"], "holds no rows-*.parquet"),
        (["export", ".", "--output", "x.jsonl"], "has no selection yet"),
        (["init", "math", "--output", "igds.yaml"], "is there already"),
    ],
)
def test_wrong_requests_exit_2_with_one_line(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["init", "math"])
    capsys.readouterr()
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("words", [[], ["run"], ["init", "cooking"], ["saes", "tran", "x.yaml"]])
def test_incomplete_commands_exit_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", [["status", "first"], ["--version"], ["--help"]])
def test_output_that_nobody_reads_ends_a_command_quietly(
    run: Path, words: list[str], buffered: bool
) -> None:
    reader, output = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "igds.cli.main", *words],
        cwd=run.parent,
        env={**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"},
        stdout=output,
        stderr=subprocess.PIPE,
    )
    os.close(output)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_pipe_that_breaks_elsewhere_is_work_that_failed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise BrokenPipeError("the server went away")

    monkeypatch.setattr("igds.cli.status.Status.execute", breaks)
    assert main(["status", "first"]) == 1
    assert "error: the server went away" in capfd.readouterr().err


def test_developers_can_ask_for_the_traceback() -> None:
    with pytest.raises(ValueError, match="absent.yaml"):
        main(["run", "absent.yaml", "--traceback"])


@pytest.mark.parametrize("task", ["math", "summarization", "translation", "chat"])
def test_init_writes_a_config_that_loads(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", task]) == 0
    assert Path("igds.yaml").read_text().startswith("# Relative paths, of the model and the")
    assert load_config("igds.yaml").config == example(task)


@pytest.mark.parametrize("task", ["math", "chat"])
def test_init_with_the_published_settings(task: str, tmp_path: Path) -> None:
    path = tmp_path / "igds.yaml"
    assert main(["init", task, "--paper", "--output", str(path)]) == 0
    config = load_config(path).config
    assert config.recall.min_frequency == 0.8
    assert (config.intervene.mode, config.intervene.coefficient) == ("paper", 1.0)
    assert (config.intervene.top_k, config.score.aggregate) == (1, "raw")
    assert config.select.budget.ratio == Decimal("0.5")


def test_init_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    assert main(["init", "math", "--output", str(path)]) == 2
    assert path.read_text() == "mine"


def test_status_of_a_run_in_use(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage(run / "recall").write_bytes("residuals/L2.safetensors", b"x")
    with RunLock(run):
        assert main(["status", str(run)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["index", "done", "1.25"] in lines
    assert ["recall", "partial,", "1", "files", "-"] in lines
    assert ["intervene", "missing", "-"] in lines
    assert ["score", "done:", "igds", "-"] in lines
    assert ["pool", "ok", "3"] in lines
    assert ["pool", "torn_line", "1"] in lines
    assert ["reasons.top", "2"] in lines


def test_status_of_stages_that_are_made_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("select", "score/igds"):
        again = Stage.open(run / name, identity={"of": "other"}, plan={}, overwrite=True)
        again.write_bytes("one", b"x")
    assert main(["status", str(run)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "select being made again, 1 files -" in lines
    assert "score igds being made again, 1 files -" in lines
    assert "index done 1.25" in lines


def test_status_of_a_folder_of_runs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(run).update_manifest({"outcome": "CONFIRMED"})
    for event, name in (("finished", "select"), ("failed", "report"), ("skipped", "index")):
        RunFolder(run).event(f"stage_{event}", stage=name)
    other = RunFolder(run.parent / "second")
    other.update_manifest({"outcome": None})
    for event, name in (("finished", "index"), ("started", "recall")):
        other.event(f"stage_{event}", stage=name)
    other.event("workers", work="recall")
    RunFolder(run.parent / "third").update_manifest({"outcome": None})
    RunFolder(run.parent / "tried" / "shared").update_manifest({"outcome": "NONE"})
    (run.parent / "no-run").mkdir()
    assert main(["status", str(run.parent)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[-5:-1] == [
        ["first", "report", "failed", "CONFIRMED"],
        ["second", "recall", "begun", "-"],
        ["third", "-", "-", "-"],
        ["tried/shared", "-", "-", "NONE"],
    ]


def test_explain_gives_the_row_s_facts(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = row_facts(run, "id0")
    assert facts["rank"] == "2 of 3 scored (2 kept, cut 0.5)"
    assert (facts["reason"], facts["selected"]) == ("top", True)
    assert facts["igds L2/7"] == 0.5
    assert main(["explain", str(run), "id0"]) == 0
    shown = capsys.readouterr().out
    assert "source: pool.jsonl" in shown
    assert shown.endswith("prompt:\nQuestion 0 [red]?\nSolution:\nresponse: -\n")


def test_explain_a_row_without_score(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(run), "id3"]) == 0
    shown = capsys.readouterr().out
    assert "status: torn_line" in shown
    assert "reason: status" in shown
    assert "rank: -" in shown


def test_explain_an_unknown_row(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(run), "id9"]) == 2
    assert "no row id9 in the pool" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--rank", "1"], ["id1"]])
def test_explain_by_rank_or_id(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["explain", str(run), *words]) == 0
    shown = capsys.readouterr().out
    assert "row_id: id1\n" in shown
    assert "rank: 1 of 3 scored (2 kept, cut 0.5)" in shown
    assert "UNCONFIRMED" not in shown


def test_explain_takes_the_beginning_of_an_id(run: Path) -> None:
    index = run / "index"
    with IndexWriter(index, {"prompt_fields": '["q"]'}) as writer:
        writer.add([row(0) | {"row_id": name} for name in ("ab1", "ab2", "ac", "ac-2")])
    assert whole_id(run, "ab2") == "ab2"
    assert whole_id(run, "ac") == "ac"  # a whole id, though ac-2 begins like it
    assert whole_id(run, "ac-") == "ac-2"
    with pytest.raises(RequestError, match="2 rows begin with ab: ab1, ab2"):
        whole_id(run, "ab")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["id"], "4 rows begin with id: id0, id1, id2, id3"),
        (["--rank", "4"], "ranks are 1 to 3"),
        (["--rank", "0"], "ranks are 1 to 3"),
        ([], "takes a row id or --rank"),
        (["id1", "--rank", "1"], "takes a row id or --rank"),
    ],
)
def test_explain_without_one_row(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main(["explain", str(run), *words]) == 2
    assert said in capsys.readouterr().err


def test_explain_a_run_without_pool(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (run / "index").glob("rows-*.parquet"):
        file.unlink()
    assert main(["explain", str(run), "id1"]) == 2
    assert "has no pool: its configuration names no data.pool" in capsys.readouterr().err


def test_status_and_explain_say_unconfirmed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunFolder(run).update_manifest({"outcome": "UNCONFIRMED"})
    intervene, report = stage(run / "intervene"), stage(run / "report")
    found = {"outcome": "unconfirmed", "features": ["L2/7"], "reason": "first in S2 order"}
    intervene.write_json("task_features.json", found)
    report.write_bytes("index.html", b"<html>")
    intervene.commit(), report.commit()
    assert main(["status", str(run)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "task features: L2/7 (UNCONFIRMED: first in S2 order)" in shown
    assert f"report: {run}/report/index.html" in shown
    assert main(["explain", str(run), "id0"]) == 0
    assert "UNCONFIRMED: first in S2 order" in capsys.readouterr().out


def test_export_jsonl_has_the_original_bytes(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    assert main(["export", str(run), "--format", "jsonl", "--output", str(path)]) == 0
    assert path.read_bytes() == ORIGINALS[0] + b"\n" + ORIGINALS[1] + b"\n"


def test_export_parquet(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    assert main(["export", str(run), "--format", "parquet", "--output", str(path)]) == 0
    assert pq.read_table(path)["row_id"].to_pylist() == ["id0", "id1"]
    assert np.array_equal(pq.read_table(path)["original"].to_pylist()[0].encode(), ORIGINALS[0])


@pytest.mark.parametrize("name", ["out.parquet", "absent/out.jsonl"])
def test_export_to_a_wrong_place(run: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert main(["export", str(run), "--format", "jsonl", "--output", str(path)]) == 2
    assert not path.exists()


def test_a_damaged_summary_is_not_shown_as_done(run: Path) -> None:
    (run / "select" / "summary.json").write_text("{")
    with pytest.raises(json.JSONDecodeError):
        main(["status", str(run), "--traceback"])
