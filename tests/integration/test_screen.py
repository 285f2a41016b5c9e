"""The gradient screens: equality with plain loops, and a planted feature that only one finds."""

import numpy as np
import pytest
import torch
from tests.helpers import FAMILIES, blocks_of, planted_model, planted_rows, planted_sae, tiny_model
from tests.integration.test_rules import EDITS, PROMPT, RESPONSE, WIDTH, at, some_sae

from igds.features import FeatureId
from igds.interventions.exact import branch_states, run_prefix
from igds.interventions.examples import Example, make_examples
from igds.interventions.rules import Edit
from igds.interventions.samples import exact_samples
from igds.interventions.screen import STEPS, gradient_screen
from igds.models.edit import branch_along
from igds.models.likelihood import target_logprobs

EXAMPLE = Example(row_id="a", prompt_ids=PROMPT, response_ids=RESPONSE)
POSITIONS = ("read", "generated", "all")


def features(layer):
    return [FeatureId(layer, index) for index in range(WIDTH)]


def screened(model, saes, edit, **options):
    names = [feature for sae in saes for feature in features(sae.layer)]
    table = gradient_screen(
        model.requires_grad_(False), saes, names, [EXAMPLE], edit=edit, **options
    )
    return torch.tensor(table["screen"].to_pylist()).view(len(saes), WIDTH)


def plain_screen(model, sae, edit, points):
    """Return the estimate of each feature by one plain forward and backward a point of the path."""
    t_star = len(PROMPT) - 1
    tokens = {"read": slice(t_star, t_star + 1), "generated": slice(t_star, None)}.get(
        edit.position, slice(None)
    )
    targets, total = torch.tensor(RESPONSE)[:, None], 0
    for point in points:
        kept = {}

        def hook(_block, _inputs, output, point=point, kept=kept):
            hidden = (output[0] if isinstance(output, tuple) else output).detach().clone()
            acts = sae.encode(hidden[0, tokens])
            steps = edit.coefficient * edit.amounts(sae.layer, range(WIDTH), acts)
            hidden[0, tokens] += point * (steps @ sae.W_dec)
            kept["state"], kept["steps"] = hidden.requires_grad_(True), steps
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = blocks_of(model)[sae.layer].register_forward_hook(hook)
        logits = model(torch.tensor([[*PROMPT, *RESPONSE]]), use_cache=False).logits[0]
        handle.remove()
        logprobs = logits.log_softmax(-1)[t_star:-1].gather(1, targets)
        (grad,) = torch.autograd.grad(logprobs.mean(), kept["state"])
        total = total + (kept["steps"] * (grad[0, tokens] @ sae.W_dec.T)).sum(0)
    return total / len(points)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_both_screens_equal_a_plain_loop(family, position):
    model, saes = tiny_model(family), [some_sae(0), some_sae(2)]
    middles = [(step + 0.5) / STEPS for step in range(STEPS)]
    edit = at(EDITS[0], position)
    for screen, points in (("attribution", [0.0]), ("integrated", middles)):
        found = screened(model, saes, edit, screen=screen)
        for place, sae in enumerate(saes):
            expected = plain_screen(model, sae, edit, points)
            assert (found[place] - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.rule)
def test_the_screens_know_the_rule(edit):
    model, sae = tiny_model(), some_sae(1)
    for screen, points in (
        ("attribution", [0.0]),
        ("integrated", [0.05 + 0.1 * s for s in range(10)]),
    ):
        expected = plain_screen(model, sae, at(edit, "read"), points)
        found = screened(model, [sae], at(edit, "read"), screen=screen)[0]
        assert (found - expected).norm() < 1e-4 * expected.norm()


def test_integrated_does_not_depend_on_its_batches():
    model, sae = tiny_model("gemma2"), some_sae(2)
    whole, parts = (
        screened(model, [sae], Edit(), screen="integrated", batch_tokens=size)
        for size in (10_000, 3 * (len(PROMPT) + len(RESPONSE)))
    )
    assert (whole - parts).norm() < 1e-5 * whole.norm()


@pytest.mark.parametrize("position", POSITIONS)
def test_integrated_estimates_add_up_to_the_delta_of_all_features_together(position):
    model, sae, edit = tiny_model(), some_sae(2), Edit(coefficient=0.2, position=position)
    estimates = screened(model, [sae], edit, screen="integrated")[0]
    pushes = edit.pushes(sae, range(WIDTH), torch.device("cpu"))

    def together(states):
        joint = pushes.added(states).sum(0, keepdim=True)
        if position == "read":
            joint[:, 1:] = 0
        return joint

    prefix = run_prefix(model, PROMPT, [2])
    hidden = branch_states(
        model, prefix, {2: branch_along(together)}, 1, RESPONSE, whole=position == "all"
    )
    plain, edited = target_logprobs(model, hidden, torch.tensor(RESPONSE)).mean(1).tolist()
    assert float(estimates.sum()) == pytest.approx(edited - plain, rel=0.02)
    attributed = screened(model, [sae], edit)[0]
    assert abs(float(attributed.sum()) - (edited - plain)) > abs(
        float(estimates.sum()) - (edited - plain)
    )


def asleep_model():
    """Return a planted model whose block 2 wakes where dimension 8 is large, and then raises GOLD.

    Its gate is closed by the constant dimension 31, so far that its slope is nearly 0.
    """
    model = planted_model()
    with torch.no_grad():
        mlp = model.model.layers[2].mlp
        mlp.gate_proj.weight[0, [8, 31]] = torch.tensor([3.0, -2.0])
        mlp.up_proj.weight[0, 31] = 1
        mlp.down_proj.weight[1, 0] = 0.1
    return model.requires_grad_(False)


def test_a_feature_that_is_asleep_is_found_by_integrated_alone():
    sae = planted_sae()
    sae.W_dec[:2] = 0
    sae.W_dec[0, 8] = 6.0  # wakes the gate
    sae.W_dec[1, 2] = 0.5  # raises the same token a little, by a constant slope
    prompts, responses = planted_rows(4)
    examples = make_examples(list("abcd"), prompts, responses)
    rivals, model = [FeatureId(1, 0), FeatureId(1, 1)], asleep_model()

    def means(table, column):
        return np.array(table[column].to_pylist()).reshape(len(examples), 2).mean(0)

    options = {"edit": Edit(), "batch_tokens": 512}
    samples = exact_samples(model, [sae], rivals, examples, contrast=False, **options)
    asleep, awake = means(samples, "delta")
    assert asleep > 2 * awake > 0
    found = {
        screen: means(
            gradient_screen(model, [sae], rivals, examples, screen=screen, **options), "screen"
        )
        for screen in ("attribution", "integrated")
    }
    assert found["attribution"][0] < 0.05 * asleep < found["attribution"][1]
    assert found["integrated"][0] > 2 * found["integrated"][1] > 0
    assert found["integrated"][0] == pytest.approx(asleep, rel=0.2)
