from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fake_hub import NAME, Hub, serve

from igds.config.inputs import Data, Source
from igds.data.sources import read_source
from igds.errors import RequestError

CLIENT = """
import json, sys
from pathlib import Path
from igds.config.inputs import Source
from igds.data.hub import pinned
from igds.data.identity import source_identity
from igds.data.sources import read_source
for line in sys.stdin:
    what, settings = json.loads(line)
    source = Source(**settings)
    try:
        if what == "pin":
            answer = pinned(source).revision
        elif what == "identity":
            answer = source_identity(source, Path("."))
        else:
            rows = read_source(source, ("q",), Path("."))
            answer = [(row.source, row.ordinal, row.fields) for row in rows]
    except ValueError as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)
"""
CARD = b"""---
configs:
- config_name: short
  data_files: [{split: train, path: short/train.jsonl}, {split: test, path: short/test.jsonl}]
- config_name: long
  data_files: [{split: train, path: long/a.jsonl}]
---
"""

Ask = Callable[..., Any]


def lines(*values: str) -> bytes:
    return "".join(json.dumps({"q": value}) + "\n" for value in values).encode()


FILES = {
    "README.md": CARD,
    "short/train.jsonl": lines("one\u2028line", "two"),
    "short/test.jsonl": lines("three"),
    "long/a.jsonl": lines(*(f"row {place}" for place in range(1000))),
}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve(Hub()) as running:
        running.push(FILES)
        yield running


def client(hub_url: str, home: Path, **more: str) -> subprocess.Popen[str]:
    env = {**os.environ, "HF_ENDPOINT": hub_url, "HF_HOME": str(home), "NO_PROXY": "*", **more}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", CLIENT], env=env, **pipes)


def asker(process: subprocess.Popen[str]) -> Ask:
    def ask(what: str, path: str = f"hf:{NAME}", **settings: Any) -> Any:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps([what, {"path": path, **settings}]) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    return ask


@pytest.fixture(scope="module")
def ask(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    with client(hub.url, tmp_path_factory.mktemp("home")) as process:
        yield asker(process)


def test_rows_of_a_split(ask: Ask) -> None:
    name = f"hf:{NAME}/short/train"
    assert ask("read", config="short", split="train") == [
        [name, 0, {"q": "one\u2028line"}],
        [name, 1, {"q": "two"}],
    ]
    rows = ask("read", config="long", limit=700)  # its only split
    assert rows[-1] == [f"hf:{NAME}/long/train", 699, {"q": "row 699"}]
    assert len(rows) == 700


def test_reading_is_pinned_to_the_commit_of_the_identity(hub: Hub, ask: Ask) -> None:
    first = hub.main
    identity = ask("identity", config="short", split="test")
    assert identity["commit"] == first
    assert ask("pin") == first
    second = hub.push({**FILES, "short/test.jsonl": lines("four")})
    # A branch that moved has another identity, and the commit still has its own rows.
    assert ask("identity", config="short", split="test")["commit"] == second
    pinned = {"config": "short", "split": "test", "revision": first}
    assert ask("identity", **pinned) == identity
    assert [row[2] for row in ask("read", **pinned)] == [{"q": "three"}]
    assert [row[2] for row in ask("read", config="short", split="test")] == [{"q": "four"}]


def test_single_files_of_a_repository(hub: Hub, ask: Ask) -> None:
    path = f"hf://datasets/{NAME}/short/*.jsonl"
    rows = ask("read", path)
    assert [row[2]["q"] for row in rows][1:] == ["one\u2028line", "two"]
    names = [row[0] for row in rows]
    assert all(name.endswith("/short/train.jsonl") for name in names[1:])
    before = ask("identity", path)["files"]
    assert all("blob_id" in file for file in before)
    hub.push({**FILES, "short/test.jsonl": lines("five")})
    after = ask("identity", path)["files"]
    assert before[0] != after[0]
    assert before[1] == after[1]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"path": "hf:team/none"}, "the Hub has no such set of rows"),
        ({"path": "hf:not/a/name"}, "the Hub has no such set of rows"),
        ({"revision": "v9"}, "at revision 'v9': the Hub has no such branch"),
        ({"config": "short"}, "has several splits: set split; there are train, test"),
        ({"config": "short", "split": "dev"}, "has no split 'dev'"),
        ({"config": "none"}, "BuilderConfig 'none' not found"),
    ],
)
def test_refusals(ask: Ask, settings: dict[str, str], reason: str) -> None:
    assert reason in ask("read", **settings)


@pytest.mark.parametrize("more", [{"HF_HUB_OFFLINE": "1"}, {}])
def test_without_a_connection(tmp_path: Path, more: dict[str, str]) -> None:
    with serve(Hub()) as gone:
        url = gone.url
    with client(url, tmp_path, **more) as process:
        answer = asker(process)("pin")
    assert answer.startswith(f"hf:{NAME} cannot be read: ")
    assert answer.endswith("give a folder that save_to_disk of datasets wrote")


def test_without_datasets_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RequestError, match=r"pip install 'igds\[hub\]'"):
        read_source(Source(path=f"hf:{NAME}", revision="0" * 40), ("q",), tmp_path)


@pytest.mark.parametrize("name", ["config", "revision"])
def test_hub_settings_of_a_file(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} goes with a Hub set"):
        Source(path="hf://datasets/team/rows/a.jsonl", **{name: "x"})


def test_a_quota_is_for_the_pool() -> None:
    with pytest.raises(ValueError, match="test has a quota"):
        Data(prior=(Source(path="a"),), test=(Source(path="b", quota=Decimal("0.5")),))
    half = Source(path="a", quota=Decimal("0.4"))
    with pytest.raises(ValueError, match=r"quotas that add up to 0\.8"):
        Data(prior=(Source(path="a"),), pool=(half, half))
    assert Data(prior=(Source(path="a"),), pool=(half, Source(path="b")))
