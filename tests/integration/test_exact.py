"""The branch engine equals one full forward per edit, on every family of models."""

import pytest
import torch
from tests.helpers import FAMILIES, tiny_model, vector_pushes
from transformers.cache_utils import StaticLayer

from igds.interventions.exact import branch_logprobs, push_effects, run_prefix, share
from igds.models.blocks import decoder_blocks
from igds.models.edit import branch, edit

PROMPT = [1, *range(40, 60)]
RESPONSE = [70, 71, 72, 70, 9, 10, 11, 120, 121, 5, 6, 200]


def reference(model, prompt, response, layer, vector):
    """Return log p of each response token by one full forward with `vector` added at t*."""

    def add(_block, _inputs, output):
        changed = output.clone()
        changed[:, len(prompt) - 1] += vector
        return changed

    handle = decoder_blocks(model)[layer].register_forward_hook(add)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0].double()
    handle.remove()
    logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return logprobs.gather(1, torch.tensor(response)[:, None])[:, 0]


def push(model, prompt, layer, vectors, response=RESPONSE, batch_tokens=10_000):
    """Return what the vectors do at t*, by the engine."""
    prefix = run_prefix(model, prompt, [layer])
    pushes = vector_pushes(layer, vectors)
    return push_effects(model, prefix, pushes, vectors, response, batch_tokens=batch_tokens)


def some_vectors(n, seed=0):
    return torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_one_forward_per_edit(family, layer):
    model, vectors = tiny_model(family), some_vectors(5)
    prefix = run_prefix(model, PROMPT, [layer])
    found = branch_logprobs(model, prefix, layer, vectors, RESPONSE)
    for row, vector in enumerate([torch.zeros(32), *vectors]):
        expected = reference(model, PROMPT, RESPONSE, layer, vector)
        assert (found[row] - expected).abs().max() < 1e-5
    # The comparison means something: the edits do move the log-probabilities.
    assert (found[1:] - found[0]).abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_chunked_is_one_batch(family):
    model, vectors = tiny_model(family), some_vectors(7)
    whole = push(model, PROMPT, 1, vectors)
    parts = push(model, PROMPT, 1, vectors, batch_tokens=3 * len(RESPONSE))
    for one, other in zip(whole, parts, strict=True):
        assert (one - other).abs().max() < 1e-5
    assert push(model, PROMPT, 1, vectors[:0]).by_token.shape == (0, 12)


def test_a_response_longer_than_the_budget_still_runs():
    model, vectors = tiny_model(), some_vectors(2)
    assert push(model, PROMPT, 1, vectors, batch_tokens=1).by_token.shape == (2, 12)


@pytest.mark.parametrize(("prompt", "response"), [([7], RESPONSE), (PROMPT, [70]), ([7], [8])])
@pytest.mark.parametrize("family", FAMILIES)
def test_shortest_prompt_and_response(family, prompt, response):
    model, vectors = tiny_model(family), some_vectors(2)
    found = branch_logprobs(model, run_prefix(model, prompt, [1]), 1, vectors, response)
    for row, vector in enumerate([torch.zeros(32), *vectors]):
        expected = reference(model, prompt, response, 1, vector)
        assert (found[row] - expected).abs().max() < 1e-5


def test_the_prefix_serves_many_branches_unchanged():
    model, vectors = tiny_model("gemma2"), some_vectors(3)
    prefix = run_prefix(model, PROMPT, [0, 2])
    first = branch_logprobs(model, prefix, 2, vectors, RESPONSE)
    branch_logprobs(model, prefix, 0, some_vectors(4, seed=1), RESPONSE[:3])
    assert torch.equal(branch_logprobs(model, prefix, 2, vectors, RESPONSE), first)
    assert {layer.keys.shape[0] for layer in prefix.cache.layers} == {1}


def test_prefix_states_are_block_outputs_at_t_star():
    model = tiny_model()
    prefix = run_prefix(model, PROMPT, [0, 3])
    with torch.no_grad():
        states = model(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states
    assert torch.allclose(prefix.states[0], states[1][0, -1], atol=1e-5)


def test_a_zero_vector_does_nothing():
    model = tiny_model()
    found = push(model, PROMPT, 1, torch.zeros(3, 32))
    assert not found.by_token.any()
    assert not found.kl.any()
    assert (
        branch_logprobs(model, run_prefix(model, PROMPT, [1]), 1, torch.zeros(3, 32), RESPONSE)
        .diff(dim=0)
        .abs()
        .max()
        < 1e-6
    )


def test_edit_leaves_no_hook_and_the_same_logits():
    model, ids = tiny_model(), torch.tensor([PROMPT])
    with torch.no_grad():
        before = model(ids).logits
        with edit(model, 1, branch(some_vectors(2))) as calls:
            branched = model(ids).logits
        assert torch.equal(model(ids).logits, before)
    assert branched.shape[0] == 3
    assert calls == [3]
    assert not any(block._forward_hooks for block in decoder_blocks(model))


def test_edit_removes_its_hook_after_an_error():
    model = tiny_model()
    refused = pytest.raises(ValueError, match="branches from one row, not from 2")
    with refused, edit(model, 1, branch(some_vectors(2))), torch.no_grad():
        model(torch.tensor([PROMPT, PROMPT]))
    assert not any(block._forward_hooks for block in decoder_blocks(model))


def test_edit_refuses_a_block_the_model_lacks():
    refused = pytest.raises(ValueError, match="no block 4: the model has 4 blocks")
    with refused, edit(tiny_model(), 4, branch(some_vectors(1))):
        pass


def test_share_of_nothing_is_nothing():
    assert share(None, expand_after=1, rows=3) is None


def test_a_cache_of_another_kind_is_refused():
    prefix = run_prefix(tiny_model(), PROMPT, [1])
    prefix.cache.layers[3] = StaticLayer(max_cache_len=8)
    with pytest.raises(ValueError, match="block 3 keeps its past in a StaticLayer"):
        share(prefix.cache)
