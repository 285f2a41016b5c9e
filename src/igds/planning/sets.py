"""What a plan is counted from, and in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTokens:
    """One set of rows: those with status ok."""

    rows: int
    prompt: int
    """Prompt tokens."""
    response: int = 0
    """Response tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one step takes, at most."""

    step: str
    """Stage, and its part."""
    tokens: int | None
    """Tokens that enter the model; None where most of them run through a part of it."""
    multiply_adds: float
    """Weight arithmetic; attention scores and SAEs are left out."""
    memory: int
    """Bytes of weights and kept numbers in one worker, activations of a batch left out."""
