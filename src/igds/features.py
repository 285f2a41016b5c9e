"""Names and numbers of SAE features: frozen values, no behaviour beyond printing and parsing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_FEATURE = re.compile(r"L(\d+)/(\d+)")
_TOGETHER = "+"


@dataclass(frozen=True, slots=True, order=True)
class FeatureId:
    """One SAE feature inside a run, printed `L14/11575`."""

    layer: int
    """Decoder block whose output the SAE reads, counted from 0."""
    index: int
    """Column of `W_enc` and row of `W_dec`, counted from 0."""

    def __str__(self) -> str:
        """Return the name used in tables, columns and on the command line."""
        return f"L{self.layer}/{self.index}"

    @classmethod
    def parse(cls, text: str) -> FeatureId:
        """Return the feature named by `L<layer>/<index>`.

        Raises:
            ValueError: the text has another form.
        """
        match = _FEATURE.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is not a feature name: write L<layer>/<index>, as L14/11575"
            )
        return cls(int(match[1]), int(match[2]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRef:
    """One SAE feature outside of its run: numbers mean nothing without the SAE that they count."""

    release: str
    """Name of the SAE's release, or its place."""
    revision: str
    """sha256 of the SAE's settings and weights."""
    layer: int
    """As in `FeatureId`."""
    index: int
    """As in `FeatureId`."""


def feature_ids(features: Sequence[FeatureId | str]) -> list[FeatureId]:
    """Return the features of a list that may name them in text, as `L14/11575`.

    Raises:
        ValueError: it is one feature in place of a list, it is empty, or an entry is no feature.
    """
    if isinstance(features, str | FeatureId):
        raise ValueError("features is one feature: give a list, as ['L14/11575']")
    if not len(features):
        raise ValueError("features is empty: give at least one, as ['L14/11575']")
    return [_feature_id(place, feature) for place, feature in enumerate(features)]


def _feature_id(place: int, feature: object) -> FeatureId:
    if isinstance(feature, FeatureId):
        return feature
    try:
        return FeatureId.parse(str(feature))
    except ValueError as error:
        raise ValueError(f"features[{place}]: {error}") from error


def group_name(features: Iterable[str]) -> str:
    """Return the name of features that are amplified together: `L9/1839+L15/12`."""
    return _TOGETHER.join(features)


def is_group(name: str) -> bool:
    """Return whether a name is that of a group, not of one feature."""
    return _TOGETHER in name
