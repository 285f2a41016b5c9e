"""Prompts token by token: which tokens are drawn, how strongly, with which numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from igds.features import FeatureId
from igds.reporting import text
from igds.reporting.values import ShownRow, Strip

SHOWN_ENDS = 240
"""Tokens shown at each end of a long prompt."""
LISTED_TOKENS = 12
"""Most active tokens listed with their numbers below a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A run of a prompt's tokens drawn alike."""

    text: str
    """The tokens, made visible."""
    activation: float = 0.0
    """Activation of a single active token; 0 for a run of inactive ones."""
    heat: float = 0.0
    """Activation as a share of the scale's end, 0-1."""
    position: int = 0
    """Place of the first token, counted from 1."""
    read: bool = False
    """Whether it is the read position, t*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColouredStrip:
    """One feature's activations along one prompt, ready to draw."""

    feature: FeatureId
    n_tokens: int
    active: int
    head: list[Piece]
    omitted: int
    omitted_max: float
    tail: list[Piece]
    listed: list[Piece]
    """The most active tokens, in the prompt's order."""


def heat_scale(rows: Sequence[ShownRow]) -> dict[FeatureId, float]:
    """Return each feature's largest shown activation, first tokens apart: theirs are outliers."""
    ends: dict[FeatureId, float] = {}
    for strip in (strip for row in rows for strip in row.strips):
        largest = max(strip.activations[1:], default=0.0)
        ends[strip.feature] = max(ends.get(strip.feature, 0.0), largest)
    return ends


def colour(strip: Strip, end: float) -> ColouredStrip:
    """Return a strip with its tokens coloured on a scale from 0 to `end`.

    The middle of a long prompt is left out and counted.
    """
    pieces = [_piece(strip, place, end) for place in range(len(strip.tokens))]
    cut = len(pieces) > 2 * SHOWN_ENDS
    middle = pieces[SHOWN_ENDS:-SHOWN_ENDS] if cut else []
    active = [piece for piece in pieces if piece.activation > 0]
    top = sorted(active, key=lambda piece: -piece.activation)[:LISTED_TOKENS]
    return ColouredStrip(
        feature=strip.feature,
        n_tokens=len(pieces),
        active=len(active),
        head=_merge(pieces[:SHOWN_ENDS] if cut else pieces),
        omitted=len(middle),
        omitted_max=max((piece.activation for piece in middle), default=0.0),
        tail=_merge(pieces[-SHOWN_ENDS:]) if cut else [],
        listed=sorted(top, key=lambda piece: piece.position),
    )


def _piece(strip: Strip, place: int, end: float) -> Piece:
    activation = strip.activations[place]
    return Piece(
        text=strip.tokens[place],
        activation=activation,
        heat=round(min(1.0, activation / end), 2) if end > 0 else 0.0,
        position=place + 1,
        read=place == len(strip.tokens) - 1,
    )


def _merge(pieces: Sequence[Piece]) -> list[Piece]:
    """Return pieces as drawn, neighbouring inactive ones joined."""
    merged: list[Piece] = []
    for piece in pieces:
        shown = text.token(piece.text)
        plain = piece.activation <= 0 and not piece.read
        if plain and merged and merged[-1].activation <= 0:
            before = merged.pop()
            merged.append(Piece(text=before.text + shown, position=before.position))
        else:
            merged.append(replace(piece, text=shown))
    return merged
