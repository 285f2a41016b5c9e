import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import pytest

from igds.config.schema import Runtime
from igds.errors import RequestError, WorkError
from igds.executors.base import WorkerSpec
from igds.executors.local import LocalExecutor
from igds.executors.make import make_executor, worker_threads

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


def spec(folder, work="Double", **arguments):
    given = {"folder": str(folder)} | arguments if work == "Double" else arguments
    return WorkerSpec(work=f"planted_work:{work}", arguments=given, threads=1)


def run(spec, shards, workers=1):
    """Return the tables by shard and the executor."""
    tables = {}
    with LocalExecutor(workers=workers) as executor:
        executor.run(spec, shards, lambda index, table: tables.update({index: table}))
    return tables, executor


def doubles(tables):
    return {index: table["double"].to_pylist() for index, table in tables.items()}


def attempts(folder, number):
    """Return the worker pids that were given the shard with this number."""
    lines = (folder / "log").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.split()[0] == str(number)]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_worker_serves_later_runs_and_takes_other_work(tmp_path):
    shards, pids = [{"number": 3}], []
    (tmp_path / "other").mkdir()
    with LocalExecutor(workers=1) as executor:
        for folder in (tmp_path, tmp_path, tmp_path / "other"):
            executor.run(spec(folder), shards, lambda _place, _table: None)
            pids.append(attempts(folder, 3)[-1])
        executor.close()
        executor.run(spec(tmp_path), shards, lambda _place, _table: None)
        pids.append(attempts(tmp_path, 3)[-1])
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_every_shard_once(tmp_path, workers):
    shards = [{"number": number} for number in range(4)]
    tables, executor = run(spec(tmp_path), shards, workers)
    assert doubles(tables) == {number: [2 * number] for number in range(4)}
    assert all(len(attempts(tmp_path, number)) == 1 for number in range(4))
    pids = {table["pid"][0].as_py() for table in tables.values()}
    assert len(pids) <= workers
    assert not any(map(alive, pids))
    assert set(executor.peak_rss_mb) == set(range(min(workers, 4)))


def test_no_shards_no_worker(tmp_path):
    assert run(spec(tmp_path), [])[0] == {}


def test_shards_go_to_whoever_is_free(tmp_path):
    shards = [{"number": 0, "deed": "outlast_five"}, *({"number": n} for n in range(1, 6))]
    tables, _ = run(spec(tmp_path), shards, workers=2)
    slow = tables[0]["pid"]
    assert all(tables[index]["pid"] != slow for index in range(1, 6))


def test_results_arrive_in_the_calling_thread_while_others_work(tmp_path):
    threads = []
    LocalExecutor(workers=2).run(
        spec(tmp_path),
        [{"number": n} for n in range(3)],
        lambda *_: threads.append(threading.current_thread()),
    )
    assert threads == [threading.current_thread()] * 3


def test_a_dead_worker_costs_nothing_but_time(tmp_path):
    shards = [{"number": n, "deed": "once" if n in (0, 3) else "nothing"} for n in range(5)]
    tables, _ = run(spec(tmp_path), shards, workers=2)
    assert doubles(tables) == {number: [2 * number] for number in range(5)}
    first, second = attempts(tmp_path, 3)
    assert first != second


def test_a_shard_that_fails_twice_is_named_with_the_last_words(tmp_path):
    shards = [{"number": 0}, {"number": 71, "deed": "bug"}, {"number": 2}]
    with pytest.raises(WorkError) as failure:
        run(spec(tmp_path), shards)
    text = str(failure.value)
    assert text.startswith(
        'shard 1 {"number": 71, "deed": "bug"} failed twice; its worker ended with 1'
    )
    assert text.endswith("KeyError: 'no entry 71'")
    assert len(set(attempts(tmp_path, 71))) == 2
    assert "Fatal Python error" not in text


def test_a_runtime_error_is_no_memory_error(tmp_path):
    with pytest.raises(WorkError, match="failed twice(.|\n)*some other failure"):
        run(spec(tmp_path), [{"number": 1, "deed": "runtime_error"}])


def test_a_killed_worker_is_named_with_its_signal(tmp_path):
    with pytest.raises(WorkError, match=r"SIGKILL.*memory.*runtime.batch_tokens to a smaller"):
        run(spec(tmp_path), [{"number": 1, "deed": "killed"}])


def test_an_unknown_work_is_named(tmp_path):
    with pytest.raises(WorkError, match="has no attribute 'Absent'"):
        run(spec(tmp_path, work="Absent"), [{"number": 1}])


@pytest.mark.parametrize("deed", ["memory", "device_memory", "library_memory", "driver_memory"])
def test_out_of_memory_names_a_batch_size_at_once(tmp_path, deed):
    with pytest.raises(WorkError) as failure:
        run(spec(tmp_path, batch_tokens=4096), [{"number": 1, "deed": deed}])
    assert "memory ran out in shard 0" in str(failure.value)
    assert "runtime.batch_tokens to 2048 (it is 4096)" in str(failure.value)
    assert "--overwrite" in str(failure.value)
    assert len(attempts(tmp_path, 1)) == 1


def test_a_wrong_request_is_passed_on_at_once(tmp_path):
    with pytest.raises(RequestError) as refusal:
        run(spec(tmp_path), [{"number": 1, "deed": "refuse"}], workers=2)
    assert str(refusal.value) == "row 1 is not a row"
    assert len(attempts(tmp_path, 1)) == 1
    shown = "".join(traceback.format_exception(refusal.value))  # as with --traceback
    assert "_InWorker: Traceback (most recent call last)" in shown and "in refuse\n" in shown
    with pytest.raises(RequestError, match="^no such model$"):
        run(spec(tmp_path, refuse="no such model"), [{"number": 1}])


