"""What the report shows of a run: frozen values, as the stages wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from igds.config.scoring import READ_PROMPTS
from igds.features import FeatureId


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A number with the ends of its interval; NaN where it was not measured."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """One recalled feature as the recall stage measured it."""

    id: FeatureId
    frequency: float
    """Share of prior prompts on which it is active, 0-1."""
    control_frequency: float
    """The same on rows of other tasks in the task's template, 0-1."""
    mean_activation: float
    max_activation: float
    specificity: Interval
    """AUROC of its activation, task against control prompts, 0-1."""
    template_specificity: float
    """AUROC, task rows in the task's template against task rows in other templates, 0-1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """One SAE, and how well it fits at the read position."""

    release: str
    revision: str
    """Content hash of its settings and weights."""
    neuronpedia_id: str | None
    """Its name on neuronpedia.org, as `gemma-2-2b/14-gemmascope-res-16k`."""
    explained_variance: float
    l0: float
    dead_share: float
    edge_cases: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """The recall stage."""

    candidates: str
    """`frequent`; or `random`, where features were drawn in place of those that are recalled."""
    features: dict[FeatureId, Recalled]
    """Recalled features only, by layer and index."""
    per_layer: dict[int, int]
    """Block -> number of recalled features, zeros included."""
    measured: int
    """Features whose frequency was measured, all SAEs together."""
    highest_frequency: float
    quality: dict[int, Quality]
    """Block -> quality of its SAE."""

    @property
    def drawn(self) -> bool:
        """Return whether the features were drawn at random."""
        return self.candidates == "random"

    @property
    def silent(self) -> int:
        """Return how many of the features are active on no prior prompt."""
        return sum(feature.frequency == 0 for feature in self.features.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Generated outputs under one feature beside the unedited ones, means over prompts."""

    changed: int
    """Prompts whose output changed."""
    task_score: float
    original_score: float
    tokens: float
    original_tokens: float
    broken: float
    """Share of outputs that never ended or hold nothing the task can judge, 0-1."""
    original_broken: float
    side_effects: str
    """What goes with a gain: longer, shorter, fewer broken; empty when nothing does."""
    pass_k: Interval
    """Change of pass@k; NaN unless asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word that an edit made more frequent in outputs."""

    word: str
    log_ratio: float
    """Base-2 logarithm of how much more frequent, smoothed."""
    outputs: int
    """Edited outputs that contain it."""
    original_outputs: int
    """Unedited ones."""
    n: int
    """Outputs of either side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One feature's edit on one split, in nats per response token, or as task score."""

    n: int
    """Prompts of the split."""
    active: int
    """Prompts on which the feature is active: only a clamp does anything on the others."""
    metric: str
    """logprob or task_score."""
    rule: str
    """amplify, clamp or ablate."""
    position: str
    """read, generated or all."""
    coefficient: float
    push: float
    """Length of what was added at t* over that of the state."""
    kl: float
    """KL(unedited || edited) of the next token at t*, nats."""
    neutral_perplexity_ratio: float
    """Edited over unedited; NaN where it was not measured."""
    delta: Interval
    contrast: Interval
    """Delta minus the delta on another row's response."""
    without_first_5: Interval
    """Delta on the response without its first five tokens."""
    answer: Interval
    """Delta on the final answer's tokens; NaN when the task marks none."""
    label: str
    p_family: float
    """Family-wise p on S3, 0-1; NaN on other splits."""
    q: float
    """Benjamini-Hochberg over the same family, 0-1; NaN on other splits."""
    logprob: Interval
    """Teacher-forced delta, nats, where `delta` is the task score's; NaN elsewhere."""
    outputs: Outputs | None
    """What was generated; None where nothing was."""

    @property
    def likelihood(self) -> Interval:
        """Return the delta in nats, as controls and doses have it; NaN in the paper mode."""
        return self.delta if self.metric == "logprob" else self.logprob


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What one amplitude-matched push did on S3."""

    kind: str
    """decoder, residual, isotropic, mean, difference or dose."""
    coefficient: float
    delta: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervene:
    """The intervention stage."""

    outcome: str
    """`none`, or how sure the task features are."""
    reason: str
    task_features: tuple[FeatureId, ...]
    order: tuple[FeatureId, ...]
    """Features measured on S2, best first."""
    effects: dict[tuple[FeatureId, str], Effect]
    """(feature, split) -> effect; in the paper mode (feature, position)."""
    judged_by: str
    """Second part of the key whose delta is quoted: S3, or the position in the paper mode."""
    refused: dict[FeatureId, str]
    """Features passed over before the choice was made -> why."""
    screen_spearman: float
    """Rank agreement of the gradient screen with the exact deltas on S1, -1 to 1."""
    screen_checked: int
    """Features that the screen left out but were measured."""
    screen_missed: int
    """Of those, as good as what went on to S2."""
    screen_missed_high: float
    """Upper end of that share, 0-1; NaN when none was checked."""
    split_half_spearman: float
    """Rank agreement of the S2 deltas between halves of its prompts, -1 to 1."""
    top_share: float
    """Share of bootstrap draws of S2 in which the best feature stays the best."""
    two_sided: dict[FeatureId, bool]
    """Task feature -> whether amplification helps and ablation harms; none without its doses."""
    controls: dict[FeatureId, tuple[Control, ...]]
    """Feature that could be chosen -> its controls."""
    group: str | None
    """Name of the task features as they were amplified together; None of fewer than two."""
    joint: Effect | None
    """What they do together on S3."""
    reread: str
    """What must be said of a split S3 that other plans read before; else empty."""
    spent: int | None
    """Forward equivalents that the stage ran; None in the paper mode."""
    budget: int | None
    """Most that it might run; None without a limit."""
    promoted: dict[FeatureId, tuple[tuple[str, float], ...]]
    """Tokens that the decoder row raises most, with their logits."""
    judged_on: str
    """likelihood, task score, or `likelihood, not on task score`."""
    pilot: dict[str, Any] | None
    """What the unedited model's outputs said of the task's score; None without any."""
    words: dict[tuple[FeatureId, str], tuple[Word, ...]]
    """(feature, position) -> words that the edit makes more frequent, most risen first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """One task feature in the model that will be trained."""

    frequency: float
    control_frequency: float
    specificity: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The task features in the model that will be trained."""

    model: str
    reason: str
    """Why they could not be measured there; empty when they were."""
    features: dict[FeatureId, Transferred]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The selection: its columns in pool order, and the facts the stage recorded."""

    score: Float[np.ndarray, " rows"]
    """Pool score, NaN where there is none."""
    selected: Bool[np.ndarray, " rows"]
    prompt_tokens: Float[np.ndarray, " rows"]
    """Prompt tokens, NaN where the prompt was never tokenized."""
    method: str
    budget: dict[str, Any]
    diversity: dict[str, Any] | None
    """How rows were chosen among the best; None by rank alone."""
    scored: int
    """Rows with a pool score."""
    n_selected: int
    sources: tuple[tuple[str, int, int], ...]
    """Name, rows and selected rows of each source, where there are several."""
    reasons: dict[str, int]
    """Why rows were chosen or left out -> rows."""
    cut: float
    """Lowest pool score that was selected."""
    tied_at_cut: int
    """Rows whose pool score is the cut."""
    tied_at_cut_selected: int
    share_zero: float
    """Share of pool scores that are exactly 0."""
    spearman_prompt_length: float
    """Rank correlation of pool score and prompt tokens, -1 to 1; NaN when one is constant."""

    @property
    def reads_prompts_alone(self) -> bool:
        """Return whether rows were chosen by their prompts, without a look at a response."""
        return self.diversity is None and self.method in (*READ_PROMPTS, "prompt-length")

    @property
    def candidates(self) -> int:
        """Return how many of the best rows a diverse choice was made among."""
        return self.n_selected + self.reasons.get("diversity", 0)

    @property
    def cut_in_tie(self) -> bool:
        """Return whether rows of one score were parted by the cut."""
        return 0 < self.tied_at_cut_selected < self.tied_at_cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The activations of one feature along one prompt."""

    feature: FeatureId
    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRow:
    """One row of the pool that the report shows token by token."""

    row_id: str
    group: str
    source: str
    ordinal: int
    response: str | None
    pool_score: float
    rank: int | None
    selected: bool
    reason: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The fine-tuning."""

    summary: dict[str, Any]
    """What the stage recorded; of another trainer's engine its notes."""
    steps: Int[np.ndarray, " updates"]
    loss: Float[np.ndarray, " updates"]
    """Nats a token of the response, of the rows of each update before it."""
    learning_rate: Float[np.ndarray, " updates"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A mean over held-out items."""

    mean: Interval
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The evaluation."""

    models: dict[str, dict[str, Measured]]
    """Model -> metric -> mean."""
    differences: dict[str, Measured]
    """Metric -> tuned minus original, item by item."""
    facts: dict[str, Any]
    """What else the stage recorded."""

    @property
    def metrics(self) -> list[str]:
        """Return every metric, in the order recorded."""
        return list(dict.fromkeys(name for means in self.models.values() for name in means))


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All that the report shows of one run; None for a stage that has not run."""

    config: dict[str, Any]
    config_text: str
    manifest: dict[str, Any]
    index: dict[str, Any]
    recall: Recall | None
    intervene: Intervene | None
    transfer: Transfer | None
    """None when the model that was looked into is the one that will be trained."""
    methods: dict[str, dict[str, int]]
    """Scoring method -> status -> rows."""
    pool: Pool | None
    rows: tuple[ShownRow, ...]
    training: Training | None
    evaluation: Evaluation | None
