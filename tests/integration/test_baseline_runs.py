"""Every method in one run: artifacts, shared passes, resuming, refusing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.helpers import tiny_model, tiny_tokenizer
from tests.tiny_project import run, write_rows

import igds
from igds.cli.explain import row_facts, row_of_rank
from igds.config.scoring import METHODS
from igds.data.index import load_index
from igds.errors import RequestError
from igds.features import FeatureId
from igds.methods.base import ORDER
from igds.methods.zip import ZipRanker
from igds.selection.tables import read_pool_scores
from igds.stages import score
from igds.stages.context import Context

OTHERS = ("igds-matched-4", "igds-matched-5")
"""The tiny SAEs have 24 features, so few resemble one another."""
EVERY = [name for name in METHODS if name not in OTHERS]
ZIP = ("--score.zip.k1", "40", "--score.zip.k2", "8", "--score.zip.k3", "5")


def flow(names) -> str:
    return f"[{', '.join(names)}]"


@pytest.fixture(scope="module")
def everything(finished, tmp_path_factory) -> Path:
    """Return a copy of the finished project that every method has scored."""
    folder = tmp_path_factory.mktemp("every") / "project"
    shutil.copytree(finished, folder)
    run(folder, "--score.methods", flow(EVERY), *ZIP)
    return folder


def scores_of(project: Path, method: str) -> np.ndarray:
    return read_pool_scores(project / "runs" / "tiny" / "score" / method)


def raw(project: Path, method: str, column: str) -> np.ndarray:
    files = sorted((project / "runs" / "tiny" / "score" / method).glob("shard-*.parquet"))
    return np.concatenate([pq.read_table(file)[column].to_numpy() for file in files])


def test_every_method_scores_every_row_or_says_why(everything):
    folder = everything / "runs" / "tiny" / "score"
    reasons = {"ok", "unhelpful_prompt"}
    for method in EVERY:
        statuses = raw(everything, method, "status")
        values = scores_of(everything, method)
        assert len(values) == 60
        assert set(statuses) <= reasons
        assert (np.isfinite(values) == (statuses == "ok")).all(), method
    assert not list(folder.glob("*.part"))
    page = (everything / "runs" / "tiny" / "report" / "index.html").read_text()
    if (raw(everything, "ifd", "status") == "unhelpful_prompt").any():
        assert "unhelpful_prompt" in page


def test_ratios_are_those_of_the_losses_of_the_same_pass(everything):
    loss, bare = raw(everything, "ifd", "loss"), raw(everything, "ifd", "bare_loss")
    assert (raw(everything, "loss", "loss") == loss).all()
    assert (scores_of(everything, "loss") == -loss).all()
    wanted = np.where(loss / bare > 1, np.nan, loss / bare)
    np.testing.assert_array_equal(scores_of(everything, "ifd"), wanted)
    ratio = np.exp(loss - bare)
    wanted = np.where(ratio >= 1, np.nan, ratio)
    np.testing.assert_array_equal(scores_of(everything, "superfilter"), wanted)


def test_the_bottom_is_the_top_turned_round(everything):
    assert (scores_of(everything, "igds-bottom") == -scores_of(everything, "igds")).all()


def test_nofilter_sums_every_recalled_feature_by_its_decoder_norm(everything):
    features = pq.read_table(everything / "runs" / "tiny" / "recall" / "features.parquet")
    recalled = features.filter(features["recalled"])["feature"].to_pylist()
    assert len(recalled) > 1
    saes = {layer: igds.load_sae(everything / "saes" / f"L{layer}") for layer in (1, 2)}
    chosen = [FeatureId.parse(name) for name in recalled]
    prompts = load_index(everything / "runs" / "tiny" / "index", ["prompt"])["prompt"].to_pylist()
    total = np.zeros(60)
    for feature in chosen:
        norm = float(saes[feature.layer].W_dec[feature.index].norm())
        acts = igds.feature_resonant_scores(
            tiny_model(), tiny_tokenizer(), list(saes.values()), [feature], prompts
        )
        total += norm * acts.double().numpy()
    np.testing.assert_allclose(scores_of(everything, "igds-nofilter"), total, rtol=1e-4)


def test_frequency_takes_the_most_frequent_recalled_feature(everything):
    features = pq.read_table(everything / "runs" / "tiny" / "recall" / "features.parquet")
    recalled = features.filter(features["recalled"]).to_pylist()
    method = json.loads(
        (everything / "runs" / "tiny" / "score" / "igds-frequency" / "method.json").read_text()
    )
    (name,) = method["weights"]
    best = max(recalled, key=lambda row: (row["frequency"], row["specificity"]))
    assert name == best["feature"]


def test_draws_differ_and_the_first_is_the_name_alone(everything):
    firsts = scores_of(everything, "random"), scores_of(everything, "random-2")
    assert (firsts[0] != firsts[1]).all()
    stand_ins = {
        tuple(
            json.loads((everything / "runs" / "tiny" / "score" / name / "method.json").read_text())[
                "weights"
            ]
        )
        for name in EVERY
        if name.startswith("igds-matched")
    }
    assert len(stand_ins) == sum(name.startswith("igds-matched") for name in EVERY)


def test_too_few_stand_ins_are_refused_by_number(everything, tmp_path):
    shutil.copytree(everything, tmp_path / "project")
    with pytest.raises(RequestError, match="only 3 sets of features resemble"):
        run(tmp_path / "project", "--score.methods", "[igds, igds-matched-4]")


def test_zip_orders_the_whole_pool_once(everything):
    order = raw(everything, "zip", ORDER)
    assert sorted(order.tolist()) == list(range(1, 61))
    assert (scores_of(everything, "zip") == -order).all()
    assert sorted(raw(everything, "rds", ORDER).tolist()) == list(range(1, 61))


def test_a_ranking_that_is_killed_goes_on_to_the_same_order(everything, tmp_path, monkeypatch):
    project = tmp_path / "project"
    shutil.copytree(everything, project)
    wanted = raw(project, "zip", ORDER)
    shutil.rmtree(project / "runs" / "tiny" / "score" / "zip")
    monkeypatch.setattr(score, "SAVE_SECONDS", 0.0)
    whole, begun = ZipRanker.rounds, []

    def stopped(self, state):
        for count, found in enumerate(whole(self, state)):
            if count == 3:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(ZipRanker, "rounds", stopped)
    settings = ("--score.methods", flow(EVERY), *ZIP)
    with pytest.raises(KeyboardInterrupt):
        run(project, *settings)
    state = project / "runs" / "tiny" / "score" / "zip.part" / score.STATE
    assert state.exists()

    def resumed(self, state):
        begun.append(0 if state is None else len(state[ORDER]))
        return whole(self, state)

    monkeypatch.setattr(ZipRanker, "rounds", resumed)
    run(project, *settings)
    assert begun == [15]
    assert (raw(project, "zip", ORDER) == wanted).all()
    assert not (project / "runs" / "tiny" / "score" / "zip" / score.STATE).exists()


def test_a_pass_is_on_the_bill_of_every_method_that_reads_in_it(finished, tmp_path, monkeypatch):
    project, now = tmp_path / "project", [0.0]
    shutil.copytree(finished, project)
    took = {"gather": 1000.0, "resolve_method": 1.0, "_read_pool": 10.0, "_rank": 100.0}

    def slowed(whole, seconds):
        def slow(*given):
            now[0] += seconds
            return whole(*given)

        return slow

    for name, seconds in took.items():
        monkeypatch.setattr(score, name, slowed(getattr(score, name), seconds))
    monkeypatch.setattr(score, "time", SimpleNamespace(monotonic=lambda: now[0]))
    named = ("igds-bottom", "igds-matched", "probe", "random-2", "loss", "ifd", "rds", "zip")
    folder = run(project, "--score.methods", flow(named), *ZIP, until="score").folder
    events = [event for event in folder.events() if event["event"] == "method_scored"]
    last = {event["method"]: event for event in events}
    found = {name: last[name]["seconds"] for name in named}
    assert found == {
        "igds-bottom": 1, "igds-matched": 1001, "probe": 1, "random-2": 1, "loss": 1, "ifd": 1,
        "rds": 101, "zip": 101,
    }  # fmt: skip
    prompts, responses = ["igds-bottom", "igds-matched", "probe"], ["loss", "ifd", "rds"]
    for names, seconds in ((prompts, 10), (responses, 10), (["random-2", "zip"], None)):
        for name in names:
            assert last[name].get("together") == (names if seconds else None)
            assert last[name].get("pass_seconds") == seconds


def test_a_resumed_scoring_reads_its_sample_under_the_plan_it_was_begun_with(
    finished, tmp_path, monkeypatch
):
    project, methods = tmp_path / "project", ("--score.methods", "[igds, igds-matched]")
    shutil.copytree(finished, project)

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(score, "_read_pool", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(project, *methods)
    monkeypatch.undo()
    part = project / "runs" / "tiny" / "score" / "igds-matched.part"
    begun = json.loads((part / "stage.json").read_text())["plan"]
    asked, whole = [], Context.run_shards

    def seen(self, work, arguments, shards, plan, *rest):
        asked.append((plan, arguments["batch_tokens"]))
        whole(self, work, arguments, shards, plan, *rest)

    monkeypatch.setattr(Context, "run_shards", seen)
    other = ("--runtime.batch-tokens", "77", "--runtime.shard-rows", "7")
    run(project, *methods, *other, until="score")
    assert begun["batch_tokens"] != 77 and begun["shard_rows"] != 7
    assert asked == [(begun, begun["batch_tokens"])] * 2  # the sample, then the pool


def test_workers_and_shards_do_not_change_a_score(everything, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "project")
    names = ["ifd", "rds", "igds-matched"]
    run(tmp_path / "project", "--score.methods", flow(["igds", *names]), "--runtime.workers", "2")
    for name in names:
        found, wanted = scores_of(tmp_path / "project", name), scores_of(everything, name)
        np.testing.assert_array_equal(found, wanted)


def test_another_model_scores_responses(everything, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(everything, project)
    tiny_model(seed=7).save_pretrained(project / "other")
    tiny_tokenizer().save_pretrained(project / "other")
    shutil.rmtree(project / "runs" / "tiny" / "score" / "superfilter")
    shutil.rmtree(project / "runs" / "tiny" / "score" / "loss")
    run(
        project,
        *("--score.methods", "[igds, superfilter, loss]"),
        *("--score.superfilter-model.id", "other", "--score.superfilter-model.dtype", "float32"),
    )
    loss = raw(project, "superfilter", "loss")
    assert abs(loss - raw(everything, "loss", "loss")).min() > 0
    assert (raw(project, "loss", "loss") == raw(everything, "loss", "loss")).all()


def test_a_selection_by_strata_and_random_rows_like_it(everything, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(everything, project)
    settings = ("--score.methods", flow(EVERY), *ZIP)
    run(project, *settings, "--select.stratify", "length")
    summary = json.loads((project / "runs" / "tiny" / "select" / "summary.json").read_text())
    assert summary["selected"] == 15
    assert summary["stratify"] == "length"
    selections = []
    for draw in ("random-matched", "random-matched-2"):
        found = run(project, *settings, "--select.method", draw).selection
        assert found["selected"].to_pylist().count(True) == 15
        selections.append(found["selected"].to_pylist())
        best = row_of_rank(project / "runs" / "tiny", 1)
        facts = row_facts(project / "runs" / "tiny", best)
        assert any(name.startswith("igds L") for name in facts) and facts["selected"]
    assert selections[0] != selections[1]
    with pytest.raises(RequestError, match="no row of the pool has the column 'topic'"):
        run(project, *settings, "--select.stratify", "topic")


def test_random_rows_can_be_balanced_over_a_column(finished, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(finished, project)
    lines = (project / "pool.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    kinds = ["rare" if place < 6 else "common" for place in range(len(rows))]
    write_rows(
        project / "pool.jsonl",
        [{**row, "kind": kind} for row, kind in zip(rows, kinds, strict=True)],
    )
    shutil.rmtree(project / "runs")
    result = run(
        project,
        *("--score.methods", "[igds, random-balanced]", "--score.balance", "kind"),
        *("--select.method", "random-balanced", "--select.budget.rows", "10"),
    )
    chosen = np.array(kinds)[result.selection["selected"].to_numpy()]
    assert sorted(chosen) == ["common"] * 5 + ["rare"] * 5


def test_another_marker_is_another_scoring(everything, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(everything, project)
    run(project, "--score.methods", "[igds, ifd, loss]", "--score.marker", "Sum:")  # the template's
    with pytest.raises(RequestError, match="score/ifd was made by other settings"):
        run(project, "--score.methods", "[igds, ifd]", "--score.marker", "Answer:")
    run(project, "--score.methods", "[igds, loss]", "--score.marker", "Answer:")


def test_copies_of_a_row_come_behind_all_rows_of_a_ranking(finished, tmp_path):
    project = tmp_path / "project"
    shutil.copytree(finished, project)
    lines = (project / "pool.jsonl").read_text().splitlines()
    # Each kind has 15 rows; those of the first kind stand three times, the copies first and last.
    rows = [{**json.loads(line), "kind": f"{place // 15}"} for place, line in enumerate(lines)]
    write_rows(project / "pool.jsonl", [*rows[:15], *rows, *rows[:15]])
    shutil.rmtree(project / "runs")
    options = (*("--score.methods", "[igds, zip, random-balanced]"), *ZIP)
    options += ("--score.balance", "kind", "--select.budget.rows", "20")
    for method in ("zip", "random-balanced"):
        result = run(project, *options, "--select.method", method)
        order = raw(project, method, ORDER)
        first = np.r_[0:15, 30:75]  # of equal rows the first one is kept
        assert sorted(order[first]) == list(range(1, 61))
        assert sorted(order) == list(range(1, 91))
        chosen = result.selection["selected"].to_numpy()
        assert (np.flatnonzero(chosen) == np.flatnonzero(order <= 20)).all()
    shutil.rmtree(project / "runs" / "tiny" / "score" / "zip")
    run(project, *options, "--score.zip.rows", "65")
    assert sorted(raw(project, "zip", ORDER)[first]) == list(range(1, 61))
    assert np.nanmax(raw(project, "zip", ORDER)) == 65
    kinds = [[*rows[:15], *rows, *rows[:15]][place]["kind"] for place in np.flatnonzero(chosen)]
    assert sorted(kinds) == sorted(["0", "1", "2", "3"] * 5)
