"""Untrained doubles: as often and as strongly active as a trained SAE, in random directions."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from igds.saes.formats.saelens import write_saelens
from igds.saes.load import load_sae
from igds.saes.sae import SAE
from igds.saes.untrained import STORED, activity, random_directions, untrained_sae

N, D_IN, D_SAE = 101, 24, 2100
"""Over one block of features, and a number of residuals that divides into no round share."""


def residuals(n: int = N) -> torch.Tensor:
    """Return residuals as at a read position: a long common part and a little of each prompt's."""
    draw = torch.Generator().manual_seed(1)
    common = torch.randn(D_IN, generator=draw) * 8
    return common + torch.randn(n, D_IN, generator=draw)


def trained(activation: str = "relu") -> SAE:
    """Return an SAE with features of every frequency, decoder norms from 0.5 to 3, any sign."""
    draw = torch.Generator().manual_seed(2)
    W_enc = torch.randn(D_IN, D_SAE, generator=draw)
    centre = residuals().mean(dim=0) @ W_enc
    norms = torch.linspace(0.5, 3, D_SAE)[:, None]
    directions = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=draw))
    return SAE(
        layer=3,
        activation=activation,
        W_enc=W_enc,
        W_dec=directions * norms,
        # From never to always active.
        b_enc=torch.linspace(-25, 25, D_SAE) - centre,
        b_dec=torch.randn(D_IN, generator=draw),
        threshold=torch.full((D_SAE,), 0.5) if activation == "jumprelu" else None,
        k=40 if activation == "topk" else None,
        apply_b_dec_to_input=activation == "topk",
        hook_name="layers.3",
        neuronpedia_id="a/b",
        unit="times something",
        published_l0=40.0,
        release="trained",
        revision="0" * 64,
    )


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
def test_each_feature_is_active_as_often_as_its_namesake(activation: str) -> None:
    sae, x = trained(activation), residuals()
    double = untrained_sae(sae, x, seed=0)
    wanted = (sae.encode(x) > 0).sum(dim=0)
    assert len(set(wanted.tolist())) > N // 2
    if activation != "topk":
        assert {0, N} <= set(wanted.tolist())
    assert torch.equal((double.encode(x) > 0).sum(dim=0), wanted)


def test_each_feature_is_as_strong_as_its_namesake_or_barely_over_0() -> None:
    sae, x = trained(), residuals()
    double = untrained_sae(sae, x, seed=0)
    acts, own = sae.encode(x), double.encode(x)
    count = (acts > 0).sum(dim=0).clamp(min=1)
    wanted = acts.sum(dim=0) / count * sae.W_dec.norm(dim=1)
    found = own.sum(dim=0) / count
    louder = found > wanted * (1 + 1e-3)
    assert 0 < louder.sum() < D_SAE / 2
    assert torch.allclose(found[~louder], wanted[~louder], rtol=1e-3, atol=1e-4)
    # Louder only where a smaller bias would turn residuals off that should pass.
    assert (double.threshold[louder] == 0).all()
    assert (double.threshold >= 0).all()
    counted = activity(sae, x)
    assert torch.allclose(counted.strength, wanted, rtol=1e-4)
    assert torch.equal(counted.count, (acts > 0).sum(dim=0))


def test_the_longest_projections_are_those_that_pass() -> None:
    x = residuals()
    double = untrained_sae(trained(), x, seed=0)
    projections, active = x @ double.W_dec.T, double.encode(x) > 0
    lowest_on = torch.where(active, projections, torch.inf).amin(dim=0)
    highest_off = torch.where(active, -torch.inf, projections).amax(dim=0)
    assert (lowest_on > highest_off).all()


def test_frequency_holds_on_other_residuals_of_the_kind() -> None:
    sae, x = trained(), residuals(2000)
    double = untrained_sae(sae, x[:1000], seed=0)
    wanted = (sae.encode(x[:1000]) > 0).double().mean(dim=0)
    found = (double.encode(x[1000:]) > 0).double().mean(dim=0)
    # Five standard errors of a share, of which the cut's own place is one more sample. Where none
    # or all passed, over 20 of 1,000 others do otherwise with a chance of 2^-21.
    assert ((found - wanted).abs() <= 5 * (wanted * (1 - wanted) / 500).sqrt() + 0.02).all()


def test_it_is_a_tied_jumprelu_sae_of_unit_directions_that_names_nothing_of_the_trained() -> None:
    sae = trained("topk")
    double = untrained_sae(sae, residuals(), seed=0)
    assert (double.activation, double.k, double.layer, double.d_sae) == ("jumprelu", None, 3, D_SAE)
    assert torch.equal(double.W_enc.T, double.W_dec)
    assert torch.allclose(double.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-3)
    assert torch.equal(double.W_dec, double.W_dec.to(STORED).float())
    assert (double.neuronpedia_id, double.published_l0, double.unit) == (None, None, "as stored")
    cosines = torch.nn.functional.cosine_similarity(double.W_dec, sae.W_dec)
    assert abs(float(cosines.mean())) < 5 / np.sqrt(D_IN * D_SAE)


def test_what_is_written_is_what_was_matched(tmp_path: Path) -> None:
    sae, x = trained(), residuals()
    double = untrained_sae(sae, x, seed=0)
    write_saelens(double, tmp_path / "L3", weights=STORED)
    read = load_sae(tmp_path / "L3", layer=3)
    for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold"):
        assert torch.equal(getattr(read, name), getattr(double, name))
    assert torch.equal(activity(read, x).count, activity(sae, x).count)


def test_directions_are_of_seed_block_and_index_alone() -> None:
    wide = random_directions(0, 3, 50, 8)
    assert torch.equal(wide[:20], random_directions(0, 3, 20, 8))
    for other in (random_directions(1, 3, 50, 8), random_directions(0, 4, 50, 8)):
        assert not (wide == other).all(dim=1).any()
    many = random_directions(0, 0, 4000, 8)
    # Uniform on the sphere: no mean, and the same second moment along every axis.
    assert many.mean(dim=0).abs().max() < 5 / np.sqrt(8 * 4000)
    assert torch.allclose(many.T @ many / 4000, torch.eye(8) / 8, atol=0.01)


def test_prompts_with_one_residual_cannot_be_told_apart() -> None:
    sae = trained()
    x = residuals(2)[[0, 0, 0, 1]]
    counts = untrained_sae(sae, x, seed=0).encode(x) > 0
    assert set(counts.sum(dim=0).tolist()) <= {0, 1, 3, 4}


def test_one_residual_is_refused() -> None:
    with pytest.raises(ValueError, match="on two residuals or more, not 1"):
        untrained_sae(trained(), residuals(1), seed=0)


def test_residuals_are_met_in_batches() -> None:
    sae, x = dataclasses.replace(trained(), release="r"), residuals(1100)
    found = activity(sae, x)
    acts = sae.encode(x)
    assert torch.equal(found.count, (acts > 0).sum(dim=0))
