"""What the figures of a layer mean: fit, doubtful or unfit, and every threshold with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from igds.doctor.examine import LayerFigures
from igds.doctor.prompts import Bos

Level = Literal["unfit", "cannot tell", "doubtful", "fit"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""Worst first."""

VARIANCE_FIT = 0.5
"""Explained variance on tokens: released residual SAEs reach 0.7 to 0.9 on text like their own and
lose some on other models and text. Under a half, most of the block is in no feature."""
VARIANCE_UNFIT = 0.2
"""Under a fifth it is as good as another block's SAE."""
READ_FIT, READ_UNFIT = 0.25, 0.0
"""Explained variance at t*. It is lower there, as prompts with one cue differ little at it: the
quickstart's SAEs, which find features that work, have 0.4 to 0.6. At 0 the features say no more
of what sets one prompt apart than the mean prompt does."""
L0_FACTOR = 3.0
"""l0 on tokens against the published one: text changes it by less than this, a wrong scale, hook
or threshold by more."""
BLOCK_GAIN = 0.05
"""Explained variance by which another block must beat the SAE's own. Neighbours are alike, and an
SAE still fits its own best; both are measured on the same tokens."""
SCALE_GAIN, SCALE_FACTOR = 0.1, 1.5
"""The same for another input scale. More features pass a threshold at a larger scale, which helps
a little at any SAE: a missing scale gains more, and is further from 1."""
STABILITY_FIT = 0.5
"""Rank correlation between cue and paraphrases, median of the paraphrases, of the steadiest feature
that could be used: under a half the ranking of a pool says more of the cue's words than of the
rows. The median over all features is lower, as most recalled features belong to the template."""

FEW = 16
"""Different prompts under which nothing that compares prompts counts against a layer: chance alone
gives a rank correlation a standard error of over a quarter then, half of `STABILITY_FIT`, and a
share of 0.8 one of a tenth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of one layer."""

    layer: int
    """Decoder block."""
    level: Level
    """The worst of its reasons; fit without any."""
    reasons: tuple[str, ...]
    """Why it is not fit, worst first."""


def judge(
    figures: LayerFigures, bos: Bos, *, mixed_pool: bool, different: tuple[int, int]
) -> Verdict:
    """Return the verdict on one layer.

    Args:
        figures: what was measured.
        bos: how prompts begin.
        mixed_pool: whether features must tell task from control prompts.
        different: different prior and control prompts that were read.
    """
    few, few_controls = map(_too_few, different, ("prior", "control"))
    at_read = _variance("the read position", figures.read, READ_FIT, READ_UNFIT)
    found = [
        *_misplaced(figures),
        *_variance("the prompts' tokens", figures.tokens, VARIANCE_FIT, VARIANCE_UNFIT),
        *_untold(few or _too_alike(figures), at_read),
        *_bos(figures, bos),
        *_l0(figures),
        *_untold(few, _recalled(figures)),
        *(_untold(few or few_controls, _specific(figures)) if mixed_pool else ()),
        *_untold(few, _steady(figures, mixed_pool)),
    ]
    found.sort(key=lambda reason: LEVELS.index(reason[0]))
    return Verdict(
        layer=figures.layer,
        level=found[0][0] if found else "fit",
        reasons=tuple(text for _, text in found),
    )


_Reason = tuple[Level, str]


def _misplaced(figures: LayerFigures) -> Iterator[_Reason]:
    """Yield a wrong block or a missing input scale, whichever explains more."""
    here = figures.layer
    blocks = {block: -1.0 if value is None else value for block, value in figures.blocks.items()}
    own, scale = blocks[here], figures.scale
    best = max(blocks, key=blocks.__getitem__)
    factor = max(scale.scale, 1 / scale.scale)
    floor = max(VARIANCE_UNFIT, own + BLOCK_GAIN)
    if best != here and blocks[best] >= max(floor, scale.explained_variance):
        kind = "OFF BY ONE BLOCK" if abs(best - here) == 1 else "WRONG BLOCK"
        yield (
            "unfit",
            f"{kind}: this SAE explains {blocks[best]:.2f} of block {best} and {own:.2f} of block "
            f"{here}, for which it is configured. Blocks count from 0 and an SAE reads a block's "
            f"output, blocks.{best}.hook_resid_post; mend its hook name",
        )
    elif (
        scale.explained_variance >= max(VARIANCE_UNFIT, own + SCALE_GAIN) and factor >= SCALE_FACTOR
    ):
        yield (
            "unfit",
            f"INPUT SCALE MISSING: this SAE explains {scale.explained_variance:.2f} of residuals "
            f"times about {scale.scale:.3g} and {own:.2f} of them as they are (sqrt(d_model) over "
            f"their mean norm is {scale.unit_scale:.3g}). Fold the scale into the weights: W_enc "
            "times it, W_dec and b_dec divided by it",
        )


