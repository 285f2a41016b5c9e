import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from igds.config.identity import digest
from igds.errors import RequestError, WorkError
from igds.runs.stage import (
    Stage,
    StageMismatch,
    adopt,
    finished_files,
    outdated_by,
    stage_state,
)

IDENTITY = {"model": {"id": "tiny", "dtype": "float32"}, "layers": [1, 2], "seed": 0}
OTHER = {"model": {"id": "tiny", "dtype": "bfloat16"}, "layers": [1, 2, 3], "seed": 0}
PLAN = {"batch_tokens": 64}
NAMES = ["shard-0.parquet", "shard-1.parquet", "deep/tensors.safetensors", "summary.json"]


def rows(start):
    return pa.table({"row_id": [f"{start + i}" for i in range(5)], "value": np.arange(5.0) + start})


def work(folder, identity=IDENTITY, *, pause=0.0, **options):
    """Open the stage and do what is missing of it."""
    stage = Stage.open(folder, identity=identity, plan=PLAN, **options)
    if stage.done:
        return stage
    seed = len(identity["layers"])
    for name in NAMES:
        time.sleep(pause)
        if stage.has(name):
            continue
        if name.endswith(".parquet"):
            stage.write_table(name, rows(seed))
        elif name.endswith(".json"):
            stage.write_json(name, {"seed": seed})
        else:
            stage.write_tensors(name, {"h": np.full((3, 2), seed, dtype=np.float32)})
    return stage.commit()


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_written_read_and_skipped(tmp_path):
    folder = tmp_path / "recall"
    assert stage_state(folder) == "missing" and finished_files(folder) is None
    stage = Stage.open(folder, identity=IDENTITY, plan=PLAN)
    assert not stage.done
    assert stage_state(folder) == "partial" and finished_files(folder) == 0
    assert not folder.exists()
    stage = work(folder)
    assert stage.done
    assert stage_state(folder) == "done" and finished_files(folder) is None
    assert stage.path == folder
    assert pq.read_table(folder / "shard-0.parquet").equals(rows(2))
    assert load_file(folder / "deep/tensors.safetensors")["h"].tolist() == [[2.0, 2.0]] * 3
    before = contents(folder)
    assert work(folder, overwrite=True).done, "an equal identity is skipped, --overwrite or not"
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["recall"]


def test_a_stage_knows_what_outdates_it(tmp_path):
    work(tmp_path / "index")
    recall = IDENTITY | {"index": {"index": digest(IDENTITY)}}
    work(tmp_path / "recall", recall)
    inputs = {"index": digest(IDENTITY), "recall": digest(recall)}
    work(tmp_path / "score" / "igds", IDENTITY | {"inputs": inputs})
    assert not any(outdated_by(tmp_path, one) for one in ("recall", "score/igds", "report"))
    work(tmp_path / "index", OTHER, overwrite=True)
    assert outdated_by(tmp_path, "index") == []
    assert outdated_by(tmp_path, "recall") == outdated_by(tmp_path, "score/igds") == ["index"]
    work(tmp_path / "recall", OTHER, overwrite=True)
    assert outdated_by(tmp_path, "score/igds") == ["index", "recall"]
    work(tmp_path / "verify", IDENTITY | {"features": ["L1/2"]})
    work(tmp_path / "score" / "cosine", IDENTITY | {"features": ["L1/2"]})
    (tmp_path / "intervene").mkdir()
    (tmp_path / "intervene" / "task_features.json").write_text('{"features": ["L1/3"]}')
    assert outdated_by(tmp_path, "score/cosine") == ["intervene"]
    assert outdated_by(tmp_path, "verify") == [], "its features are those that were named"


def test_tuples_and_lists_are_one_identity(tmp_path):
    work(tmp_path / "recall", IDENTITY | {"layers": (1, 2)})
    assert work(tmp_path / "recall").done


