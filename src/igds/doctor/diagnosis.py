"""The whole of what the doctor found, as objects and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from igds.doctor.examine import LayerFigures, Readings
from igds.doctor.prompts import Bos, Prompts
from igds.doctor.verdict import Verdict, judge
from igds.stats.null import or_null


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The figures and verdicts of a configuration."""

    model: str
    """Name of the model in the configuration."""
    prior_prompts: int
    """Prior rows read, in each template."""
    control_prompts: int
    """Control rows read, in each template."""
    paraphrases: int
    """Templates besides the cue; stability is not measured when there are none."""
    prompt_tokens: int
    """Tokens of the prior prompts in the cue."""
    tokens_read: int
    """Of them, those that the SAEs were measured on."""
    bos: Bos
    """How prompts begin."""
    figures: tuple[LayerFigures, ...]
    """By block."""
    verdicts: tuple[Verdict, ...]
    """By block."""

    @property
    def fit(self) -> list[int]:
        """Return the blocks worth using."""
        return [verdict.layer for verdict in self.verdicts if verdict.level == "fit"]

    @property
    def untold(self) -> list[int]:
        """Return the blocks of which the prompts are too few, or too alike, to tell."""
        return [verdict.layer for verdict in self.verdicts if verdict.level == "cannot tell"]

    def to_json(self) -> dict[str, Any]:
        """Return it all as JSON values; a number that is not finite is null."""
        return _finite({**asdict(self), "fit": self.fit})


def diagnosis(
    model: str,
    prompts: Prompts,
    readings: Readings,
    figures: list[LayerFigures],
    *,
    mixed_pool: bool,
) -> Diagnosis:
    """Return the figures with a verdict on each layer."""
    return Diagnosis(
        model=model,
        prior_prompts=len(prompts.task[0]),
        control_prompts=len(prompts.control[0]),
        paraphrases=len(prompts.task) - 1,
        prompt_tokens=sum(map(len, prompts.task[0])),
        tokens_read=len(readings.tokens_bos),
        bos=prompts.bos,
        figures=tuple(figures),
        verdicts=tuple(
            judge(one, prompts.bos, mixed_pool=mixed_pool, different=prompts.different)
            for one in figures
        ),
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return or_null(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
