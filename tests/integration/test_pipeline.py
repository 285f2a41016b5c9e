"""The whole run on a tiny model: artifacts, skipping, resuming, refusing."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from tests.helpers import tiny_tokenizer
from tests.tiny_project import computed_files, run, sums, write_rows
from transformers import AutoModelForCausalLM

import igds
from igds.errors import RequestError
from igds.features import FeatureId
from igds.models.capture import capture
from igds.pipeline import Run
from igds.progress import SilentProgress
from igds.reporting.page import write_report
from igds.runs.folder import RunFolder
from igds.runs.git import git_state
from igds.runs.stage import stage_state


def result_of(project: Path) -> Run:
    """Return the run of a finished project."""
    return Run(RunFolder(project / "runs" / "tiny"))


def test_a_run_from_rows_to_page(finished):
    project, result = finished, result_of(finished)
    selection = result.selection
    assert selection["selected"].to_pylist().count(True) == 15
    pool = [json.loads(line) for line in (project / "pool.jsonl").read_text().splitlines()]
    lines = (result.folder.path / "select" / "selected.jsonl").read_text().splitlines()
    chosen = [
        row for row, keep in zip(pool, selection["selected"].to_pylist(), strict=True) if keep
    ]
    assert [json.loads(line) for line in lines] == chosen
    assert "UNCONFIRMED" in result.report.read_text()
    scores = result.pool_scores
    assert scores["igds"].to_pylist() == selection["pool_score"].to_pylist()
    assert set(scores.column_names) > {"row_id", "cosine", "igds-random", "length"}
    assert scores["row_id"].to_pylist() == selection["row_id"].to_pylist()
    assert not list(result.folder.path.glob("*.part"))


def test_pool_scores_equal_a_plain_transformers_reference(finished):
    project, result = finished, result_of(finished)
    found = json.loads((result.folder.path / "intervene" / "task_features.json").read_text())
    feature = FeatureId.parse(found["features"][0])
    sae = igds.load_sae(project / "saes" / f"L{feature.layer}")
    model = AutoModelForCausalLM.from_pretrained(project / "model").eval()
    tokenizer = tiny_tokenizer()
    pool = [json.loads(line) for line in (project / "pool.jsonl").read_text().splitlines()]
    expected = []
    for row in pool:
        ids = tokenizer(f"{row['question']}\nSum:", return_tensors="pt").input_ids
        with torch.no_grad(), capture(model, [feature.layer]) as kept:
            model(ids)
        h = kept[feature.layer][0, -1]
        expected.append(float(torch.relu(h @ sae.W_enc[:, feature.index])))
    scores = result.selection["pool_score"].to_numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5 * max(expected))
    assert max(expected) > 0


def test_a_second_run_changes_nothing(copied):
    def stamps() -> dict[Path, int]:
        stages = [p for p in (copied / "runs" / "tiny").rglob("*/*") if p.is_file()]
        return {p: p.stat().st_mtime_ns for p in stages}

    before = stamps()
    run(copied)
    assert stamps() == before


def test_workers_and_a_fresh_start_do_not_change_a_byte(finished, project):
    again = run(project, "--runtime.workers", "2")
    assert computed_files(again.folder.path) == computed_files(finished / "runs" / "tiny")


def test_a_run_of_another_config_is_refused_with_both_values(copied):
    before = (copied / "runs" / "tiny" / "config.yaml").read_text()
    with pytest.raises(RequestError, match=r"min_frequency: 0.8 on disk, 0.7 asked for"):
        run(copied, "--recall.min-frequency", "0.7")
    assert (copied / "runs" / "tiny" / "config.yaml").read_text() == before
    again = run(copied, "--recall.min-frequency", "0.7", until="recall", overwrite=True)
    recalled = again.features.filter(again.features["recalled"])
    assert pc.min(recalled["frequency"]).as_py() >= 0.7


def test_a_misspelt_field_is_named_before_what_differs(copied):
    template = "{questoin}\nSum:"
    with pytest.raises(RequestError, match=r"lack the column 'questoin' .* mean question\?"):
        run(copied, "--prompts.template", template)
    with pytest.raises(RequestError, match="prompts.template|template: "):
        run(copied, "--prompts.template", "{question}\nTotal:")


def test_a_missing_sae_is_found_before_the_rows_are_read_again(copied):
    rows = copied / "runs" / "tiny" / "index" / "rows-00000.parquet"
    before = rows.stat().st_mtime_ns
    with pytest.raises(RequestError, match="saes.0: .*nowhere is not there"):
        run(
            copied,
            "--saes",
            "[{path: nowhere}]",
            "--prompts.template",
            "{question} =",
            overwrite=True,
        )
    assert rows.stat().st_mtime_ns == before


def test_another_budget_is_no_other_run_and_keeps_the_earlier_selection(copied):
    first = result_of(copied).selection
    second = run(copied, "--select.budget.rows", "5").selection
    assert second["selected"].to_pylist().count(True) == 5
    kept = list((copied / "runs" / "tiny" / "cells").glob("*/select/selection.parquet"))
    assert len(kept) == 1
    assert pq.read_table(kept[0]).equals(first)


def test_too_few_validation_rows_are_found_before_anything_is_read(project):
    with pytest.raises(RequestError, match="18 different usable rows, but .* asks for 112"):
        run(project, "--intervene.order-rows", "100")
    folder = project / "runs" / "tiny"
    assert stage_state(folder / "index") == "done"
    assert stage_state(folder / "recall") == "missing"
    run(project, until="recall")


def test_no_recalled_feature_says_the_highest_frequency(project):
    write = (project / "igds.yaml").read_text()
    (project / "igds.yaml").write_text(write.replace("min_frequency: 0.8", "min_frequency: 1.0"))
    for layer in (1, 2):
        _silence(project / "saes" / f"L{layer}")
    with pytest.raises(RequestError, match=r"highest frequency is 0\.000"):
        run(project)


def _silence(folder: Path) -> None:
    """Give every feature of an SAE a bias that it never gets over."""
    weights = load_file(folder / "sae_weights.safetensors")
    weights["b_enc"] -= 1e6
    save_file(weights, folder / "sae_weights.safetensors")


@pytest.mark.parametrize("stage", ["intervene", "select"])
def test_a_stage_without_its_inputs_is_refused(project, stage):
    with pytest.raises(RequestError, match="needs the stage 'index'"):
        run(project, only=stage)


def test_overlapping_sets_are_refused_and_allowed_only_by_name(project):
    rows = (project / "prior.jsonl").read_text().splitlines()
    with (project / "pool.jsonl").open("a") as pool:
        pool.write(rows[0] + "\n")
    with pytest.raises(RequestError, match="prior and pool: 1 equal rows") as refused:
        run(project)
    question = json.loads(rows[0])["question"]
    assert f"\n    prior: prior.jsonl, row 1: '{question}'\n" in str(refused.value)
    assert f"\n    pool: pool.jsonl, row 61: '{question}'\n" in str(refused.value)
    result = run(project, "--data.overlap", "allow")
    assert "OVERLAP ALLOWED" in result.report.read_text()


def test_confirmation_rows_are_read_by_nothing_before(finished):
    result = result_of(finished)
    residuals = load_arrays(result.folder.path / "recall" / "residuals" / "L1.safetensors")
    assert len(residuals["validation"]) == 12  # 18 rows, 6 of them S3
    assert len(residuals["task_other_template"]) == 12


def test_every_row_with_a_confirmation_prompt_is_sealed(project):
    rows = (project / "validation.jsonl").read_text().splitlines()
    again = [json.dumps({**json.loads(row), "answer": "another"}) for row in rows]
    (project / "validation.jsonl").write_text("\n".join([*rows, *again]) + "\n")
    result = run(project, until="recall")
    residuals = load_arrays(result.folder.path / "recall" / "residuals" / "L1.safetensors")
    # 18 prompts, each twice; both rows of the 6 prompts of S3 are left out.
    assert len(residuals["validation"]) == 24


def test_an_id_of_a_confirmation_row_seals_no_row_of_another_set(finished, project):
    text = (project / "igds.yaml").read_text()
    for name in ("prior", "validation", "control"):
        path = project / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        write_rows(path, [{**row, "id": place} for place, row in enumerate(rows)])
        text = text.replace(f"path: {name}.jsonl", f"path: {name}.jsonl, id_column: id")
    (project / "igds.yaml").write_text(text)
    run(project, until="recall")
    for folder in (project, finished):
        file = folder / "runs" / "tiny" / "recall" / "residuals" / "L1.safetensors"
        sets = {name: len(rows) for name, rows in load_arrays(file).items()}
        assert (sets["prior"], sets["validation"]) == (20, 12)
        assert (sets["control_task_template"], sets["control_other_template"]) == (20, 20)
        assert sets["task_other_template"] == 12


def test_rows_that_equal_a_confirmation_row_are_sealed_too(project):
    rows = [json.loads(line) for line in (project / "validation.jsonl").read_text().splitlines()]
    write_rows(project / "prior.jsonl", [*rows, *sums(20, 5)])
    run(project, "--data.overlap", "allow", until="recall")
    sets = load_arrays(project / "runs" / "tiny" / "recall" / "residuals" / "L1.safetensors")
    assert (len(sets["prior"]), len(sets["validation"])) == (38 - 6, 12)


def test_a_page_shows_nothing_of_stages_that_the_configuration_has_no_more(copied):
    text = (copied / "igds.yaml").read_text()
    start, end = text.index("recall:"), text.index("score:")
    text = text[:start] + text[end:]
    methods = text[text.index("score:") : text.index("select:")]
    (copied / "igds.yaml").write_text(text.replace(methods, "score: {methods: [random]}\n"))
    page = run(copied, "--select.method", "random").report
    assert page is not None
    assert "UNCONFIRMED" not in page.read_text() and "igds-random" not in page.read_text()


def test_another_seed_is_another_recall(copied):
    with pytest.raises(RequestError, match="seed: 0 on disk, 1 asked for"):
        run(copied, "--seed", "1", until="recall")


def test_one_stage_of_another_config_is_refused(copied):
    with pytest.raises(RequestError, match=r"min_frequency: 0.8 on disk, 0.5 asked for"):
        run(copied, "--recall.min-frequency", "0.5", only="select", overwrite=True)


def test_another_method_makes_another_page(copied):
    before = result_of(copied).report.stat().st_mtime_ns
    text = (copied / "igds.yaml").read_text().replace("prompt-length, random]", "random]")
    (copied / "igds.yaml").write_text(text)
    assert run(copied).report.stat().st_mtime_ns > before


def test_recall_alone_needs_neither_validation_nor_pool(project):
    text = (project / "igds.yaml").read_text()
    text = text[: text.index("intervene:")]
    for name in ("validation", "pool"):
        text = text.replace(f"  {name}: [{{path: {name}.jsonl}}]\n", "")
    (project / "igds.yaml").write_text(text)
    features = run(project).features
    assert features["specificity"].null_count == len(features)
    assert pc.any(features["recalled"]).as_py()


def test_until_recall_needs_nothing_of_later_stages(project):
    text = (project / "igds.yaml").read_text()
    for name in ("validation", "pool"):
        text = text.replace(f"  {name}: [{{path: {name}.jsonl}}]\n", "")
    (project / "igds.yaml").write_text(text)
    assert pc.any(run(project, until="recall").features["recalled"]).as_py()
    with pytest.raises(ValueError, match=r"intervene needs the section data\.validation"):
        run(project)


def test_until_index_needs_no_sae(project):
    shutil.rmtree(project / "saes")
    assert run(project, until="index").folder.manifest()["saes"] is None
    with pytest.raises(RequestError, match=r"saes\.0: .* is not there"):
        run(project, until="recall")


def test_another_split_is_another_recall_and_named_by_its_setting(copied):
    with pytest.raises(RequestError, match=r"intervene\.confirm_rows: 6 on disk, 5 asked for"):
        run(copied, "--intervene.confirm-rows", "5")


def test_a_stage_that_is_done_is_logged_as_skipped(copied):
    def events() -> list[tuple[str, str]]:
        lines = (copied / "runs" / "tiny" / "events.jsonl").read_text().splitlines()
        return [(e["event"], e["stage"]) for e in map(json.loads, lines) if "stage" in e]

    first = events()
    assert first[:2] == [("stage_started", "index"), ("stage_finished", "index")]
    run(copied, "--select.budget.rows", "5", until="select")
    assert events()[len(first) :] == [
        *(("stage_skipped", name) for name in ("index", "recall", "intervene", "score")),
        ("stage_started", "select"),
        ("stage_finished", "select"),
    ]


def test_an_sae_that_explains_less_than_nothing_is_noted(project):
    weights = project / "saes" / "L1" / "sae_weights.safetensors"
    save_file({name: 100 * value for name, value in load_file(weights).items()}, weights)
    heard = Heard()
    run(project, until="recall", progress=heard)
    (note,) = [text for text in heard.notes if "the SAE of L1 explains -" in text]
    assert "does it belong to this model" in note


class Heard(SilentProgress):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_manifest_names_data_and_commit(finished):
    manifest = result_of(finished).folder.manifest()
    (pool,) = manifest["data"]["pool"][0]["files"]
    assert pool["sha256"] == hashlib.sha256((finished / "pool.jsonl").read_bytes()).hexdigest()
    assert manifest["git"] == git_state(Path.cwd())


def test_the_manifest_says_unconfirmed(finished):
    manifest = result_of(finished).folder.manifest()
    assert manifest["outcome"] == "UNCONFIRMED"
    assert set(manifest["stages"]) == {"index", "recall", "intervene", "score", "select", "report"}


def test_the_papers_procedure_from_rows_to_page(project: Path) -> None:
    paper = ["--intervene.mode", "paper", "--intervene.max-new-tokens", "6", "--name", "paper"]
    found = run(project, *paper)
    folder = found.folder.path
    effects, samples = found.effects, found.folder.table("intervene/samples.parquet")
    recalled = found.features.filter(found.features["recalled"])["feature"].to_pylist()
    assert set(effects["feature"].to_pylist()) == set(recalled)
    assert set(effects["position"].to_pylist()) == {"read", "generated"}
    assert len(samples) == 2 * len(recalled) * 18
    for effect in effects.to_pylist():
        own = samples.filter(
            (pc.field("feature") == effect["feature"])
            & (pc.field("position") == effect["position"])
        )
        assert effect["delta"] == pytest.approx(pc.mean(own["delta"]).as_py())
        assert effect["metric"] == "task_score"
        assert effect["push"] > 0 < effect["kl"] == pytest.approx(pc.mean(own["kl"]).as_py())
    outcome = json.loads((folder / "intervene" / "task_features.json").read_text())
    at_read = effects.filter(pc.field("position") == "read").sort_by([("delta", "descending")])
    best = at_read["delta"][0].as_py()
    chosen = at_read.filter(pc.field("feature") == outcome["features"][0])
    assert chosen["delta"][0].as_py() == best
    assert outcome["outcome"] == "unconfirmed"
    page = found.report.read_text()
    assert "The published procedure" in page and "UNCONFIRMED" in page
    assert len(found.selection) == 60
    pilot = json.loads((folder / "intervene" / "pilot.json").read_text())
    assert (pilot["rows"], pilot["score"], pilot["informative"]) == (18, 0.0, False)
    assert "says that the metric does not inform" in page
    assert "task score is 0.000, outside 0.05 to 0.95" in page
    assert set(samples["tokens"].to_pylist()) <= set(range(7))
    assert effects["broken"].null_count == effects["side_effects"].null_count == 0
    assert set(found.folder.table("intervene/words.parquet").column_names) > {"word", "log_ratio"}


EDITS = {
    "clamp": ("--intervene.rule", "clamp", "--intervene.position", "all"),
    "generated": ("--intervene.position", "generated", "--intervene.screen", "integrated"),
}


@pytest.mark.parametrize("name", EDITS)
def test_another_edit_from_rows_to_page(project: Path, name: str) -> None:
    found = run(project, *EDITS[name], "--name", name, until="intervene")
    effects = found.effects
    settings = {(row["rule"], row["position"]) for row in effects.to_pylist()}
    expected = {"clamp": ("clamp", "all"), "generated": ("amplify", "generated")}
    assert settings == {expected[name]}
    plan = json.loads((found.folder.path / "intervene" / "plan.json").read_text())
    assert (plan["rule"], plan["position"]) == expected[name]
    for row in effects.to_pylist():
        assert row["push"] > 0 < row["kl"]
        assert (row["neutral_perplexity_ratio"] is None) == (row["split"] != "S3")
    write_report(found.folder.path, project / "page.html")
    assert (project / "page.html").is_file()


def test_ablation_in_the_papers_procedure(project: Path) -> None:
    paper = ["--intervene.mode", "paper", "--intervene.max-new-tokens", "4", "--name", "ablate"]
    found = run(project, *paper, "--intervene.rule", "ablate")
    assert set(found.effects["rule"].to_pylist()) == {"ablate"}
    assert found.report.is_file()
