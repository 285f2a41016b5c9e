"""What a cell records of its selection, by hand: how varied its rows are, and what it cost."""

from __future__ import annotations

import shutil
from dataclasses import replace
from math import log2
from pathlib import Path

import pytest
from report_folder import write_table
from test_planning import SETS, SIZES, config

from igds.config.load import ConfigFile
from igds.config.schema import Config, Intervene, Recall, Score
from igds.executors.make import make_executor
from igds.experiments import costs
from igds.experiments.costs import selection_cost, selection_seconds
from igds.experiments.diversity import diversity
from igds.planning.sets import SetTokens
from igds.progress import SilentProgress
from igds.runs.folder import RunFolder
from igds.stages.context import SCORED, Context
from igds.stages.records import recorded

ROWS = [
    ("a", "one.jsonl", "One two three", "ONE two\nthree"),
    ("b", "one.jsonl", "two three", None),
    ("c", "two.jsonl", "four", ""),
    ("d", "three.jsonl", "four", "  "),
    ("e", "four.jsonl", "not one of those", "that are asked for"),
]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    columns = ("row_id", "source", "prompt", "response")
    rows = [dict(zip(columns, row, strict=True)) for row in ROWS]
    write_table(tmp_path / "rows-00000.parquet", rows[:2])
    write_table(tmp_path / "rows-00001.parquet", rows[2:])
    return tmp_path


def test_diversity_by_hand(index: Path) -> None:
    # Half of the rows are of one source, a quarter each of two: 1/2 x 1 + 2 x 1/4 x 2 bits.
    # Words: one two three one two three, two three, four, four: 4 different ones of 10. Pairs: one
    # two, two three, three one, one two, two three, and two three: 3 of 6, none across two rows.
    # Triples, of the first row alone: one two three stands twice, 3 of 4.
    found = diversity(index, ["a", "b", "c", "d"])
    assert found == {
        "source_entropy": 1.5,
        "distinct_1": 0.4,
        "distinct_2": 0.5,
        "distinct_3": 0.75,
    }


def test_one_source_has_no_entropy_and_single_words_make_no_runs(index: Path) -> None:
    found = diversity(index, ["c"])
    assert found == {"source_entropy": 0, "distinct_1": 1, "distinct_2": 0, "distinct_3": 0}
    assert str(found["source_entropy"]) == "0.0"
    uneven = diversity(index, ["a", "b", "c"])["source_entropy"]
    assert uneven == pytest.approx(-2 / 3 * log2(2 / 3) - 1 / 3 * log2(1 / 3))


RECALL = 650 * 6 * 100 / 1050
"""Prior, validation and control prompts have 650 tokens, the six blocks up to the last SAE's 100
weights each; a forward equivalent is 10 blocks and a head of 50."""
PAPER = 20 * 2 * 2 * 32
"""20 validation rows, with and without the edit, 2 samples of 32 tokens, each a whole forward."""
PROMPTS = 30_000 * 6 * 100 / 1050
RESPONSES = (39_000 * 1000 + 9_000 * 50) / 1050
"""The pool's prompts through six blocks, or with responses through all, the head on responses."""


@pytest.mark.parametrize(
    ("methods", "rows", "identify", "score"),
    [
        (["igds"], 1000, RECALL + PAPER, PROMPTS),
        (["cosine"], 1000, RECALL + PAPER, PROMPTS),
        (["igds-frequency"], 1000, RECALL, PROMPTS),
        (["random"], 1000, 0, 0),
        (["loss"], 1000, 0, RESPONSES),
        # responses once more, without their prompts
        (["ifd"], 1000, 0, RESPONSES + (9_000 * 1000 + 9_000 * 50) / 1050),
        # 200 tokens of prior prompts without a response
        (["rds"], 1000, 0, RESPONSES + 200 * 1000 / 1050),
        # 1,000 rows are sampled beforehand: all of the pool, or a quarter of it
        (["igds-matched"], 1000, RECALL + PAPER, 2 * PROMPTS),
        (["igds-matched-3"], 4000, RECALL + PAPER, 1.25 * PROMPTS),
        (["igds", "rds"], 1000, RECALL + PAPER, PROMPTS + RESPONSES + 200 * 1000 / 1050),
    ],
)
def test_a_selection_costs_what_its_methods_need(
    monkeypatch: pytest.MonkeyPatch, methods: list[str], rows: int, identify: float, score: float
) -> None:
    sets = {**SETS, "pool": SetTokens(rows=rows, prompt=30_000, response=9_000)}
    known = {
        "resolve_model": None, "model_sizes": SIZES, "sae_widths": {2: 64, 5: 32},
        "set_tokens": sets,
    }  # fmt: skip
    for name, value in known.items():
        monkeypatch.setattr(costs, name, lambda *_, value=value: value)
    paper = Intervene(mode="paper", max_new_tokens=32, samples=2, temperature=0.7)
    made: Config = config(recall=Recall(), intervene=paper, score=Score(methods=("igds", "zip")))
    folder = Path("unused")
    found = selection_cost(ConfigFile(config=made, base=folder), folder, methods)
    assert found == pytest.approx({"identify": identify, "score": score, "rows": rows})
    bare = replace(made, score=None)
    assert selection_cost(ConfigFile(config=bare, base=folder), folder, methods) == found


