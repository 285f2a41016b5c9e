"""Stage 2 of the configuration: which methods score the pool, and which rows are kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from igds.config.checks import at_least, not_empty
from igds.config.inputs import Model
from igds.errors import did_you_mean

DRAWS = 5
"""Draws of a method that has chance in it: `random` is the first, `random-5` the last."""


def _drawn(*names: str) -> tuple[str, ...]:
    """Return the names with those of their further draws."""
    return tuple(
        f"{name}-{draw}" if draw > 1 else name for name in names for draw in range(1, DRAWS + 1)
    )


DRAWN = ("igds-matched", "igds-random", "random", "random-balanced", "random-matched")
"""Methods with chance in them, each with its draws; the last is for `select.method` alone."""
RANDOM_MATCHED = _drawn("random-matched")
"""Selections, not methods: random rows that resemble those of igds; for `select.method` alone."""


def scored_by(method: str) -> str:
    """Return the method whose scores a selection by this name is made from."""
    return "igds" if method in RANDOM_MATCHED else method


USE_FEATURES = (
    "igds",
    "igds-bottom",
    *_drawn("igds-matched", "igds-random"),
    "cosine",
    "probe",
)
"""Methods that are made from the task features or their block."""


def selects_by_features(method: str) -> bool:
    """Return whether a selection by this name is made from the task features or their likeness."""
    return scored_by(method) in USE_FEATURES


DENSE = ("cosine", "cosine-best", "probe")
"""Methods that part the task's prompts from the controls' by the residual alone."""
READ_PROMPTS = (*USE_FEATURES, "igds-frequency", "igds-nofilter", "cosine-best")
"""Methods that read the state at the read position, and need what recall found."""
READ_RESPONSES = ("loss", "ifd", "superfilter", "rds")
"""Methods that run the whole model over prompt and response."""
RATIOS = ("ifd", "superfilter")
"""Of those, the methods that compare a response with and without its prompt."""
KEEPS_VECTORS = "rds"
"""The method that keeps a vector a row."""
METHODS = (
    *READ_PROMPTS,
    *READ_RESPONSES,
    "zip",
    "length",
    "prompt-length",
    *_drawn("random", "random-balanced"),
)
"""Names that `score.methods` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Zip:
    """The method zip: rounds that add rows which compress badly with those already added."""

    mode: Literal["fixed", "authors"] = "fixed"
    """fixed: no row twice, any pool size, prompt and response as text. authors: as the published
    code, on the rows' printed literals: rows that were set aside come back when fewer than k1 are
    left, and those that come back count again."""
    k1: int = 10_000
    """Rows of lowest stored compression ratio that a round measures again."""
    k2: int = 200
    """Of those, the rows of lowest ratio, which the round chooses from."""
    k3: int = 100
    """Of those, the rows that the round adds."""
    rows: int | None = None
    """Rows to put in order; all when absent. The mode authors needs it: it ends with the round
    that reaches it, rows that came back counted."""

    def __post_init__(self) -> None:
        """Refuse sizes below 1, a choice that widens, and the mode authors without an end."""
        at_least(self, 1, "k1", "k2", "k3", "rows")
        if self.k2 > self.k1 or self.k3 > self.k2:
            raise ValueError(f"k3 must be at most k2 and k2 at most k1, not {self.k3}, {self.k2}")
        if self.mode == "authors" and self.rows is None:
            raise ValueError("rows is needed by the mode authors: state how many rows to reach")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Stage 2 (eq. 6): a pool score a row, by each method named."""

    methods: tuple[str, ...] = ("igds",)
    """Methods, see docs/methods.md: igds, igds-bottom, igds-matched, igds-random, igds-frequency,
    igds-nofilter, cosine, cosine-best, probe, loss, ifd, superfilter, rds, zip, length,
    prompt-length, random, random-balanced; igds-matched, igds-random, random and random-balanced
    also as further draws, random-2 to random-5."""
    aggregate: Literal["auto", "raw", "folded", "zscore", "delta_weighted"] = "auto"
    """Sum over task features of raw activations (the paper), of activations times decoder norm, of
    z scores over the prior prompts, or of z scores weighted by S2 delta; auto is raw for one
    feature, folded for more. One feature ranks alike by all of them."""
    model: Model | None = None
    """Model of loss, ifd, superfilter and rds; the identification model when absent."""
    superfilter_model: Model | None = None
    """Small model of superfilter; when absent that of loss and ifd, and one pass serves all."""
    marker: str | None = None
    """What stands before a response without its prompt (ifd, superfilter), as `Solution:`; the
    template's text behind its last line break or place when absent. Chat prompts need it."""
    max_length: int | None = None
    """Most tokens of prompt and response (loss, ifd, superfilter, rds): what is over is cut off
    the response; the model's context when absent."""
    balance: str = "source"
    """What random-balanced takes equal numbers of: source, the file a row came from, or a column of
    the pool's rows."""
    zip: Zip = field(default_factory=Zip)
    """The method zip."""

    def __post_init__(self) -> None:
        """Refuse no method, an unknown one, and one named twice."""
        not_empty(self, "methods", "balance")
        at_least(self, 2, "max_length")
        for where in ("model", "superfilter_model"):
            model = getattr(self, where)
            if model is not None:
                model.trains_none(where)
        for name, count in Counter(self.methods).items():
            if name in RANDOM_MATCHED:
                raise ValueError(f"methods has no {name}: it is for select.method, beside igds")
            if name not in METHODS:
                raise ValueError(f"methods has no method {name!r}; {did_you_mean(name, METHODS)}")
            if count > 1:
                raise ValueError(f"methods names {name} {count} times")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much to keep: exactly one of the three."""

    ratio: Decimal | None = None
    """Share of the pool's ok rows, over 0 to 1, resolved in decimal arithmetic."""
    rows: int | None = None
    """Number of rows."""
    tokens: int | None = None
    """Prompt and response tokens in the words of the run (not of `finetune.template`), counted by
    the tokenizer of the model to be trained."""

    def __post_init__(self) -> None:
        """Refuse none or several of the three, and values out of range."""
        given = [name for name in ("ratio", "rows", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none"
            raise ValueError(f"takes exactly one of ratio, rows, tokens; got {got}")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be over 0 and at most 1, not {self.ratio}")
        at_least(self, 1, "rows", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """Of the best rows, keep those that stand for the others: greedy facility location."""

    column: str
    """Where the rows' vectors are: rds, those which that method keeps (name it in `score.methods`),
    or a column of the pool's rows that holds lists of numbers, all of one length."""
    candidates: Decimal = Decimal(2)
    """How many times the budget of best rows enter the choice, 1 or more; where that is the whole
    pool, the pool score decides nothing."""

    def __post_init__(self) -> None:
        """Refuse an empty name, and fewer candidates than rows to keep."""
        not_empty(self, "column")
        at_least(self, 1, "candidates")


@dataclass(frozen=True, slots=True, kw_only=True)
class Select:
    """Which rows are kept."""

    budget: Budget = field(default_factory=lambda: Budget(ratio=Decimal("0.2")))
    """How much to keep."""
    method: str = "igds"
    """Whose pool score ranks the rows; one of `score.methods`. Or random-matched (to
    random-matched-5): random rows that resemble what igds selects in length and source."""
    unique: Literal["row", "none"] = "row"
    """row: of exact duplicates only the first may be chosen."""
    per_prompt: Literal["all", "one"] | int = "all"
    """Most rows chosen of those with one prompt, the first in rank order: all, one, or a number."""
    stratify: str | None = None
    """Share the budget over strata in proportion to their rows and rank within each: length
    (tenths of the pool by prompt tokens), source, or a column of the pool's rows."""
    diversity: Diversity | None = None
    """Choose among more of the best rows than are kept, within each stratum; by rank alone when
    absent."""

    def __post_init__(self) -> None:
        """Refuse a number of rows below 1."""
        if self.per_prompt not in ("all", "one"):
            at_least(self, 1, "per_prompt")

    @property
    def reads_vectors(self) -> bool:
        """Return whether it needs the vectors that a method keeps."""
        return self.diversity is not None and self.diversity.column == KEEPS_VECTORS

    @property
    def scored(self) -> tuple[str, ...]:
        """Return the methods it is made from: the one that ranks, and one that keeps vectors."""
        ranking = scored_by(self.method)
        return tuple(dict.fromkeys([ranking, *([KEEPS_VECTORS] if self.reads_vectors else [])]))
