"""How prompts of different lengths share forward passes."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return batches of positions in `lengths`, shortest prompts first.

    A batch holds at most `batch_tokens` tokens, padding included; a longer prompt is alone in its
    batch. The plan depends on nothing else, so that it is the same wherever it runs.
    """
    batches: list[list[int]] = []
    # Lengths rise, so the newest prompt sets the width of its batch.
    for position in sorted(range(len(lengths)), key=lambda position: (lengths[position], position)):
        if not batches or (len(batches[-1]) + 1) * lengths[position] > batch_tokens:
            batches.append([])
        batches[-1].append(position)
    return batches
