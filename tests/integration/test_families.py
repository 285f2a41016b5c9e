"""Residuals, family by family, against plain transformers."""

import pytest
import torch
from helpers import FAMILIES, blocks_of, save_tiny
from transformers import AutoModelForCausalLM

from igds.config import schema
from igds.models.blocks import decoder_blocks
from igds.models.capture import capture
from igds.models.load import describe, load_blocks, load_causal, resolve_model
from igds.reading.residuals import pad_right, residuals_at_read

LAYERS = range(4)
LENGTHS = (3, 30, 17, 30, 9, 1)


@pytest.fixture(params=FAMILIES, scope="module")
def spec(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny(folder, request.param)
    return resolve_model(schema.Model(id=str(folder)), "cpu", folder)


@pytest.fixture(scope="module")
def plain(spec):
    """The model as a user of transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(spec.path, dtype=torch.float32).eval()


def block_outputs(model, ids, mask):
    """Outputs of all blocks [block, batch, seq, d_model], by hooks written for this test."""
    seen = []
    hooks = [
        block.register_forward_hook(lambda _block, _args, output: seen.append(output))
        for block in blocks_of(model)
    ]
    with torch.no_grad():
        result = model(ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    # The last entry of hidden_states is after the final norm, so it cannot be compared.
    assert all(
        torch.equal(a, b) for a, b in zip(seen[:-1], result.hidden_states[1:-1], strict=True)
    )
    return torch.stack(seen)


def prompts():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 259, (n,), generator=generator).tolist() for n in LENGTHS]


def assert_close(ours, theirs):
    assert ours.shape == theirs.shape
    assert ((ours - theirs).norm(dim=-1) <= 1e-5 * theirs.norm(dim=-1)).all()


def test_one_batch_is_bit_identical_to_transformers(spec, plain):
    rows = sorted(prompts(), key=len)
    ids, mask = pad_right(rows)
    last = torch.tensor([len(row) - 1 for row in rows])
    expected = block_outputs(plain, ids, mask)[:, torch.arange(len(rows)), last]
    read = residuals_at_read(load_blocks(spec), rows, LAYERS, batch_tokens=10_000)
    for layer in LAYERS:
        assert torch.equal(read[layer], expected[layer])


def test_padding_and_batches_change_only_rounding(spec, plain):
    rows, model = prompts(), load_blocks(spec)
    for batch_tokens in (1, 40, 10_000):
        read = residuals_at_read(model, rows, LAYERS, batch_tokens)
        for place, row in enumerate(rows):
            alone = block_outputs(plain, torch.tensor([row]), torch.ones(1, len(row)).long())
            for layer in LAYERS:
                assert_close(read[layer][place], alone[layer, 0, -1])


def test_left_padding_agrees_with_right_padding(spec, plain):
    rows = prompts()
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.no_grad():
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        left = plain(
            ids, attention_mask=mask, position_ids=positions, output_hidden_states=True
        ).hidden_states
    read = residuals_at_read(load_blocks(spec), rows, LAYERS, batch_tokens=10_000)
    for layer in LAYERS[:-1]:
        assert_close(read[layer], left[layer + 1][:, -1])


@pytest.mark.parametrize("n_blocks", [1, 3])
def test_a_cut_model_equals_the_whole_one(spec, n_blocks):
    ids, mask = pad_right(prompts())
    cut, whole = load_blocks(spec, n_blocks), load_blocks(spec)
    assert len(decoder_blocks(cut)) == n_blocks
    kept = []
    for model in (cut, whole):
        with capture(model, range(n_blocks)) as outputs:
            model(ids, attention_mask=mask, use_cache=False)
        kept.append(outputs)
    for layer in range(n_blocks):
        assert torch.equal(kept[0][layer], kept[1][layer])


def test_a_model_with_its_head_reads_alike(spec):
    rows = prompts()
    with_head = residuals_at_read(load_causal(spec), rows, LAYERS, batch_tokens=64)
    without = residuals_at_read(load_blocks(spec), rows, LAYERS, batch_tokens=64)
    assert all(torch.equal(with_head[layer], without[layer]) for layer in LAYERS)


def test_the_kernel_is_the_one_transformers_would_choose(spec, plain):
    assert spec.attention == plain.config._attn_implementation
    assert load_causal(spec).config._attn_implementation == spec.attention


def test_sizes_come_from_the_config(spec, plain):
    shape = describe(spec)
    assert shape.n_blocks == len(blocks_of(plain))
    assert (shape.vocab, shape.d_model) == tuple(plain.get_input_embeddings().weight.shape)
    assert shape.context == 128