def test_the_recorded_plan_wins_and_whole_shards_stay(tmp_path):
    folder = tmp_path / "score" / "igds"
    stage = Stage.open(folder, identity=IDENTITY, plan=PLAN)
    stage.write_table(NAMES[0], rows(2))
    kept = (stage.path / NAMES[0]).stat()
    (stage.path / (NAMES[1] + ".tmp")).write_bytes(b"half")
    again = Stage.open(folder, identity=IDENTITY, plan={"batch_tokens": 32})
    assert again.plan == PLAN
    assert again.has(NAMES[0])
    assert not again.has(NAMES[1])
    assert (again.path / NAMES[0]).stat().st_ino == kept.st_ino
    assert sorted(contents(again.path)) == [NAMES[0], "stage.json"]
    assert Stage.open(folder, identity=IDENTITY, plan={}).commit().plan == PLAN
    assert Stage.open(folder, identity=IDENTITY, plan={}).plan == PLAN


def test_overwrite_leaves_the_recorded_plan(tmp_path):
    # The way out when the recorded batches do not fit in memory.
    Stage.open(tmp_path / "score", identity=IDENTITY, plan=PLAN).write_bytes("shard", b"1")
    smaller = {"batch_tokens": 32}
    stage = Stage.open(tmp_path / "score", identity=IDENTITY, plan=smaller, overwrite=True)
    assert stage.plan == smaller
    assert not stage.has("shard")
    stage.write_bytes("shard", b"2")
    again = Stage.open(tmp_path / "score", identity=IDENTITY, plan=smaller, overwrite=True)
    assert again.has("shard"), "an overwrite that was cut short goes on"


def test_a_stage_of_another_run_is_taken_if_it_is_the_same(tmp_path, monkeypatch):
    for name, identity in (("a", OTHER), ("b", IDENTITY)):
        work(tmp_path / name / "score" / "igds", identity)
    others = [tmp_path / name / "score" / "igds" for name in ("gone", "a", "b")]
    mine = tmp_path / "mine" / "score" / "igds"
    assert adopt(mine, {**IDENTITY, "seed": 1}, PLAN, others) is None and not mine.parent.exists()
    (tmp_path / "mine" / "score" / "igds.part" / "left").mkdir(parents=True)
    assert adopt(mine, IDENTITY, PLAN, others) == others[2]
    assert contents(mine) == contents(others[2])
    assert work(mine).done and not mine.with_name("igds.part").exists()
    assert adopt(mine, IDENTITY, PLAN, others) is None  # it is there
    # What is made again leaves the one that was taken as it was.
    before = contents(others[2])
    work(mine, OTHER, overwrite=True)
    assert contents(others[2]) == before and contents(mine) != before
    begun = tmp_path / "begun"
    Stage.open(begun, identity=IDENTITY, plan=PLAN)
    assert adopt(begun, IDENTITY, PLAN, others) is None  # it is under way
    assert adopt(tmp_path / "new", IDENTITY, {"batch_tokens": 65}, others) is None

    def refuse(*_, **__):
        raise OSError("no links")

    monkeypatch.setattr(os, "link", refuse)
    assert adopt(tmp_path / "new", IDENTITY, PLAN, others) is None
    assert stage_state(tmp_path / "new") == "missing" and not work(tmp_path / "new").path.suffix


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "part"])
def test_another_identity_is_refused_with_both_values(tmp_path, committed):
    folder = tmp_path / "recall"
    if committed:
        work(folder)
    else:
        Stage.open(folder, identity=IDENTITY, plan=PLAN)
    before = contents(tmp_path)
    with pytest.raises(StageMismatch) as refusal:
        Stage.open(folder, identity=OTHER, plan=PLAN)
    lines = str(refusal.value).splitlines()
    assert lines[0] == f"{folder} was made by other settings or inputs:"
    assert lines[1] == '  model.dtype: "float32" on disk, "bfloat16" asked for'
    assert lines[2] == "  layers.2: absent on disk, 3 asked for"
    assert "--overwrite" in lines[3]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("over", [True, False], ids=["overwrite", "replace"])
