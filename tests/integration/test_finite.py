"""States that float16 cannot hold are refused wherever features and interventions read them."""

import tempfile
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from tests.helpers import planted_sae, tiny_model, tiny_tokenizer

from igds.config import schema
from igds.errors import RequestError
from igds.features import FeatureId
from igds.interventions.exact import branch_logprobs, check_branches, run_prefix
from igds.interventions.examples import Example
from igds.interventions.screen import gradient_screen
from igds.models.check import check_blocks
from igds.models.likelihood import check_head
from igds.models.load import resolve_model
from igds.reading.residuals import residuals_at_read, residuals_at_tokens
from igds.reading.responses import Continuation, ResponseReader, read_continuations

PROMPT, RESPONSE = [1, 40, 41, 42], [70, 71, 72]
PAIR = Continuation(context=PROMPT, response=RESPONSE)


def large(dtype=torch.float16):
    """Return a model whose block 2 writes numbers of about a million."""
    model = tiny_model().requires_grad_(False)
    model.model.layers[2].mlp.down_proj.weight.mul_(3e4)
    return model.to(dtype)


def screened(model):
    example = Example(row_id="a", prompt_ids=PROMPT, response_ids=RESPONSE)
    return gradient_screen(model, [planted_sae(1)], [FeatureId(1, 0)], [example])


def branched(model):
    prefix = run_prefix(model, PROMPT, [1])
    return branch_logprobs(model, prefix, 1, torch.ones(1, 32), RESPONSE)


def scored(model, part):
    """Read a row as the score stage does."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
        dtype = str(model.dtype).removeprefix("torch.")
        spec = resolve_model(schema.Model(id=folder, dtype=dtype), "cpu", Path(folder))
        settings = {"parts": [part], "marker": "", "chat": False, "own_prompts": True}
        reader = ResponseReader(asdict(spec), **settings, max_length=None, batch_tokens=64)
    rows = {"prompt": ["a"], "prompt_ids": [PROMPT], "response": [" 4"]}
    return reader.read(pa.table(rows))


WAYS = {
    "reading": (lambda m: residuals_at_read(m, [PROMPT], [1, 2], 64), "block 2 at a read position"),
    "tokens": (
        lambda m: residuals_at_tokens(m, [PROMPT], [1, 2], torch.ones(4, dtype=torch.bool), 64),
        "block 2 at a token",
    ),
    "prefix": (lambda m: run_prefix(m, PROMPT, [1, 2]), "block 2 at a read position"),
    "deltas": (branched, "log-probability of a response's token"),
    "screen": (screened, "screen's gradient at block 1"),
    "loading": (check_branches, "log-probability of a response's token"),
    "likelihood": (lambda m: scored(m, "loss"), "log-probability of a response's token"),
    "means": (lambda m: scored(m, "mean"), "mean of a row's last hidden states"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_model_too_large_for_float16_is_refused(way):
    call, where = WAYS[way]
    with pytest.raises(RequestError, match=rf"{where} .*float16 ends at 65,504.*model\.dtype"):
        call(large())
    call(large(torch.bfloat16))


def test_what_a_diverged_training_left_is_measured():
    model = large()
    check_blocks(model)
    check_head(model)
    (logprobs,), _ = read_continuations(model, [PAIR], 64)
    assert logprobs.isnan().all()
    assert not residuals_at_read(model, [PROMPT], [2], 64, finite=False)[2].isfinite().all()
