"""Where models go. No GPU is here: what is tested is the choice, and reading through accelerate."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from tests.helpers import save_tiny
from transformers import AutoModelForCausalLM

from igds.config import schema
from igds.errors import RequestError
from igds.interventions.exact import branch_logprobs, run_prefix
from igds.models.devices import choose_device, device_map, worker_device
from igds.models.load import load_blocks, load_causal, resolve_model
from igds.reading.residuals import residuals_at_read

PARTS = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "cpu",
    "model.layers.3": "disk",
    "model.norm": "cpu",
    "lm_head": "cpu",
}


@pytest.mark.parametrize(
    ("device", "worker", "gpus", "expected"),
    [
        ("cuda", 0, 8, "cuda:0"),
        ("cuda", 5, 8, "cuda:5"),
        ("cuda", 9, 8, "cuda:1"),
        ("cuda", 3, 1, "cuda:0"),
        ("cuda:2", 5, 8, "cuda:2"),
        ("cpu", 3, 0, "cpu"),
        ("mps", 1, 0, "mps"),
    ],
)
def test_each_worker_has_a_gpu_of_its_own(device, worker, gpus, expected):
    assert worker_device(device, worker, gpus) == expected


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, False, "cuda"), (True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_fastest_there_is(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == expected


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_tiny(folder)
    return resolve_model(schema.Model(id=str(folder)), "cpu", folder)


def test_the_device_type_is_what_is_recorded(spec):
    types = {name: replace(spec, device=name).device_type for name in ("cpu", "map", "cuda:3")}
    assert types == {"cpu": "cpu", "map": "cuda", "cuda:3": "cuda"}


def test_a_model_that_the_gpus_cannot_hold_is_refused(spec):
    # With no GPU at all accelerate puts everything into main memory.
    with pytest.raises(RequestError, match="the GPUs of this machine cannot hold the model"):
        load_blocks(replace(spec, device="map"), 2)
    with pytest.raises(RequestError, match="this machine has 0 of cuda"):
        choose_device("map")


def test_spreading_needs_accelerate(monkeypatch):
    assert device_map("cuda") is None
    assert device_map("map") == "auto"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(RequestError, match="pip install accelerate"):
        device_map("map")


def test_a_model_in_parts_reads_and_branches_as_in_one(spec, tmp_path):
    whole = load_causal(spec)
    parts = AutoModelForCausalLM.from_pretrained(
        spec.path, dtype=torch.float32, device_map=PARTS, offload_folder=tmp_path
    ).eval()
    # The blocks on disk have no weights of their own: accelerate's hooks bring them.
    assert parts.model.layers[1].self_attn.q_proj.weight.device.type == "meta"
    rows = [[5, 6, 7], list(range(3, 20)), [9]]
    found, expected = (residuals_at_read(model, rows, range(4), 64) for model in (parts, whole))
    for layer in range(4):
        assert torch.equal(found[layer], expected[layer])
    logprobs = [
        branch_logprobs(model, run_prefix(model, rows[1], [1]), 1, torch.ones(2, 32), rows[0])
        for model in (parts, whole)
    ]
    assert torch.equal(*logprobs)