def test_replaced_only_when_the_new_one_is_whole(tmp_path, over):
    folder = tmp_path / "recall"
    work(folder)
    before = contents(folder)
    stage = Stage.open(folder, identity=OTHER, plan=PLAN, overwrite=over, replace=not over)
    assert contents(folder) == before
    assert not stage.done
    assert work(folder, OTHER, overwrite=over, replace=not over).done
    assert pq.read_table(folder / "shard-0.parquet").equals(rows(3))
    assert [path.name for path in tmp_path.iterdir()] == ["recall"]


def test_replaced_selections_are_kept_once_each(tmp_path):
    folder, cells = tmp_path / "select", tmp_path / "cells"
    first = contents(work(folder, replace=True, archive=cells).path)
    second = contents(work(folder, OTHER, replace=True, archive=cells).path)
    for identity in (IDENTITY, OTHER, IDENTITY):
        before = contents(folder)
        stage = Stage.open(folder, identity=identity, plan=PLAN, replace=True, archive=cells)
        place = stage.archived
        work(folder, identity, replace=True, archive=cells)
        assert contents(place) == before
        assert Stage.open(folder, identity=identity, plan=PLAN, archive=cells).archived is None
    kept = sorted(cells.glob("*/select"))
    assert len(kept) == 2
    assert all(contents(each) in (first, second) for each in kept)
    assert contents(folder) == first


def test_a_foreign_folder_is_not_touched(tmp_path):
    (tmp_path / "recall").mkdir()
    (tmp_path / "recall" / "thesis.txt").write_text("mine")
    with pytest.raises(RequestError, match="not made by igds"):
        work(tmp_path / "recall", overwrite=True)
    assert (tmp_path / "recall" / "thesis.txt").read_text() == "mine"


def test_a_failed_write_leaves_nothing(tmp_path):
    stage = Stage.open(tmp_path / "recall", identity=IDENTITY, plan=PLAN)
    with pytest.raises(ZeroDivisionError), stage.create("table") as file:
        file.write(b"half")
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="Out of range"):
        stage.write_json("quality.json", {"l0": float("nan")})
    assert sorted(contents(stage.path)) == ["stage.json"]


def killed(step, action):
    """Run the action in a fork that kills itself before its file operation number `step`.

    Returns whether the kill came before the end.
    """
    pid = os.fork()
    if pid == 0:
        left = iter(range(step, -1, -1))

        def hook(event, _):
            if event in CHANGES and next(left) == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            action()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}


@pytest.mark.parametrize("archived", [False, True], ids=["deleted", "archived"])
def test_killed_before_any_file_operation_of_a_replacement(tmp_path, archived):
    def run(base, identity):
        options = {"archive": base / "cells"} if archived else {}
        return work(base / "select", identity, overwrite=True, **options)

    (tmp_path / "plain").mkdir()
    first = contents(run(tmp_path / "plain", IDENTITY).path)
    second = contents(run(tmp_path / "plain", OTHER).path)
    uninterrupted = contents(tmp_path / "plain")
    step = 0
    while True:
        base = tmp_path / str(step)
        run(base, IDENTITY)
        if not killed(step, lambda base=base: run(base, OTHER)):
            break
        whole = [contents(path) for path in base.rglob("select*") if path.suffix != ".part"]
        assert first in whole or second in whole, "a committed stage is never lost"
        run(base, OTHER)
        assert contents(base) == uninterrupted
        step += 1
    assert step > 20
    assert contents(base) == uninterrupted


def test_killed_before_any_file_operation_of_a_new_beginning(tmp_path):
    work(tmp_path / "plain", OTHER)
    step = 0
    while True:
        base = tmp_path / str(step)
        begun = Stage.open(base / "recall", identity=IDENTITY, plan=PLAN)
        begun.write_bytes("of-the-old-identity", b"x")
        if not killed(step, lambda base=base: work(base / "recall", OTHER, overwrite=True)):
            break
        work(base / "recall", OTHER, overwrite=True)
        assert contents(base / "recall") == contents(tmp_path / "plain")
        step += 1
    assert step > 15


