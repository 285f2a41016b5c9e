"""What capture keeps, and that it leaves the model as it was."""

import pytest
import torch
from helpers import tiny_model

from igds.models.blocks import block_output, decoder_blocks
from igds.models.capture import capture
from igds.reading.residuals import (
    pad_right,
    read_positions,
    residuals_at_read,
    residuals_at_tokens,
)

IDS = torch.arange(3, 23).reshape(2, 10)


@pytest.fixture
def model():
    return tiny_model("gemma2").requires_grad_(False)


def n_hooks(model):
    return sum(
        len(getattr(module, name))
        for module in model.modules()
        for name in vars(module)
        if name.endswith("_hooks") and getattr(module, name)
    )


@pytest.mark.parametrize("grad", [False, True])
def test_nothing_stays_behind(model, grad):
    before, hooks = model(IDS).logits, n_hooks(model)
    with capture(model, range(4), grad=grad):
        assert n_hooks(model) == hooks + 4
        inside = model(IDS).logits
    assert n_hooks(model) == hooks
    assert torch.equal(inside, before)
    assert torch.equal(model(IDS).logits, before)
    assert torch.is_grad_enabled()


def test_nothing_stays_behind_after_an_exception(model):
    before, hooks = model(IDS).logits, n_hooks(model)
    with pytest.raises(KeyboardInterrupt), capture(model, range(4)):
        model(IDS)
        raise KeyboardInterrupt
    with pytest.raises(IndexError), capture(model, [0, 2]):
        model(torch.tensor([[10**6]]))
    # The first layers are hooked already when the last one turns out not to exist.
    with pytest.raises(ValueError, match=r"no block 4: the model as loaded has 4 blocks"):
        capture(model, [0, 2, 4]).__enter__()
    assert n_hooks(model) == hooks
    assert torch.equal(model(IDS).logits, before)
    assert torch.is_grad_enabled()


def test_only_the_chosen_positions_are_kept(model):
    with capture(model, [1, 3]) as whole:
        model(IDS)
    with capture(model, [1, 3], positions=torch.tensor([4, 9])) as kept:
        model(IDS)
    assert list(kept) == [1, 3]
    for layer in kept:
        assert kept[layer].shape == (2, 32)
        # A view would hold on to the whole block output.
        assert kept[layer].untyped_storage().nbytes() == 2 * 32 * 4
        assert torch.equal(kept[layer], whole[layer][[0, 1], [4, 9]])


def test_gradients_reach_block_outputs_and_nothing_else(model):
    with capture(model, [1, 2], grad=True) as kept:
        loss = model(IDS).logits.log_softmax(-1)[:, -1, 7].sum()
    slopes = torch.autograd.grad(loss, [kept[1], kept[2]])
    assert kept[1].is_leaf
    assert all(weight.grad is None for weight in model.parameters())
    # Finite difference along one direction at one position.
    direction = torch.zeros_like(kept[1])
    direction[:, 5] = torch.randn(32, generator=torch.Generator().manual_seed(0))

    def moved(layer, step):
        blocks = decoder_blocks(model)
        hook = blocks[layer].register_forward_hook(lambda _b, _i, out: out + step * direction)
        value = model(IDS).logits.double().log_softmax(-1)[:, -1, 7].sum()
        hook.remove()
        return value

    for layer, slope in zip((1, 2), slopes, strict=True):
        expected = (moved(layer, 1e-2) - moved(layer, -1e-2)) / 2e-2
        torch.testing.assert_close((slope * direction).sum().double(), expected, rtol=1e-2, atol=0)


def test_gradients_want_whole_outputs(model):
    with pytest.raises(ValueError, match="pick positions afterwards"):
        capture(model, [1], positions=torch.tensor([0]), grad=True).__enter__()


def test_blocks_may_return_tuples():
    hidden = torch.ones(1, 2, 3)
    assert block_output(hidden) is hidden
    assert block_output((hidden, None)) is hidden


def test_read_position_is_the_last_token_on_either_side():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0]])
    assert read_positions(mask).tolist() == [1, 3, 3, 0, 2]


def test_pad_right():
    ids, mask = pad_right([[7], [8, 9, 10]])
    assert ids.tolist() == [[7, 0, 0], [8, 9, 10]]
    assert mask.tolist() == [[1, 0, 0], [1, 1, 1]]


def test_no_prompts_give_empty_residuals(model):
    read = residuals_at_read(model, [], [0, 3], batch_tokens=8)
    assert {layer: tuple(h.shape) for layer, h in read.items()} == {0: (0, 32), 3: (0, 32)}


def test_an_empty_prompt_has_no_read_position(model):
    with pytest.raises(ValueError, match="no tokens"):
        residuals_at_read(model, [[5], []], [0], batch_tokens=8)


def test_no_module_but_the_hook_users_registers_hooks():
    from pathlib import Path

    import igds.models.capture as module

    package = Path(module.__file__).parents[1]
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "register_forward" in path.read_text()
    }
    assert users <= {"models/capture.py", "models/edit.py"}


@pytest.mark.parametrize("batch_tokens", [1, 24, 4096])
def test_chosen_tokens_are_those_of_each_prompt_alone(model, batch_tokens):
    prompts = [list(range(3, 3 + n)) for n in (9, 2, 14, 5)]
    wanted = torch.rand(30, generator=torch.Generator().manual_seed(1)) < 0.4
    read = residuals_at_tokens(model, prompts, [3, 1], wanted, batch_tokens)
    assert list(read) == [1, 3]
    whole = {1: [], 3: []}
    for ids in prompts:
        with capture(model, [1, 3]) as kept:
            model(torch.tensor([ids]))
        for layer, hidden in kept.items():
            whole[layer].append(hidden[0])
    for layer, rows in whole.items():
        torch.testing.assert_close(read[layer], torch.cat(rows)[wanted])
