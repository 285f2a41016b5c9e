"""Feature activations at the read position and token by token."""

import pytest
import torch
from helpers import tiny_model

from igds.features import FeatureId
from igds.models.capture import capture
from igds.reading.activations import read_activations, token_activations
from igds.reading.residuals import residuals_at_read
from igds.saes.sae import SAE

FEATURES = [FeatureId(2, 5), FeatureId(0, 3), FeatureId(2, 0), FeatureId(0, 3)]


def sae(layer, **settings):
    generator = torch.Generator().manual_seed(layer)
    weights = torch.randn(32, 12, generator=generator)
    return SAE(
        layer=layer,
        W_enc=weights,
        W_dec=weights.T.clone(),
        b_enc=torch.full((12,), -1.0),
        b_dec=torch.zeros(32),
        hook_name=f"blocks.{layer}.hook_resid_post",
        release="tiny",
        revision="0",
        **settings,
    )


def pair():
    threshold = torch.full((12,), 0.5)
    return [sae(0, activation="jumprelu", threshold=threshold), sae(2, activation="topk", k=4)]


def test_planted_values():
    """Feature i of this SAE reads coordinate i, minus 1."""
    reader = SAE(
        layer=1,
        activation="relu",
        W_enc=torch.eye(3),
        W_dec=torch.eye(3),
        b_enc=torch.full((3,), -1.0),
        b_dec=torch.zeros(3),
        hook_name="blocks.1.hook_resid_post",
        release="planted",
        revision="0",
    )
    residuals = {1: torch.tensor([[3.0, 0.5, 9.0], [1.0, 2.5, 0.0]])}
    acts = read_activations([reader], [FeatureId(1, 2), FeatureId(1, 1)], residuals)
    assert acts.tolist() == [[8.0, 0.0], [0.0, 1.5]]


def test_token_activations_are_those_of_the_whole_sae():
    model, saes, ids = tiny_model("qwen2"), pair(), list(range(3, 20))
    with capture(model, [0, 2]) as kept:
        model(torch.tensor([ids]))
    acts = token_activations(model, saes, FEATURES, ids)
    assert acts.shape == (17, 4)
    by_layer = {each.layer: each.encode(kept[each.layer][0]) for each in saes}
    for place, feature in enumerate(FEATURES):
        expected = by_layer[feature.layer][:, feature.index]
        torch.testing.assert_close(acts[:, place], expected, rtol=1e-5, atol=1e-5)
    assert (acts > 0).any(dim=0).all()


def test_the_last_token_is_the_read_position():
    model, saes = tiny_model("gemma3_text"), pair()
    rows = [list(range(3, 20)), [9, 8, 7]]
    residuals = residuals_at_read(model, rows, [0, 2], batch_tokens=100)
    acts = read_activations(saes, FEATURES, residuals)
    for place, row in enumerate(rows):
        last = token_activations(model, saes, FEATURES, row)[-1]
        torch.testing.assert_close(acts[place], last, rtol=1e-5, atol=1e-5 * float(acts.max()))


def test_features_that_nobody_can_read():
    residuals = {0: torch.zeros(1, 32), 1: torch.zeros(1, 32)}
    with pytest.raises(ValueError, match=r"no SAE reads block 1; there are SAEs of \[0, 2\]"):
        read_activations(pair(), [FeatureId(1, 0)], residuals)
    with pytest.raises(ValueError, match=r"L0/12: that SAE has 12 features"):
        read_activations(pair(), [FeatureId(0, 12)], residuals)