def test_an_error_in_the_driver_leaves_no_worker(tmp_path):
    shards = [{"number": 0}, {"number": 1, "deed": "sleep"}, {"number": 2, "deed": "sleep"}]

    def full_disk(*_):
        while not all(attempts(tmp_path, number) for number in (1, 2)):
            time.sleep(0.01)
        raise WorkError("no room")

    started = time.monotonic()
    with pytest.raises(WorkError, match="no room"):
        LocalExecutor(workers=2).run(spec(tmp_path), shards, full_disk)
    assert time.monotonic() - started < 50
    assert not any(alive(pid) for n in range(3) for pid in attempts(tmp_path, n))


def test_stray_output_reaches_nobody(tmp_path):
    shards = [{"number": 4, "deed": "chatter"}, {"number": 5, "deed": "chatter"}]
    assert doubles(run(spec(tmp_path), shards)[0]) == {0: [8], 1: [10]}


def test_a_worker_ignores_ctrl_c(tmp_path):
    tables, _ = run(spec(tmp_path), [{"number": 1, "deed": "interrupt"}])
    assert doubles(tables) == {0: [2]}
    assert len(attempts(tmp_path, 1)) == 1


def test_environment_of_a_worker():
    names = ["OMP_NUM_THREADS", "OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM", "IGDS_WORKER"]
    given = WorkerSpec(work="planted_work:Environment", arguments={}, threads=3)
    tables, _ = run(given, [{"names": names}])
    assert tables[0].to_pylist() == [dict(zip(names, ["3", "PASSIVE", "false", "0"], strict=True))]


def test_a_large_table_arrives_whole_and_torch_stays_out(tmp_path):
    tables, _ = run(spec(tmp_path, work="Large"), [{"rows": 3_000_000}, {"rows": 1}])
    assert tables[0]["n"].to_pylist() == [None, *range(1, 3_000_000)]
    assert tables[1]["n"].null_count == 1
    assert tables[0].schema.metadata == {b"torch": b"False"}


def test_a_shard_larger_than_a_pipe(tmp_path):
    tables, _ = run(spec(tmp_path), [{"number": 1, "ids": list(range(200_000))}])
    assert doubles(tables) == {0: [2]}


def test_peak_memory_is_the_worker_s(tmp_path):
    shards = [{"number": 1}, {"number": 2, "deed": "ballast"}]
    _, executor = run(spec(tmp_path), shards)
    _, light = run(spec(tmp_path), shards[:1])
    assert 180 < executor.peak_rss_mb[0] - light.peak_rss_mb[0] < 250


DRIVER = """
import sys; sys.path[:] = {path!r}
from igds.executors.base import WorkerSpec
from igds.executors.local import LocalExecutor
spec = WorkerSpec(work="planted_work:Double", arguments={{"folder": sys.argv[1]}}, threads=1)
shards = [{{"number": n, "deed": sys.argv[2]}} for n in range(2)]
LocalExecutor(workers=2).run(spec, shards, print)
"""


@pytest.mark.parametrize("deed", ["sleep", "busy"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_worker_survives_its_driver(tmp_path, deed, end):
    command = [sys.executable, "-c", DRIVER.format(path=sys.path), str(tmp_path), deed]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        log = tmp_path / "log"
        while not log.exists() or len(log.read_text().splitlines()) < 2:
            time.sleep(0.02)
        pids = [pid for number in range(2) for pid in attempts(tmp_path, number)]
        assert all(map(alive, pids))
        driver.send_signal(end)
        errors = driver.communicate()[1]
    assert (end == signal.SIGINT) == errors.rstrip().endswith("KeyboardInterrupt")
    assert driver.returncode == -end
    deadline = time.monotonic() + 30
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, "a worker outlived its driver"
        time.sleep(0.02)


def test_ctrl_c_of_the_whole_group_keeps_what_was_written(tmp_path):
    # As a terminal sends it: to the driver and its workers at once.
    command = [sys.executable, "-c", DRIVER.format(path=sys.path), str(tmp_path), "sleep"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0) as driver:
        log = tmp_path / "log"
        while not log.exists() or len(log.read_text().splitlines()) < 2:
            time.sleep(0.02)
        os.killpg(driver.pid, signal.SIGINT)
        errors = driver.communicate()[1]
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert driver.returncode == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_worker_starts_leaves_none(tmp_path, monkeypatch, number):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self.pid)
            signal.raise_signal(number)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    before = signal.signal(number, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(spec(tmp_path), [{"number": 3}])
        assert signal.getsignal(number) is interrupt
    finally:
        signal.signal(number, before)
    assert [alive(pid) for pid in started] == [False]


def test_ray_is_refused_with_the_reason():
    with pytest.raises(RequestError, match="not supported yet.*executor: local"):
        make_executor(Runtime(executor="ray"))


def test_workers_and_threads_of_the_runtime_section():
    assert make_executor(Runtime(workers=3)).workers == 3
    cores = len(os.sched_getaffinity(0))
    assert worker_threads(Runtime()) == cores
    assert worker_threads(Runtime(workers=10 * cores)) == 1
    assert worker_threads(Runtime(threads=5)) == 5
