"""Likelihoods and mean states of prompt and response equal a plain loop over single rows."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.helpers import FAMILIES, save_tiny, tiny_model, tiny_tokenizer
from torch.nn import functional

from igds.config import schema
from igds.models.load import resolve_model
from igds.reading.responses import Continuation, ResponseReader, read_continuations

PROMPTS = ["What is 2 and 2?\nSum:", "A longer question of 17 and 4 then?\nSum:", "1\nSum:"]
RESPONSES = [" 4", " It is 21, as one sees.", " one"]


def pairs() -> list[Continuation]:
    tokenizer = tiny_tokenizer()
    return [
        Continuation(
            context=tokenizer(prompt)["input_ids"],
            response=tokenizer(response, add_special_tokens=False)["input_ids"],
        )
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]


@torch.no_grad()
def plain(model, pair: Continuation) -> tuple[float, torch.Tensor]:
    """Return loss and weighted mean state of one row, by itself, by the formulas."""
    ids = torch.tensor([[*pair.context, *pair.response]])
    out = model(ids, output_hidden_states=True, use_cache=False)
    logits = out.logits[0, len(pair.context) - 1 : -1]
    loss = functional.cross_entropy(logits.double(), torch.tensor(pair.response))
    states = out.hidden_states[-1][0].double()
    weights = torch.arange(1, len(states) + 1).double()
    return float(loss), (weights[:, None] * states).sum(0) / weights.sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_loop_over_rows(family):
    model = tiny_model(family)
    for batch_tokens in (10_000, 60, 1):
        found, means = read_continuations(model, pairs(), batch_tokens, mean=True)
        assert found is not None
        assert means is not None
        for pair, logprobs, mean in zip(pairs(), found, means, strict=True):
            expected, state = plain(model, pair)
            assert len(logprobs) == len(pair.response)
            assert -float(logprobs.mean()) == pytest.approx(expected, abs=1e-5)
            assert (mean - state).abs().max() < 1e-5 * state.abs().max()


def test_an_empty_response_has_no_likelihood_and_a_mean_of_its_context():
    model, (first, *_) = tiny_model(), pairs()
    bare = Continuation(context=first.context, response=[])
    found, means = read_continuations(model, [bare, first], 1000, mean=True)
    assert found is not None
    assert [len(logprobs) for logprobs in found] == [0, len(first.response)]
    assert means is not None
    alone, none = read_continuations(model, [bare], 1000)
    assert alone is not None
    assert none is None
    assert [len(logprobs) for logprobs in alone] == [0]
    unasked, _ = read_continuations(model, [first], 1000, likelihood=False, mean=True)
    assert unasked is None
    last = Continuation(context=first.context[:-1], response=first.context[-1:])
    assert (means[0] - plain(model, last)[1]).abs().max() < 1e-5


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_tiny(folder)
    model = schema.Model(id=str(folder), dtype="float32")
    return resolve_model(model, "cpu", folder)


def reader(spec, **changes) -> ResponseReader:
    settings = {
        "parts": ("loss", "bare_loss", "mean"),
        "marker": "Sum:",
        "chat": False,
        "own_prompts": True,
        "max_length": None,
        "batch_tokens": 512,
    }
    fields = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    return ResponseReader(fields, **{**settings, **changes})


def index_rows(prompts=PROMPTS, responses=RESPONSES) -> pa.Table:
    tokenizer = tiny_tokenizer()
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    return pa.table(
        {
            "prompt": prompts,
            "prompt_ids": pa.array(ids, pa.list_(pa.int32())),
            "response": pa.array(responses, pa.string()),
        }
    )


def test_both_sides_see_the_same_response_tokens(spec):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    limit = 45
    found = reader(spec, max_length=limit).read(index_rows())
    assert found.status == ["ok"] * 3
    for row, pair in enumerate(pairs()):
        kept = list(pair.response)[: limit - len(pair.context)]
        assert (len(kept) < len(pair.response)) == (row == 1)  # the long row is cut
        loss, _ = plain(model, Continuation(context=pair.context, response=kept))
        marker = tokenizer("Sum:")["input_ids"]
        bare, _ = plain(model, Continuation(context=marker, response=kept))
        assert found.loss is not None
        assert found.bare_loss is not None
        assert found.loss[row] == pytest.approx(loss, abs=1e-5)
        assert found.bare_loss[row] == pytest.approx(bare, abs=1e-5)
        assert math.isfinite(loss / bare)


def test_rows_that_cannot_be_read_say_why(spec):
    long = "x" * 90 + "\nSum:"
    rows = index_rows([PROMPTS[0], PROMPTS[0], long], [" 4", None, " 4"])
    found = reader(spec, max_length=90).read(rows)
    assert found.status == ["ok", "no_response", "no_room"]
    for values in (found.loss, found.bare_loss):
        assert values is not None
        assert np.isnan(values).tolist() == [False, True, True]
    assert found.mean is not None
    assert np.isnan(found.mean).any(axis=1).tolist() == [False, False, True]
    only = reader(spec, parts=("mean",)).read(index_rows(), prompts_only=True)
    assert only.status == ["no_response"] * 3


def test_a_prompt_that_brings_a_bos_is_no_prompt_of_another_model(spec):
    rows = index_rows(["<bos> 2\nSum:", PROMPTS[0]], [" 4", " 4"])
    found = reader(spec, own_prompts=False).read(rows)
    assert found.status == ["special_token", "ok"]
    own = reader(spec).read(index_rows([PROMPTS[0]], [" 4"]))
    assert found.loss is not None
    assert own.loss is not None
    assert found.loss[1] == pytest.approx(own.loss[0], abs=1e-6)