def _too_few(different: int, prompts: str) -> str | None:
    """Return why prompts of a kind say nothing, None when they are enough."""
    if different >= FEW:
        return None
    return f"too few prompts to tell: {different} different {prompts} prompts, and it takes {FEW}"


def _too_alike(figures: LayerFigures) -> str | None:
    """Return why prior prompts alone say nothing of an SAE, None when they do.

    Where they differ little, what an SAE leaves out anywhere is more than that: the quickstart's
    explain 0.4 to 0.5 of GSM8K at t*, and nothing of 24 prompts that differ by a name and a number.
    """
    if figures.across is None or figures.across < READ_FIT:
        return None
    return (
        f"the prior prompts are too alike to tell: explained variance at the read position is "
        f"{figures.across:.2f} over prior and control prompts together"
    )


def _untold(why: str | None, reasons: Iterable[_Reason]) -> Iterable[_Reason]:
    """Return the reasons or, where there is a reason that they say nothing, that before each."""
    return reasons if why is None else [("cannot tell", f"{why}; {text}") for _, text in reasons]


def _variance(
    place: str, quality: Mapping[str, float | None], fit: float, unfit: float
) -> Iterator[_Reason]:
    value = quality["explained_variance"]
    if value is None:
        yield "unfit", f"the residuals at {place} do not vary: nothing to explain"
    elif value <= unfit:
        yield "unfit", f"explained variance at {place} is {value:.2f}, not above {unfit}"
    elif value < fit:
        yield "doubtful", f"explained variance at {place} is {value:.2f}, under {fit}"


def _bos(figures: LayerFigures, bos: Bos) -> Iterator[_Reason]:
    if bos.surplus:
        yield (
            "unfit",
            f"DOUBLED BOS: {bos.surplus} prompts have more than one {bos.token}, and `igds run` "
            f"refuses them: take it out of the template or the rows; as {bos.example!r}",
        )
    if figures.prepend_bos is None or bos.token is None:
        return
    if figures.prepend_bos and not bos.leads:
        yield "doubtful", f"trained on texts led by a BOS, and no {bos.token} leads the prompts"
    elif bos.leads and not figures.prepend_bos:
        yield "doubtful", f"trained on texts without a BOS, and {bos.token} leads the prompts"


def _l0(figures: LayerFigures) -> Iterator[_Reason]:
    stated, found = figures.published_l0, figures.tokens["l0"]
    if stated and found is not None and not stated / L0_FACTOR <= found <= stated * L0_FACTOR:
        yield "doubtful", f"{found:.1f} features are active a token, the release states {stated:g}"


def _recalled(figures: LayerFigures) -> Iterator[_Reason]:
    if not figures.cue.features:
        yield "unfit", "no feature is active on enough prior prompts to be recalled"


def _specific(figures: LayerFigures) -> Iterator[_Reason]:
    features = figures.cue.features
    if features and not any(feature.specific for feature in features):
        yield "unfit", "the pool is mixed, and no feature tells task from control prompts"


def _steady(figures: LayerFigures, mixed_pool: bool) -> Iterator[_Reason]:
    usable = [feature for feature in figures.cue.features if feature.specific or not mixed_pool]
    found = [f.stability if mixed_pool else f.task_stability for f in usable]
    stability = [value for value in found if value is not None]
    if stability and max(stability) < STABILITY_FIT:
        yield (
            "doubtful",
            "the ranking changes with the cue's words: of the features that could be used, the "
            f"steadiest has a rank correlation of {max(stability):.2f} with the paraphrases, under "
            f"{STABILITY_FIT}",
        )