def test_seconds_are_those_that_the_run_wrote_down(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert selection_seconds(tmp_path, ["random"]) == {"identify": 0.0}
    assert selection_seconds(tmp_path, ["igds"]) == {}
    seconds = {"index": 1.0, "recall": 20.0, "intervene": 300.0, "score": 4000.0}
    run.update_manifest({"stages": {name: {"seconds": took} for name, took in seconds.items()}})
    alone, both = {"together": ["igds"]}, {"together": ["loss", "rds"], "pass_seconds": 30.0}
    run.event(SCORED, method="igds", seconds=2.0, pass_seconds=7.0, **alone)
    run.event(SCORED, method="igds", seconds=1.5, pass_seconds=4.0, **alone)  # made again
    run.event(SCORED, method="loss", seconds=0.5, **both)
    run.event(SCORED, method="rds", seconds=9.5, **both)
    run.event(SCORED, method="length", seconds=0.25)
    run.event("stage_finished", stage="score", seconds=50.0)
    assert selection_seconds(tmp_path, ["igds"]) == {"identify": 320.0, "score": 5.5}
    assert selection_seconds(tmp_path, ["loss"]) == {"identify": 0.0, "score": 30.5}
    assert selection_seconds(tmp_path, ["loss", "rds"])["score"] == 40.0  # one pass
    assert selection_seconds(tmp_path, ["igds", "rds"])["score"] == 5.5 + 39.5
    assert selection_seconds(tmp_path, ["length"])["score"] == 0.25
    assert selection_seconds(tmp_path, ["cosine-best"]) == {"identify": 20.0}


def test_what_is_taken_from_another_part_brings_its_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "plan", lambda _: {"device": "cpu"})
    notes: list[str] = []
    progress = SilentProgress()
    monkeypatch.setattr(progress, "note", notes.append)
    settings = config(recall=Recall(), score=Score())
    parts = [RunFolder(tmp_path / "runs" / "name" / part) for part in ("shared", "shared-b")]

    def make(part: int, name: str, version: int, **plan: int) -> None:
        """Have a stage of a part, under the record of its cost."""
        context = Context(
            config=settings, base=tmp_path, run=parts[part], outer=tmp_path / "runs",
            executor=make_executor(settings.runtime), progress=progress, overwrite=True,
        )  # fmt: skip
        with recorded(parts[part], name.partition("/")[0]):
            stage = context.open_stage(name, {"version": version}, plan)
            if not stage.done:
                stage.commit()

    def taken(part: int) -> dict[str, str]:
        return parts[part].manifest().get("taken", {})

    parts[0].path.mkdir(parents=True)
    for name in ("recall", "score/igds-frequency"):
        make(0, name, 1)
    cost = {"seconds": 30.0, "driver_peak_rss_mb": 1.0}
    parts[0].update_manifest({"stages": {"recall": cost}})
    parts[0].event(SCORED, method="igds-frequency", seconds=7.0)
    make(1, "recall", 1, rows=5)  # cut in another way
    assert taken(1) == {}
    shutil.rmtree(parts[1].path / "recall")
    for name in ("recall", "score/igds-frequency"):
        make(1, name, 1)
        assert taken(1)[name] == f"name/shared/{name}"
    assert parts[1].manifest()["stages"]["recall"] == cost
    for part in parts:
        found = selection_seconds(part.path, ["igds-frequency"])
        assert found == {"identify": 30.0, "score": 7.0}
    whole = RunFolder(tmp_path / "runs" / "name")
    shutil.copytree(parts[0].path / "recall", whole.path / "recall")
    shutil.rmtree(parts[0].path / "recall")
    whole.update_manifest({"stages": {"recall": {**cost, "seconds": 50.0}}})
    make(0, "recall", 1)
    assert taken(0) == {"recall": "name/recall"}
    assert selection_seconds(parts[0].path, ["cosine-best"]) == {"identify": 50.0}
    parts[0].update_manifest({"stages": {"recall": cost}})
    shutil.rmtree(parts[1].path / "recall")
    assert not any("not taken" in note for note in notes)
    make(1, "recall", 2)
    assert notes[-1] == f"recall: {whole.path / 'recall'} is not taken, as it differs in version"
    assert set(taken(1)) == {"score/igds-frequency"}
    assert parts[1].manifest()["stages"]["recall"]["seconds"] < 30
    assert parts[0].manifest()["stages"]["recall"] == cost
