"""Random features in place of recalled ones: how many, which, and what is measured of them."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import planted_sae

from igds.data.seeds import seeded_bits
from igds.reading.statistics import PromptSets, feature_statistics
from igds.saes.sae import SAE
from igds.stages import recall

SETS = tuple(field.name for field in fields(PromptSets))


def wide_sae(layer: int = 1) -> SAE:
    """The planted SAE, of whose features five are always active, with forty that never are."""
    sae = planted_sae(layer)
    silent = torch.full((40,), -9.0)
    return replace(
        sae,
        W_enc=torch.cat([sae.W_enc, torch.zeros(32, 40)], dim=1),
        W_dec=torch.cat([sae.W_dec, torch.ones(40, 32)]),
        b_enc=torch.cat([sae.b_enc, silent]),
    )


def statistics(seed: int | None, *, layer: int = 1, min_frequency: float = 0.8) -> pa.Table:
    draw = torch.Generator().manual_seed(3)
    sets = {name: torch.randn(30, 32, generator=draw) for name in SETS}
    return feature_statistics(wide_sae(layer), PromptSets(**sets), min_frequency, seed)


def chosen(table: pa.Table) -> list[int]:
    return np.flatnonzero(table["recalled"].to_numpy()).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_as_many_are_drawn_as_recall_finds_whatever_their_frequency(seed: int) -> None:
    recalled = statistics(None)
    assert chosen(recalled) == [0, 1, 2, 3, 4]
    drawn = statistics(seed)
    bits = [seeded_bits(seed, "recall/random", f"L1/{index}") for index in range(46)]
    assert chosen(drawn) == sorted(np.argsort(np.array(bits, dtype=np.uint64))[:5])
    for column in ("feature", "frequency", "mean_activation", "max_activation"):
        assert drawn[column].equals(recalled[column])  # measured alike


def test_the_draw_is_of_all_features_and_follows_seed_and_block() -> None:
    drawn = [chosen(statistics(seed)) for seed in range(60)]
    assert {index for draw in drawn for index in draw} == set(range(46))
    assert len({tuple(draw) for draw in drawn}) > 50
    assert chosen(statistics(1)) == chosen(statistics(1))
    assert chosen(statistics(1)) != chosen(statistics(1, layer=2))


def test_a_lower_frequency_adds_to_the_draw() -> None:
    some, none = set(chosen(statistics(7))), chosen(statistics(7, min_frequency=1.0))
    more = set(chosen(statistics(7, min_frequency=1e-9)))
    assert len(none) <= len(some) <= len(more)
    assert set(none) <= some <= more


def test_specificity_is_that_of_the_drawn_features_alone() -> None:
    drawn = statistics(2)
    assert drawn["specificity"].is_valid().to_pylist() == drawn["recalled"].to_pylist()
    low = drawn["specificity_low"].to_numpy()[chosen(drawn)]
    silent = drawn["frequency"].to_numpy()[chosen(drawn)] == 0
    # One that is never active cannot tell task from control.
    assert (drawn["specificity"].to_numpy()[chosen(drawn)][silent] == 0.5).all()
    assert not (low[silent] > 0.5).any()


def test_the_stage_says_that_features_are_drawn_and_how_many_do_nothing() -> None:
    quality = {"L1": {"explained_variance": 0.9}}
    drawn = statistics(0)
    silent = int((drawn["frequency"].to_numpy()[chosen(drawn)] == 0).sum())
    assert silent > 0
    said = list(recall._said(drawn, quality, 300, "random"))
    words = "5 of 46 features drawn at random, as many as recall finds (L1: 5)"
    assert said == [f"recall: {words}", f"note: {silent} of them are active on no prior prompt"]
    said = list(recall._said(statistics(None), quality, 300, "frequent"))
    assert said == ["recall: 5 of 46 features recalled (L1: 5)"]
