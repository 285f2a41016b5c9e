"""The task features in the model that will be trained, against plain forwards and counts."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from tests.helpers import tiny_config, tiny_model, tiny_tokenizer
from tests.tiny_project import run, sums
from transformers import AutoModelForCausalLM

from igds.features import FeatureId
from igds.reading.transfer import TRANSFER
from igds.saes.load import load_sae

FAST = ("--intervene.top-k", "2")


def save_model(folder, model, *, bos):
    model.save_pretrained(folder)
    tiny_tokenizer(bos=bos).save_pretrained(folder)
    return model.eval()


@pytest.fixture
def trained(project):
    """Another model of the same shape, whose tokenizer adds no BOS."""
    return save_model(project / "trained", tiny_model(seed=1), bos=False)


def plain_activations(model, project, feature, name, skip=frozenset()):
    """Activations at the last token of a set's prompts, one forward each."""
    tokenizer, sae = tiny_tokenizer(bos=False), load_sae(project / f"saes/L{feature.layer}")
    folder = project / "runs" / "tiny" / "index" / name
    found = []
    for row in pq.read_table(folder).to_pylist():
        if row["row_id"] in skip:
            continue
        ids = torch.tensor([tokenizer(row["prompt"]).input_ids])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states
        found.append(float(sae.encode(states[feature.layer + 1][0, -1:])[0, feature.index]))
    return found


def plain_auroc(positive, negative):
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    return sum(pairs) / len(pairs)


def test_transfer_equals_plain_counts(project, trained):
    done = run(project, "--model.train-id", "trained", *FAST)
    folder = done.folder.path
    table = pq.read_table(folder / "transfer" / "features.parquet")
    assert table.schema.equals(TRANSFER)
    chosen = json.loads((folder / "intervene" / "task_features.json").read_text())["features"]
    assert table["feature"].to_pylist() == chosen
    samples = pq.read_table(folder / "intervene" / "samples.parquet").to_pylist()
    sealed = {row["row_id"] for row in samples if row["split"] == "S3"}
    assert sealed
    for row in table.to_pylist():
        feature = FeatureId.parse(row["feature"])
        prior = plain_activations(trained, project, feature, "prior")
        held = plain_activations(trained, project, feature, "validation", sealed)
        control = plain_activations(trained, project, feature, "control")
        assert row["prompts"] == len(prior) == 20
        assert row["frequency"] == pytest.approx(sum(a > 0 for a in prior) / len(prior))
        assert row["control_frequency"] == pytest.approx(sum(a > 0 for a in control) / len(control))
        assert row["specificity"] == pytest.approx(plain_auroc(held, control))
        assert row["specificity_low"] <= row["specificity"] <= row["specificity_high"]
    page = done.report.read_text()
    assert "Specificity in the model to be trained" in page
    first = table.to_pylist()[0]
    assert f"{100 * first['frequency']:.1f} %" in page
    # It is another model, so that the numbers are others.
    ours = {row["feature"]: row["frequency"] for row in done.features.to_pylist()}
    assert any(ours[r["feature"]] != r["frequency"] for r in table.to_pylist())


def test_the_same_model_gives_what_recall_found(project):
    save_model(project / "trained", AutoModelForCausalLM.from_pretrained(project / "model"), bos=True)
    done = run(project, "--model.train-id", "trained", until="intervene")
    (row,) = pq.read_table(done.folder.path / "transfer" / "features.parquet").to_pylist()
    found = {one["feature"]: one for one in done.features.to_pylist()}[row["feature"]]
    for name in ("frequency", "control_frequency", "specificity", "specificity_high"):
        assert row[name] == pytest.approx(found[name])


def test_another_train_model_redoes_transfer_alone(project, trained):
    first = run(project, "--model.train-id", "trained", until="intervene").folder.path
    times = {name: (first / name / "stage.json").stat().st_mtime_ns for name in ("intervene",)}
    before = pq.read_table(first / "transfer" / "features.parquet")
    stamp = (first / "transfer" / "stage.json").stat().st_mtime_ns
    run(project, "--model.train-id", "trained", until="intervene")
    assert (first / "transfer" / "stage.json").stat().st_mtime_ns == stamp
    save_model(project / "other", tiny_model(seed=2), bos=False)
    run(project, "--model.train-id", "other", until="intervene")
    after = pq.read_table(first / "transfer" / "features.parquet")
    assert not after.equals(before)
    assert (first / "intervene" / "stage.json").stat().st_mtime_ns == times["intervene"]


def test_a_model_of_another_shape_cannot_be_measured(project):
    torch.manual_seed(0)
    config = tiny_config("llama")
    config.num_hidden_layers = 3
    model = AutoModelForCausalLM.from_config(config)
    save_model(project / "trained", model, bos=True)
    done = run(project, "--model.train-id", "trained")
    folder = done.folder.path / "transfer"
    assert not (folder / "features.parquet").exists()
    reason = json.loads((folder / "summary.json").read_text())["reason"]
    assert reason == "it has 3 blocks, the model in which the features were found 4"
    assert reason in done.report.read_text()


def test_without_a_train_model_nothing_is_written(finished):
    assert not (finished / "runs" / "tiny" / "transfer").exists()
    assert "model to be trained" not in (finished / "runs/tiny/report/index.html").read_text()


def test_prompts_over_the_train_models_context_are_left_out(project):
    torch.manual_seed(3)
    config = tiny_config("llama")
    config.max_position_embeddings = 30
    save_model(project / "trained", AutoModelForCausalLM.from_config(config), bos=False)
    done = run(project, "--model.train-id", "trained", until="intervene")
    (row,) = pq.read_table(done.folder.path / "transfer" / "features.parquet").to_pylist()
    lengths = [len(f"{r['question']}\nSum:") for r in sums(20, 0)]
    assert row["prompts"] == sum(length <= 30 for length in lengths)
    assert 0 < row["prompts"] < 20
