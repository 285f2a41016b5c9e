import json
import os
import signal
import subprocess
import sys
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from igds.errors import InUse, RequestError
from igds.runs.folder import RunFolder
from igds.runs.lock import RunLock
from igds.runs.memory import high_water_kib, peak_rss_mb


def test_manifest_updates_replace_top_level_values(tmp_path):
    run = RunFolder(tmp_path / "math")
    assert run.manifest() == {}
    run.update_manifest({"versions": {"igds": "1"}, "stages": {"recall": {"seconds": 2.0}}})
    run.update_manifest({"stages": {"score": {"seconds": 3.0}, "recall": {"workers": 1}}})
    # What an update names is as it says, so nothing of an earlier run lingers in it.
    assert run.manifest() == {
        "versions": {"igds": "1"},
        "stages": {"score": {"seconds": 3.0}, "recall": {"workers": 1}},
    }
    with pytest.raises(TypeError):
        run.update_manifest({"bad": object()})
    assert run.manifest()["versions"] == {"igds": "1"}
    assert [path.name for path in run.path.iterdir()] == ["manifest.json"]


def test_events_are_appended(tmp_path):
    run = RunFolder(tmp_path / "math")
    run.event("started", stage="recall")
    run.event("shard", stage="score", index=3, text="zwei\nZeilen\u2028")
    lines = (run.path / "events.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    first, second = map(json.loads, lines)
    assert datetime.fromisoformat(first.pop("time")) <= datetime.fromisoformat(second.pop("time"))
    assert first == {"event": "started", "stage": "recall"}
    assert second == {
        "event": "shard", "stage": "score", "index": 3, "text": "zwei\nZeilen\u2028"
    }  # fmt: skip


def test_events_are_read_back_in_order(tmp_path):
    run = RunFolder(tmp_path / "math")
    assert run.events() == []
    run.event("started", text="zwei\nZeilen\u2028\x0b")
    run.event("ended")
    assert [event["event"] for event in run.events()] == ["started", "ended"]
    assert run.events()[0]["text"] == "zwei\nZeilen\u2028\x0b"


def test_an_event_that_is_being_written_is_left_out(tmp_path):
    run = RunFolder(tmp_path / "math")
    run.event("started")
    run.event("ended", stage="recall")
    whole = (run.path / "events.jsonl").read_bytes()
    for cut in (2, 9, len(whole) // 2 - 2):
        (run.path / "events.jsonl").write_bytes(whole[:-cut])
        assert [event["event"] for event in run.events()] == ["started"]
        run.event("again")  # by whoever goes on
        assert [event["event"] for event in run.events()] == ["started", "again"]


def test_tables_of_a_file_and_of_a_folder(tmp_path):
    # A folder named like a Hive partition must not become a column.
    folder = tmp_path / "score" / "method=igds"
    folder.mkdir(parents=True)
    for number in (1, 0, 2):
        pq.write_table(pa.table({"row": [number]}), folder / f"shard-{number:05}.parquet")
    run = RunFolder(tmp_path)
    assert run.table("score/method=igds").to_pydict() == {"row": [0, 1, 2]}
    assert run.table("score/method=igds/shard-00001.parquet").to_pydict() == {"row": [1]}


HOLDER = """
import subprocess, sys, time; sys.path[:] = {path!r}
from pathlib import Path
from igds.runs.lock import RunLock
with RunLock(Path(sys.argv[1])):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_dies(tmp_path):
    command = [sys.executable, "-c", HOLDER.format(path=sys.path), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(RequestError) as refusal, RunLock(tmp_path / "run"):
                pass
            assert f"in use by pid {holder.pid} on {os.uname().nodename}" in str(refusal.value)
            holder.kill()
            holder.wait()
            os.kill(child, 0)  # its own child lives on and does not hold the lock
            with RunLock(tmp_path / "run"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_lock_that_is_waited_for_says_who_has_it_and_is_had_then(tmp_path):
    command = [sys.executable, "-c", HOLDER.format(path=sys.path), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        said = []

        def then_it_dies(who):
            said.append(who)
            holder.kill()

        try:
            with RunLock(tmp_path / "run", waits=then_it_dies):
                assert said == [f"pid {holder.pid} on {os.uname().nodename}"]
                with pytest.raises(InUse) as refusal, RunLock(tmp_path / "run"):
                    pass
                assert refusal.value.holder == f"pid {os.getpid()} on {os.uname().nodename}"
        finally:
            holder.kill()
            os.kill(child, signal.SIGKILL)
    free = []
    with RunLock(tmp_path / "run", waits=free.append):
        assert free == []


def test_the_lock_is_given_back(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), RunLock(tmp_path):
            with pytest.raises(RequestError, match=f"pid {os.getpid()}"), RunLock(tmp_path):
                pass
            raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_peak_memory_is_this_process_alone():
    ballast = bytearray(300_000_000)
    assert peak_rss_mb() > 300
    script = f"import sys; sys.path[:] = {sys.path!r}; import igds.runs.memory as m; " + (
        "print(m.peak_rss_mb())"
    )
    child = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert float(child.stdout) < 100
    del ballast


def test_peak_memory_where_the_system_does_not_name_it(monkeypatch):
    assert high_water_kib("Name:\tpython\nVmHWM:\t    1234 kB\nVmRSS:\t 9 kB\n") == 1234
    assert high_water_kib("Name:\tpython\nState:\tR (running)\nVmRSS:\t 9 kB\n") is None
    monkeypatch.setattr("igds.runs.memory.high_water_kib", lambda _status: None)
    ballast = bytearray(300_000_000)
    assert 300 < peak_rss_mb() < 30_000  # MB, not another unit
    del ballast
