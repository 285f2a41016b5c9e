from __future__ import annotations

import random

import pytest

from igds.data.seeds import seeded_bits, seeded_unit
from igds.data.splits import SPLITS, split_validation
from igds.errors import RequestError

SIZES = {"S1": 20, "S2": 30, "S3": 10}


def chosen(keys: list[str], seed: int = 0) -> dict[str, set[str]]:
    places = split_validation(keys, seed, SIZES)
    return {name: {keys[i] for i in found} for name, found in places.items()}


def test_sizes_and_disjointness() -> None:
    splits = split_validation([f"r{i}" for i in range(80)], 0, SIZES)
    assert {name: len(found) for name, found in splits.items()} == SIZES
    assert splits.keys() == SPLITS.keys()
    assert len({i for found in splits.values() for i in found}) == 60
    assert all(found == sorted(found) for found in splits.values())


def test_split_follows_the_key_not_the_order() -> None:
    keys = [f"r{i}" for i in range(80)]
    shuffled = random.Random(1).sample(keys, len(keys))
    assert chosen(keys) == chosen(shuffled)
    assert chosen(keys) != chosen(keys, seed=1)


def test_equal_keys_are_used_once() -> None:
    keys = [f"r{i % 60}" for i in range(200)]
    used = [i for found in split_validation(keys, 0, SIZES).values() for i in found]
    assert sorted(used) == list(range(60))


def test_too_few_rows() -> None:
    said = (
        r"59 different usable rows, but intervene.screen_rows 20 \+ intervene.order_rows 30 \+ "
        "intervene.confirm_rows 10 asks for 60"
    )
    with pytest.raises(RequestError, match=said):
        split_validation([f"r{i}" for i in range(59)] * 2, 0, SIZES)


def test_seeded_numbers_are_pinned() -> None:
    assert seeded_bits(0, "splits", "a") == 8443752248874460112
    assert seeded_unit(0, "splits", "a") == 0.4577367266079526


def test_seeded_numbers_are_uniform_and_apart() -> None:
    draws = [seeded_unit(seed, "s", str(i)) for seed in range(10) for i in range(1000)]
    assert len(set(draws)) == len(draws)
    assert all(0 <= draw < 1 for draw in draws)
    assert abs(sum(draws) / len(draws) - 0.5) < 0.02
    assert seeded_bits(1, "1", "x") != seeded_bits(11, "", "x")