def test_killed_before_any_file_operation_of_a_commit_with_scratch(tmp_path):
    scratch = ["state.json", "parts"]

    def run(base):
        stage = Stage.open(base / "recall", identity=IDENTITY, plan=PLAN, scratch=scratch)
        if stage.done:
            return
        for name in ("parts/a", "parts/b", "state.json", "table"):
            if not stage.has(name):
                stage.write_bytes(name, name.encode())
        stage.commit()

    run(tmp_path / "plain")
    uninterrupted = contents(tmp_path / "plain")
    assert sorted(uninterrupted) == ["recall/stage.json", "recall/table"]
    step = 0
    while True:
        base = tmp_path / str(step)
        if not killed(step, lambda base=base: run(base)):
            break
        part = base / "recall.part"
        if (part / "table").exists():
            names = {path.relative_to(part).as_posix() for path in part.rglob("*")}
            assert names >= {"parts/a", "parts/b", "state.json"}, "nothing is computed again"
        run(base)
        assert contents(base) == uninterrupted
        step += 1
    assert step > 15
    # A leftover goes even where another identity takes the stage's place.
    (base / "recall" / "parts").mkdir()
    work(base / "recall", OTHER, overwrite=True, archive=base / "cells", scratch=scratch)
    (kept,) = (base / "cells").glob("*/recall")
    assert sorted(contents(kept)) == ["stage.json", "table"] and not (kept / "parts").exists()


KILLED = """
import sys; sys.path[:] = {path!r}
from pathlib import Path
from test_runs_stage import OTHER, work
print(flush=True)
work(Path(sys.argv[1]), OTHER, overwrite=True, pause=0.05)
"""


def test_sigkill_at_random_moments_gives_the_same_bytes(tmp_path):
    work(tmp_path / "plain", OTHER)
    work(tmp_path / "killed")
    script = KILLED.format(path=[*sys.path, str(Path(__file__).parent)])
    for moment in random.Random(0).choices(range(250), k=8):
        command = [sys.executable, "-c", script, str(tmp_path / "killed")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moment / 1000)
            process.kill()
    work(tmp_path / "killed", OTHER, overwrite=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "plain")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "plain"]


def test_a_part_deleted_by_hand_in_a_half_swap_gives_the_old_stage_back(tmp_path):
    work(tmp_path / "recall")
    (tmp_path / "recall").rename(tmp_path / "recall.old")
    assert work(tmp_path / "recall").done
    assert [path.name for path in tmp_path.iterdir()] == ["recall"]


FULL_DISK = """
import resource, sys; sys.path[:] = {path!r}
from pathlib import Path
import numpy as np, pyarrow as pa
from igds.errors import WorkError
from igds.runs.stage import Stage
stage = Stage.open(Path(sys.argv[1]), identity={{}}, plan={{}})
stage.write_bytes("first", b"whole")
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
noise = np.random.default_rng(0).random(100_000)
try:
    if sys.argv[2] == "table":
        stage.write_table("second", pa.table({{"noise": noise}}))
    else:
        stage.write_tensors("second", {{"noise": noise}})
except WorkError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("kind", ["table", "tensors"])
def test_a_full_disk_names_the_file_and_the_way_on(tmp_path, kind):
    # A limit on file size stops the write in the middle, as a full disk does.
    script = FULL_DISK.format(path=sys.path)
    command = [sys.executable, "-c", script, str(tmp_path / "recall"), kind]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert f"cannot write {tmp_path}/recall.part/second: File too large" in done.stderr
    assert "run the same command again" in done.stderr
    assert sorted(contents(tmp_path / "recall.part")) == ["first", "stage.json"]


def test_no_room_is_a_work_error_and_other_errors_stay(tmp_path):
    stage = Stage.open(tmp_path / "recall", identity=IDENTITY, plan=PLAN)
    with pytest.raises(WorkError, match="No space left on device"), stage.create("table"):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError), stage.create("table"):
        (tmp_path / "absent").read_bytes()
