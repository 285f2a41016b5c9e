"""The task features in the model that will be trained, against plain forwards and counts."""

import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.helpers import tiny_config, tiny_model, tiny_tokenizer
from tests.tiny_project import run
from transformers import AutoModelForCausalLM

from igds.config import schema
from igds.config.load import load_config
from igds.data.index import load_index
from igds.errors import RequestError
from igds.executors.make import make_executor
from igds.features import FeatureId
from igds.models.load import ModelShape, resolve_model
from igds.progress import SilentProgress
from igds.reading.transfer import TRANSFER, TransferWork, obstacle, transfer_table
from igds.reading.work import row_ranges
from igds.runs.folder import RunFolder
from igds.saes.formats.saelens import write_saelens
from igds.saes.load import find_sae, load_sae
from igds.stages.context import Context

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
    # Another model to train: transfer is measured again, and nothing else.
    stamp = (folder / "intervene" / "stage.json").stat().st_mtime_ns
    save_model(project / "other", tiny_model(seed=2), bos=False)
    run(project, "--model.train-id", "other", *FAST, until="intervene")
    assert not pq.read_table(folder / "transfer" / "features.parquet").equals(table)
    assert (folder / "intervene" / "stage.json").stat().st_mtime_ns == stamp


def test_the_model_to_be_trained_has_a_revision_of_its_own(project, monkeypatch):
    cache = project / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root = cache / "models--owner--base"
    (root / "refs").mkdir(parents=True)
    # What a download leaves: the commit of each branch, and a folder a commit.
    for name, commit, bos in (("main", "a" * 40, True), ("v2", "b" * 40, False)):
        (root / "refs" / name).write_text(commit)
        save_model(root / "snapshots" / commit, tiny_model(seed=1), bos=bos)
    words = ("--model.train-id", "owner/base")
    first = run(project, *words, until="index").folder
    assert first.manifest()["train_model"] == {"id": "owner/base", "revision": "a" * 40}
    # Another revision with another tokenizer is another index: here a token a prompt fewer.
    counts = [load_index(first.path / "index", ["n_train_tokens"])]
    with pytest.raises(RequestError, match=r"train_tokenizer\.tokenizer\.json"):
        run(project, *words, "--model.train-revision", "v2", until="index")
    second = run(
        project, *words, "--model.train-revision", "v2", "--name", "two", until="index"
    ).folder
    assert second.manifest()["train_model"]["revision"] == "b" * 40
    counts.append(load_index(second.path / "index", ["n_train_tokens"]))
    one, two = (np.array(table["n_train_tokens"]) for table in counts)
    assert (one - two == 1).all()
    with pytest.raises(RequestError, match=r"model\.train_id: .*at revision 'v3' is not on"):
        run(project, *words, "--model.train-revision", "v3", until="index")


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize("trusted", [True, False])
def test_code_of_one_model_is_not_that_of_the_other(project, trusted):
    words = [
        "--model.train-id", "trained", "--model.trust-remote-code", str(not trusted),
        "--model.train-trust-remote-code", str(trusted),
    ]  # fmt: skip
    file = load_config(project / "igds.yaml", words)
    context = Context(
        config=file.config, base=file.base, run=RunFolder(project / "runs" / "tiny"),
        executor=make_executor(file.config.runtime), progress=SilentProgress(), overwrite=False,
    )  # fmt: skip
    assert context.model.trust_remote_code is not trusted
    assert context.train_model.trust_remote_code is trusted


def test_settings_of_no_model_to_be_trained():
    with pytest.raises(ValueError, match="go with train_id"):
        schema.Model(id="a", train_revision="main")
    with pytest.raises(ValueError, match="superfilter_model trains no model"):
        schema.Score(superfilter_model=schema.Model(id="a", train_id="b"))


def test_prompts_over_the_train_models_context_are_left_out(project):
    torch.manual_seed(3)
    config = tiny_config("llama")
    config.max_position_embeddings = 30
    save_model(project / "trained", AutoModelForCausalLM.from_config(config), bos=False)
    folder = run(project, until="index").folder.path / "index" / "prior"
    spec = resolve_model(schema.Model(id=str(project / "trained")), "cpu", project)
    saes = {"1": asdict(find_sae(schema.SAE(path="saes/L1"), project))}
    work = TransferWork(
        model=asdict(spec),
        features=["L1/0", "L1/5"],
        saes=saes,
        chat=False,
        batch_tokens=64,
        threads=1,
    )
    (shard,) = row_ranges(folder, 100)
    table = work(shard)
    assert table.column_names == ["row_id", "L1/0", "L1/5"]
    fits = [row["row_id"] for row in pq.read_table(folder).to_pylist() if len(row["prompt"]) <= 30]
    assert table["row_id"].to_pylist() == fits
    assert 0 < len(fits) < 20


def test_activations_of_a_model_that_diverged_are_no_numbers(project):
    model = tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(torch.nan)
    save_model(project / "trained", model, bos=True)
    kept = replace(load_sae(project / "saes/L1"), activation="topk", k=3)  # NaN is in no top 3
    write_saelens(kept, project / "topk")
    folder = run(project, until="index").folder.path / "index" / "prior"
    work = TransferWork(
        model=asdict(resolve_model(schema.Model(id=str(project / "trained")), "cpu", project)),
        features=["L1/0"],
        saes={"1": asdict(find_sae(schema.SAE(path="topk"), project))},
        chat=False,
        batch_tokens=64,
        threads=1,
        finite=False,
    )
    (shard,) = row_ranges(folder, 100)
    assert np.isnan(work(shard)["L1/0"].to_numpy()).all()


def test_models_of_another_shape_cannot_be_measured():
    shape = ModelShape(n_blocks=4, d_model=32, context=128, vocab=259)
    assert obstacle(shape, replace(shape, context=30, vocab=9)) is None
    assert obstacle(shape, replace(shape, n_blocks=3)) == (
        "it has 3 blocks, the model in which the features were found 4"
    )
    assert obstacle(shape, replace(shape, d_model=64)) == (
        "its residual stream is 64 wide, that of the model in which the features were found 32"
    )


def test_without_controls_there_is_no_specificity():
    columns = [pa.table({"L1/0": pa.array(values, pa.float32())}) for values in ([1, 0], [2], [])]
    (row,) = transfer_table(["L1/0"], *columns).to_pylist()
    assert (row["frequency"], row["prompts"]) == (0.5, 2)
    assert row["control_frequency"] is row["specificity"] is row["specificity_low"] is None
