"""Settings of an experiment: which arms are trained and measured, on how much, and how often."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from igds.config.checks import at_least, not_empty
from igds.config.scoring import DRAWN, DRAWS, METHODS, RANDOM_MATCHED, Budget, Select
from igds.errors import did_you_mean

ORIGINAL, FULL = "original", "full"
"""Arms that select nothing: the model as it was, and the whole pool."""
BUDGET = Select().budget
"""Default budget of a grid's part."""


def split_arm(arm: str) -> tuple[str, str | None]:
    """Return the method of an arm, and its variant: `igds@untrained` has both."""
    method, at, variant = arm.partition("@")
    return method, variant if at else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """A difference that was declared before it was looked at: one test of the Holm family."""

    arm: str
    """The arm that should be better."""
    against: str
    """The arm it is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Arms at one budget, each trained and measured `seeds` times."""

    arms: tuple[str, ...]
    """Methods, `original` (the model as it was, once), `full` (the whole pool), or a method under a
    variant, as igds@untrained."""
    budget: Budget = BUDGET
    """How much each arm but those two keeps."""
    seeds: int = 1
    """Trainings of an arm, by the run's seed and those after it; a method with chance in it takes a
    further draw each time, of which there are five."""
    contrasts: tuple[Contrast, ...] = ()
    """Declared differences between arms of this part."""
    published: dict[str, float] = field(default_factory=dict)
    """Arm -> what a paper reports of it, shown beside what is measured."""

    def __post_init__(self) -> None:
        """Refuse no arm, one named twice, and contrasts of arms that are not there."""
        at_least(self, 1, "seeds")
        not_empty(self, "arms")
        for arm, count in Counter(self.arms).items():
            if count > 1:
                raise ValueError(f"arms names {arm} {count} times")
        for arm in self.arms:
            _check_arm(arm)
            if self.seeds > DRAWS and split_arm(arm)[0] in DRAWN:
                raise ValueError(f"seeds must be at most {DRAWS}, the draws of {arm}")
        sides = [("contrasts", arm) for c in self.contrasts for arm in (c.arm, c.against)]
        for name, arm in (*sides, *(("published", arm) for arm in self.published)):
            if arm not in self.arms:
                raise ValueError(
                    f"{name} names {arm!r}, which is no arm of this part; "
                    f"{did_you_mean(arm, self.arms)}"
                )
        for contrast in self.contrasts:
            if contrast.arm == contrast.against:
                raise ValueError(f"contrasts compares {contrast.arm!r} with itself")


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A comparison of arms: each is selected, fine-tuned and evaluated by the run's sections."""

    grid: tuple[Grid, ...]
    """What is trained, part by part."""
    variants: dict[str, str] = field(default_factory=dict)
    """Name -> other settings, written as on the command line: `--saes.0.path untrained/L9`."""
    primary: str = "logprob"
    """Metric of the declared contrasts: logprob, logprob_answer, task_score, pass@8, comet, or that
    of a benchmark, as `mmlu: acc`."""
    results: str | None = None
    """Folder of finished cells' items, from the config file; what is there counts as done.
    `results` in the run folder when absent."""
    keep_models: bool = False
    """Keep the weights of every cell once it is measured."""

    def __post_init__(self) -> None:
        """Refuse an empty grid, variants that are not there, and arms given twice at a budget."""
        not_empty(self, "grid", "primary")
        for name in self.variants:
            if not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(
                    f"variants has {name!r}: letters, digits and . _ - only, as it names folders"
                )
        for arm in {arm for part in self.grid for arm in part.arms}:
            _, variant = split_arm(arm)
            if variant is not None and variant not in self.variants:
                raise ValueError(
                    f"grid names {arm!r}, and variants has no {variant!r}; "
                    f"{did_you_mean(variant, tuple(self.variants))}"
                )
        for one, other in itertools.combinations(self.grid, 2):
            if one.budget == other.budget and (both := set(one.arms) & set(other.arms)):
                raise ValueError(f"grid names {min(both)} twice at one budget")

    @property
    def arms(self) -> Iterator[str]:
        """Return every arm once, in the order of the grid."""
        return iter(dict.fromkeys(arm for part in self.grid for arm in part.arms))


def _check_arm(arm: str) -> None:
    """Refuse a method that there is not, one draw of a method, and a variant of no training."""
    method, variant = split_arm(arm)
    known = (*METHODS, *RANDOM_MATCHED, ORIGINAL, FULL)
    if method not in known:
        raise ValueError(f"arms has no method {method!r}; {did_you_mean(method, known)}")
    if re.search(r"-\d$", method):
        raise ValueError(f"arms names one draw, {method!r}: name the method, its seeds draw anew")
    if method == ORIGINAL and variant is not None:
        raise ValueError(f"arms has {arm!r}: the model as it was has no variant")
