"""The cells of an experiment: arm, budget and seed, and the configuration of each."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from igds.config.experiment import FULL, ORIGINAL, Experiment, split_arm
from igds.config.identity import chosen, digest, to_plain
from igds.config.load import changed
from igds.config.schema import Config
from igds.config.scoring import (
    DRAWN,
    READ_PROMPTS,
    USE_FEATURES,
    Budget,
    Score,
    Select,
)
from igds.config.training import PASSES
from igds.errors import RequestError
from igds.stages.context import CELL_STAGES

SHARED = "shared"
"""Name of the run that has what cells have in common; other SAEs or data have one of their own."""
COMMON_STAGES = ("recall", "intervene", "score")
"""Stages that cells have in common, beside the index."""
INPUTS = ("contents", "sae_contents", "models", "task_source", "stages")
"""Parts of a cell's identity that are no settings: rows and weights, and versions of code."""
_WHOLE = Select(budget=Budget(ratio=Decimal(1)), method="random", unique="none")
"""The whole pool, which needs no score; any that every row has will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training and its evaluation."""

    arm: str
    """As the grid names it."""
    budget: Budget | None
    """None for the model as it was, and for the whole pool."""
    seed: int
    """Number of the training, from 0."""

    @property
    def name(self) -> str:
        """Return `<arm>_<budget>_s<seed>`, the name of its folder."""
        if self.arm == ORIGINAL:
            return ORIGINAL
        budget = [budget_label(self.budget)] if self.budget else []
        return "_".join([self.arm, *budget, f"s{self.seed}"])

    @property
    def method(self) -> str:
        """Return the name of its selection: the method, and the draw that the seed takes."""
        method, _ = split_arm(self.arm)
        return f"{method}-{self.seed + 1}" if method in DRAWN and self.seed else method


def budget_label(budget: Budget) -> str:
    """Return a budget in a word: 0.2, 300rows or 50000tokens."""
    if budget.ratio is not None:
        return to_plain(budget.ratio)
    return f"{budget.rows}rows" if budget.rows is not None else f"{budget.tokens}tokens"


def cells(experiment: Experiment) -> list[Cell]:
    """Return all cells, the first seed of every arm before the second of any."""
    found = {
        (cell.seed, place, cell.name): cell
        for place, part in enumerate(experiment.grid)
        for arm in part.arms
        for cell in _seeds(arm, part.budget, part.seeds)
    }
    named = {cell.name: cell for _, cell in sorted(found.items(), key=lambda item: item[0][:2])}
    return list(named.values())


