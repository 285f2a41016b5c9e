"""Costs of the stages from counts alone: tokens of each set, the model's sizes, the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from igds.config.schema import Config, Intervene
from igds.interventions.controls import DOSES, MATCHED

BACKWARD = 2
"""A backward pass costs about two forward passes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A model in numbers."""

    n_blocks: int
    """Decoder blocks."""
    block_parameters: int
    """Weights a token is multiplied with in a block (all experts of a mixture count)."""
    head_parameters: int
    """Weights of the language-modelling head."""
    d_model: int
    """Width of the residual stream."""
    vocab: int
    """Rows of the embedding."""
    bytes_a_weight: int
    """2 or 4."""

    @property
    def forward(self) -> int:
        """Return the arithmetic of a token through all blocks and the head, in multiply-adds."""
        return self.n_blocks * self.block_parameters + self.head_parameters


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
    """What one step takes."""

    step: str
    """Stage, and its part."""
    tokens: int
    """Tokens that enter the model."""
    multiply_adds: float
    """Weight arithmetic; attention scores and SAEs are left out."""
    memory: int
    """Bytes of weights and kept numbers in one worker, activations of a batch left out."""


def stage_costs(
    config: Config, sizes: Sizes, sets: Mapping[str, SetTokens], sae_widths: Mapping[int, int]
) -> list[Cost]:
    """Return the costs of the stages that the configuration has, in run order.

    Where a cost depends on what is found, features are taken to sit at the first SAE block and the
    pool to be read up to the last; controls are those of one feature. The few unedited rows beside
    the candidates are left out.

    Args:
        config: the run.
        sizes: of the identification model.
        sets: set -> its rows and tokens; `control_other` and `task_other` are renderings of the
            control and the task rows in other templates.
        sae_widths: block -> features of its SAE.
    """
    depth = max(sae_widths) + 1
    cut = depth * sizes.block_parameters
    weights = (cut + sizes.vocab * sizes.d_model) * sizes.bytes_a_weight
    costs = []
    if config.recall:
        names = ("prior", "validation", "control", "control_other", "task_other")
        read = [sets[name] for name in names if name in sets]
        tokens = sum(one.prompt for one in read)
        residuals = sum(one.rows for one in read) * sizes.d_model * 4 * len(sae_widths)
        saes = max(sae_widths.values()) * sizes.d_model * 4 * 2
        memory = max(weights, residuals + saes)
        costs.append(
            Cost(step="recall", tokens=tokens, multiply_adds=float(tokens * cut), memory=memory)
        )
    if config.intervene and "validation" in sets and sets["validation"].rows:
        costs += _intervene_costs(config.intervene, sizes, sets["validation"], sae_widths)
    if config.score and "pool" in sets:
        tokens = sets["pool"].prompt
        costs.append(
            Cost(step="score", tokens=tokens, multiply_adds=float(tokens * cut), memory=weights)
        )
    return costs


def _intervene_costs(
    settings: Intervene, sizes: Sizes, validation: SetTokens, sae_widths: Mapping[int, int]
) -> list[Cost]:
    """Return the costs of the screen and of each split's exact deltas, or of generated outputs."""
    prompt = validation.prompt / validation.rows
    response = validation.response / validation.rows
    first = min(sae_widths)
    # behind the edit every candidate runs for itself, and so does the head
    branch = (sizes.n_blocks - first) * sizes.block_parameters + sizes.head_parameters
    weights = sizes.n_blocks * sizes.block_parameters + sizes.vocab * sizes.d_model
    memory = weights * sizes.bytes_a_weight

    if settings.mode == "paper":
        outputs = validation.rows * 2 * settings.samples * settings.max_new_tokens
        return [
            Cost(
                step="intervene: generated outputs, a recalled feature",
                tokens=outputs,
                multiply_adds=float(outputs * sizes.forward),
                memory=memory,
            )
        ]

    def exact(step: str, rows: int, candidates: int, responses: int) -> Cost:
        tokens = rows * candidates * responses * response
        prefix = rows * (prompt + responses * response) * sizes.forward
        return Cost(
            step=f"intervene: {step}",
            tokens=round(tokens + rows * prompt),
            multiply_adds=tokens * branch + prefix,
            memory=memory,
        )

    screen = settings.screen_rows * (prompt + (1 + BACKWARD) * response)
    doses = sum(dose != settings.coefficient for dose in DOSES)
    controls = len(MATCHED) * settings.controls + 2 + doses
    return [
        Cost(
            step="intervene: gradient screen on S1",
            tokens=round(settings.screen_rows * (prompt + response)),
            multiply_adds=screen * sizes.forward,
            memory=memory,
        ),
        exact("exact on S1", settings.screen_rows, settings.screen_keep + settings.screen_check, 1),
        exact("exact on S2", settings.order_rows, settings.exact_keep, 2),
        exact("exact on S3", settings.confirm_rows, settings.confirm_n, 2),
        exact(
            f"{'controls' if settings.controls else 'doses'} on S3, a feature",
            settings.confirm_rows,
            controls,
            1,
        ),
    ]


def forward_equivalents(cost: Cost, sizes: Sizes) -> float:
    """Return the cost in tokens that run once through the whole model."""
    return cost.multiply_adds / sizes.forward