def _seeds(arm: str, budget: Budget, seeds: int) -> Iterator[Cell]:
    method, _ = split_arm(arm)
    whole = method in (ORIGINAL, FULL)
    for seed in range(1 if method == ORIGINAL else seeds):
        yield Cell(arm=arm, budget=None if whole else budget, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cells of an experiment with the configurations that make them."""

    config: Config
    """The experiment's."""
    cells: tuple[Cell, ...]
    """In the order in which they are run."""
    shared: Mapping[str, Config]
    """Name of a run that cells have in common -> its configuration."""
    shared_of: Mapping[str | None, str]
    """Variant, None for none -> the name of that run."""
    variants: Mapping[str | None, Config]
    """Variant -> the configuration it makes."""

    def cell_config(self, cell: Cell) -> Config:
        """Return the configuration of a cell's stages; its name is that of the run it goes on."""
        method, variant = split_arm(cell.arm)
        config, name = self.variants[variant], self.shared_of[variant]
        assert config.evaluate is not None, "plan_cells refuses an experiment without it"
        changes: dict[str, Any] = {
            "name": name,
            "runs_dir": f"{config.runs_dir}/{config.name}",
            "seed": config.seed + cell.seed,
            "score": self.shared[name].score,
            "evaluate": replace(config.evaluate, original=method == ORIGINAL, model=None),
            "report": None,
            "experiment": None,
        }
        if method == ORIGINAL:
            return replace(config, select=None, finetune=None, **changes)
        if cell.budget is None:  # a share of a source is not for the whole pool
            pool = tuple(replace(source, quota=None) for source in config.data.pool)
            changes["data"] = replace(config.data, pool=pool)
        return replace(config, select=_select(config, cell), **changes)

    def run_of(self, cell: Cell) -> str:
        """Return the name of the run, a key of `shared`, that a cell goes on."""
        return self.shared_of[split_arm(cell.arm)[1]]

    def shared_for(self, name: str, listed: Sequence[Cell], kept: Sequence[str] = ()) -> Config:
        """Return a run that cells have in common, with the methods that these select by alone.

        Args:
            name: of the run, a key of `shared`.
            listed: cells; those that go on other runs count for nothing.
            kept: methods that stay, whichever cells need them.
        """
        made = self.shared[name]
        if made.score is None:
            return made
        own = [cell for cell in listed if self.run_of(cell) == name]
        needed = {*_methods(own, self.variants), *kept}
        methods = tuple(method for method in made.score.methods if method in needed)
        return replace(made, score=replace(made.score, methods=methods) if methods else None)

    @property
    def experiment(self) -> Experiment:
        """Return the section of the configuration."""
        assert self.config.experiment is not None, "plan_cells refuses a configuration without it"
        return self.config.experiment


def _select(config: Config, cell: Cell) -> Select:
    """Return what a cell selects, of the configuration of its variant."""
    if cell.budget is None:
        return _WHOLE
    return replace(config.select or Select(), method=cell.method, budget=cell.budget)


def plan_cells(config: Config) -> Plan:
    """Return the cells of a configuration and what makes them.

    Raises:
        RequestError: the configuration lacks a section, or a variant is no configuration.
    """
    if config.experiment is None:
        raise RequestError("igds experiment needs the section experiment")
    listed = cells(config.experiment)
    used = sorted({split_arm(cell.arm)[1] for cell in listed}, key=lambda name: name or "")
    words = config.experiment.variants
    variants = {name: _variant(config, name, words[name]) if name else config for name in used}
    for made in variants.values():
        _check(made)
    shared, shared_of, known = {}, {}, {}
    for name in used:
        made = _shared(variants[name])
        label = known.setdefault(digest(made), f"{SHARED}-{name}" if name else SHARED)
        shared_of[name] = label
        shared[label] = made
    for label, made in shared.items():
        own = [cell for cell in listed if shared_of[split_arm(cell.arm)[1]] == label]
        measures = [variants[split_arm(cell.arm)[1]].evaluate for cell in own]
        reads = any(one.activations for one in measures if one)
        methods = _methods(own, variants)
        shared[label] = _with_methods(replace(made, name=label), methods, reads)
    # What a variant finds may end it: the cells that need no such run come first.
    listed.sort(key=lambda cell: shared_of[split_arm(cell.arm)[1]] != SHARED)
    plan = Plan(
        config=config,
        cells=tuple(listed),
        shared=shared,
        shared_of=shared_of,
        variants=variants,
    )
    for made in shared.values():
        made.check_stages([name for name in COMMON_STAGES if getattr(made, name) is not None])
    for cell in listed:
        made = plan.cell_config(cell)
        made.check_stages([name for name in CELL_STAGES if getattr(made, name) is not None])
    return plan


def _check(config: Config) -> None:
    """Refuse a configuration whose cells could not be trained, measured or compared."""
    for section in ("finetune", "evaluate"):
        if getattr(config, section) is None:
            raise RequestError(f"igds experiment needs the section {section}")
    assert config.finetune is not None and config.evaluate is not None
    assert config.experiment is not None
    if config.finetune.engine != "trl":
        raise RequestError("igds experiment trains its cells itself: set finetune.engine to trl")
    settings, primary = config.evaluate, config.experiment.primary
    measured = {
        "logprob": settings.likelihood,
        "logprob_answer": settings.likelihood,
        "feature_activation": settings.activations,
        "task_score": settings.generate,
        "comet": settings.generate and settings.comet_python is not None,
        **{f"pass@{k}": settings.generate for k in settings.pass_at},
    }
    benchmark = any(primary.startswith(f"{task}: ") for task in settings.lm_eval)
    if not measured.get(primary, benchmark):
        known = [name for name, given in measured.items() if given]
        benchmarks = [f"{task}: <metric>" for task in settings.lm_eval]
        raise RequestError(
            f"experiment.primary is {primary!r}, which evaluate does not measure; it measures "
            f"{', '.join([*known, *benchmarks])}"
        )


def _variant(config: Config, name: str, words: str) -> Config:
    where = f"experiment.variants.{name}"
    try:
        made = changed(config, shlex.split(words))
    except ValueError as error:
        raise RequestError(f"{where}: {error}") from error
    for field in ("name", "runs_dir", "experiment"):
        if getattr(made, field) != getattr(config, field):
            raise RequestError(f"{where} changes {field}, which all cells have in common")
    return made


def _shared(config: Config) -> Config:
    """Return the run of all that comes before a selection."""
    return replace(
        config,
        name=SHARED,
        runs_dir=f"{config.runs_dir}/{config.name}",
        score=replace(config.score or Score(), methods=("igds",)),
        select=None,
        finetune=None,
        evaluate=None,
        experiment=None,
    )


def _with_methods(made: Config, methods: tuple[str, ...], reads: bool) -> Config:
    """Return the run with the methods of its cells, and without recall where none needs it."""
    score = replace(made.score or Score(), methods=methods) if methods else None
    if reads or set(methods) & set(READ_PROMPTS):
        return replace(made, score=score)
    return replace(made, score=score, recall=None, intervene=None)


def _methods(listed: Sequence[Cell], variants: Mapping[str | None, Config]) -> tuple[str, ...]:
    """Return the methods that score the pool for these cells."""
    found: dict[str, None] = {}
    for cell in listed:
        if cell.arm == ORIGINAL:
            continue
        found |= dict.fromkeys(_select(variants[split_arm(cell.arm)[1]], cell).scored)
    return tuple(found)


def comparable(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a finished cell's identity today's must equal: all but `PASSES`."""
    if "finetune" not in identity:
        return dict(identity)
    trained = {name: own for name, own in identity["finetune"].items() if name not in PASSES}
    return {**identity, "finetune": trained}


def cell_identity(config: Config, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cell's numbers depend on, from its configuration; plain values.

    Args:
        config: that of the cell.
        inputs: what the parts named in `INPUTS` are; none where settings alone are asked for.
    """
    method = config.select.scored[0] if config.select else None
    assert config.evaluate is not None, "plan_cells refuses an experiment without it"
    skipped = {"name", "runs_dir", "runtime", "report", "experiment"}
    # A cell that knows no features does not depend on how they would be found.
    reads = config.evaluate.activations
    config = replace(config, evaluate=config.evaluate.measures)
    if not reads and method not in READ_PROMPTS:
        skipped |= {"recall", "saes", "sae_contents"}
    if not reads and method not in USE_FEATURES:
        skipped |= {"intervene"}
    plain = {name: value for name, value in chosen(config).items() if name not in skipped}
    if "score" in plain:
        # Which other methods are scored beside a cell's own changes nothing for it.
        unused = {"methods"} if method == "zip" else {"methods", "zip"}
        plain["score"] = {key: v for key, v in plain["score"].items() if key not in unused}
    if method is None:
        plain.pop("score", None)
    return {**plain, **{name: part for name, part in inputs.items() if name not in skipped}}
