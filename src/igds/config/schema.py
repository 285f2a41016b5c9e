"""The whole configuration: each field is written here once, with its type, default and meaning.

YAML keys, command-line overrides (`--recall.min-frequency 0.9`) and the reference page derive from
these classes. A stage whose section is absent is not run.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from igds.config.checks import at_least, finite, not_empty
from igds.config.experiment import Experiment
from igds.config.inputs import SAE, Data, Model, Prompts, Task
from igds.config.scoring import (
    DENSE,
    KEEPS_VECTORS,
    READ_PROMPTS,
    USE_FEATURES,
    Score,
    Select,
)
from igds.config.training import Evaluate, Finetune
from igds.errors import did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Stage 1a (eq. 2): features active on most task prompts."""

    min_frequency: float = 0.8
    """Smallest share of prior prompts, 0-1, on which a recalled feature is active (tau)."""
    candidates: Literal["frequent", "random"] = "frequent"
    """Features that go on to interventions. frequent: those of that frequency. random: of each SAE
    as many as are of that frequency, drawn by the seed from all of its features, even those that no
    prompt activates: a control, which asks what recall is worth."""

    def __post_init__(self) -> None:
        """Refuse a share out of range."""
        if not 0 < self.min_frequency <= 1:
            raise ValueError(
                f"min_frequency must be over 0 and at most 1, not {self.min_frequency}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervene:
    """Stage 1b (eq. 3-5): recalled features whose amplification helps."""

    mode: Literal["rigorous", "paper"] = "rigorous"
    """rigorous: the funnel over three splits, on what `metric` says. paper: every recalled feature
    on generated outputs and the task's score, one split, top K by mean delta; always
    UNCONFIRMED."""
    rule: Literal["amplify", "clamp", "ablate"] = "amplify"
    """What is done to a feature. amplify: add its own contribution, `coefficient` times. clamp: set
    its activation to the largest at the read position of the prior prompts, also where it is
    inactive. ablate: set it to 0; for the paper mode, which then ranks by how much the score
    falls."""
    position: Literal["read", "generated", "all"] = "read"
    """Where the state is edited. read: at the read position only. generated: there and at every
    token of the response, by the feature's activation at each. all: at every token of the prompt
    too, its first included; the prompt cannot be shared then, so this costs most. The paper mode
    measures read and generated and ranks by this one."""
    screen: Literal["attribution", "integrated"] = "attribution"
    """Estimate that chooses who is measured exactly. attribution: by the gradient at the state as
    it is, one backward pass a prompt for all blocks. integrated: by its mean along the edit of all
    of a block's features together, in 10 steps; 10 passes a prompt and block."""
    metric: Literal["logprob", "task_score"] = "logprob"
    """What deltas of S2 and S3 are of in the rigorous mode: the gold responses' likelihood, or the
    task's score of generated outputs, once a pilot of the unedited model says that it informs (else
    the run goes on on likelihood and says so). The paper mode always takes the task's score."""
    max_new_tokens: int = 256
    """Longest generated output, tokens (paper mode and metric task_score)."""
    samples: int = 1
    """Outputs a prompt and feature, whose mean score counts; more than one needs a temperature."""
    temperature: float = 0.0
    """0 decodes greedily; over 0 samples, with the same noise for every feature."""
    pass_k: int | None = None
    """Also report the change of pass@k, for tasks that score 0 or 1; needs more samples than k."""
    coefficient: float = 1.0
    """Multiple of the feature's own contribution that is added, over 0; for rule amplify."""
    screen_rows: int = 100
    """Validation rows of split S1: gradient screen, then exact deltas. Changing the size of any of
    the three splits makes recall run again, since rows of S3 stay sealed from it."""
    order_rows: int = 100
    """Validation rows of split S2: exact deltas that fix the order. Changing it makes recall run
    again."""
    confirm_rows: int = 100
    """Validation rows of split S3: confirmation. Changing it makes recall run again."""
    screen_keep: int = 48
    """Features, best by the screen on S1, that get exact deltas on S1."""
    screen_check: int = 12
    """Features that the screen left out, drawn over all of its ranks, that get exact deltas on S1
    too: they show what it misses, and go on to S2 when they are good enough."""
    exact_keep: int = 16
    """Features, best by exact delta on S1, that go on to S2."""
    confirm_n: int = 10
    """Features, first in S2 order, measured and tested as one family on S3."""
    controls: int = 99
    """Amplitude-matched controls of each kind, on S3, for each feature that could be chosen: 19 or
    more, as it must exceed the 95th percentile of two kinds. 0 draws none and confirms nothing."""
    top_k: int = 1
    """Task features to use (K), at most. Several are confirmed one by one, and then together."""
    across: Literal["frozen", "live"] = "frozen"
    """Activation that scales a task feature behind the first block, when several are amplified
    together: that of the clean run, or computed again after the edits of the blocks below."""
    budget: int | None = None
    """Most that the stage may run, in tokens through the whole model (forward equivalents, as
    `igds plan` counts them; rigorous mode); no limit when absent. The funnel must fit as a whole;
    controls beyond those of `top_k` features are drawn while they fit. What is measured
    in another model that will be trained (`model.train_id`) is not in it."""
    delta_min: float = 0.0
    """Smallest delta worth having, nats per response token, or task score where that is the
    metric."""
    allow_unconfirmed: bool = False
    """Go on with the first usable features in S2 order when none is confirmed; everything made from
    them is stamped UNCONFIRMED. The default is false; `igds init` writes true, so that a first
    run reaches its page whatever is confirmed. The paper mode goes on in any case."""

    def __post_init__(self) -> None:
        """Refuse an edit of nothing and a funnel that widens."""
        finite(self, "coefficient", "delta_min", "temperature")
        if self.coefficient <= 0:
            raise ValueError(f"coefficient must be over 0, not {self.coefficient}: it amplifies")
        at_least(self, 1, "screen_rows", "order_rows", "confirm_rows", "top_k")
        at_least(self, 1, "max_new_tokens", "samples", "pass_k", "budget")
        at_least(self, 0, "screen_check", "controls", "temperature")
        if self.rule != "amplify" and self.coefficient != 1:
            raise ValueError(f"coefficient is for rule: amplify; {self.rule} takes none")
        if self.mode == "rigorous" and self.rule == "ablate":
            raise ValueError(
                "rule ablate is for mode: paper. The rigorous mode asks which features help when "
                "they are raised, and ablates those as one of their doses"
            )
        if self.mode == "paper" and self.position == "all":
            raise ValueError(
                "position all is for mode: rigorous. The paper mode decodes all features from one "
                "run of the prompt, which this position would have each run for itself"
            )
        self._check_outputs()
        if 0 < self.controls < 19:
            raise ValueError(f"controls must be 0 or at least 19, not {self.controls}")
        funnel = ("screen_keep", "exact_keep", "confirm_n", "top_k")
        for wide, narrow in itertools.pairwise(funnel):
            if getattr(self, narrow) > getattr(self, wide):
                raise ValueError(
                    f"{narrow} must be at most {wide}, {getattr(self, wide)}, "
                    f"not {getattr(self, narrow)}"
                )

    def _check_outputs(self) -> None:
        """Refuse what generated outputs cannot be."""
        if self.mode == "paper" and self.budget is not None:
            raise ValueError("budget is for mode: rigorous")
        if self.generates and self.budget is not None:
            raise ValueError("budget is for metric: logprob, as generated outputs are not counted")
        if self.generates and self.position == "all":
            raise ValueError("position all is for metric: logprob, as outputs share their prompt")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples over 1 are all the same at temperature 0: raise it")
        if self.mode == "rigorous" and self.metric == "task_score" and self.top_k > 1:
            raise ValueError("metric task_score confirms one feature: set top_k to 1")
        if self.pass_k is not None and self.pass_k >= self.samples:
            raise ValueError(
                f"pass_k {self.pass_k} needs more samples than that, not {self.samples}: pass@k "
                "from k samples is one coin flip a prompt"
            )
        if self.pass_k is not None and not self.generates:
            raise ValueError("pass_k is for mode: paper, or metric: task_score")

    @property
    def generates(self) -> bool:
        """Return whether outputs are generated."""
        return self.mode == "paper" or self.metric == "task_score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The HTML page."""

    rows: int = 5
    """Best, borderline and worst rows shown, each."""

    def __post_init__(self) -> None:
        """Refuse a page without rows."""
        at_least(self, 1, "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Where and how the work runs; beyond rounding, only `device` (by an auto dtype) counts."""

    executor: Literal["local", "ray"] = "local"
    """Where shards run. local: processes on this machine. ray is refused: it comes in a later
    release."""
    workers: int = 1
    """Worker processes."""
    threads: int | None = None
    """Threads a worker; all cores divided by the workers when absent."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:0, map, mps. auto is cuda, then mps, then cpu; with cuda each worker
    takes a GPU of its own in turn; map spreads one model over all GPUs (needs accelerate)."""
    batch_tokens: int = 4096
    """Padded tokens a forward batch; fixed by the plan, never by free memory."""
    shard_rows: int = 512
    """Pool rows a shard, the unit of resume."""
    vllm_memory: float = 0.9
    """Share of the GPU's memory that vLLM takes (`evaluate.vllm_python`), over 0 to 1; on a CPU of
    main memory, of which so much must be free."""

    def __post_init__(self) -> None:
        """Refuse sizes below 1, a share that is none and an unknown device."""
        at_least(self, 1, "workers", "threads", "batch_tokens", "shard_rows")
        if not 0 < self.vllm_memory <= 1:
            raise ValueError(f"vllm_memory must be over 0 and at most 1, not {self.vllm_memory}")
        if not re.fullmatch(r"auto|cpu|map|mps|cuda(:\d+)?", self.device):
            raise ValueError(
                f"device must be auto, cpu, cuda, cuda:0, map or mps, not {self.device!r}"
            )
        if self.device == "map" and self.workers > 1:
            raise ValueError("device map is one model on all GPUs: set workers to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run."""

    name: str
    """Name of the run and of its folder."""
    model: Model
    """The identification model, whose features are read."""
    saes: tuple[SAE, ...]
    """One SAE a decoder block."""
    data: Data
    """The rows."""
    task: Task = field(default_factory=Task)
    """The task."""
    prompts: Prompts = field(default_factory=Prompts)
    """Templates."""
    recall: Recall | None = None
    """Stage 1a."""
    intervene: Intervene | None = None
    """Stage 1b."""
    score: Score | None = None
    """Stage 2: pool scores."""
    select: Select | None = None
    """Stage 2: selection."""
    finetune: Finetune | None = None
    """Training on the selection."""
    evaluate: Evaluate | None = None
    """Measures of the model that was trained."""
    report: Report | None = None
    """The page."""
    experiment: Experiment | None = None
    """A comparison of arms; `igds experiment` alone reads it."""
    runtime: Runtime = field(default_factory=Runtime)
    """Where and how the work runs."""
    runs_dir: str = "runs"
    """Folder in which the run folder `<name>` is made."""
    seed: int = 0
    """Root of every random stream."""

    def __post_init__(self) -> None:
        """Refuse a name that is no folder name, and two SAEs for one block."""
        if not re.fullmatch(r"\w[\w. -]*", self.name) or self.name != self.name.strip():
            raise ValueError(
                f"name must be a plain folder name of letters, digits and . _ - , not {self.name!r}"
            )
        not_empty(self, "saes", "runs_dir")
        at_least(self, 0, "seed")
        layers = Counter(sae.layer for sae in self.saes if sae.layer is not None)
        for layer, count in layers.items():
            if count > 1:
                raise ValueError(f"saes names {count} SAEs for block {layer}: one a block")
        if self.data.has_chat and not self.prompts.chat_template:
            raise ValueError("prompts needs chat_template: true, as data has rows of messages")
        quotas = any(source.quota is not None for source in self.data.pool)
        if quotas and self.select and self.select.diversity:
            raise ValueError(
                "select.diversity does not go with a quota in data.pool, which leaves nothing to "
                "choose from: share the budget by select.stratify: source"
            )

    def check_stages(self, stages: Collection[str]) -> None:
        """Refuse stages whose inputs no section makes; what other stages lack does not matter.

        Args:
            stages: those that are to run, each with a section of its own.

        Raises:
            ValueError: as said.
        """
        methods = set(self.score.methods) if self.score else set()
        uses_features = methods & set(USE_FEATURES)
        prompts, dense = (", ".join(sorted(methods & set(of))) for of in (READ_PROMPTS, DENSE))
        tested = self.evaluate and (self.evaluate.model or self.evaluate.original)
        reads = self.evaluate and self.evaluate.activations
        needs_test = self.evaluate and self.evaluate.reads_rows
        shots = self.evaluate and self.evaluate.shots
        needs = (
            ("intervene", "recall", self.recall),
            ("intervene", "data.validation", self.data.validation),
            ("score", "data.pool", self.data.pool),
            ("score", "intervene", self.intervene or not uses_features),
            ("score", f"recall (for {prompts})", self.recall or not prompts),
            ("score", f"data.control (for {dense})", self.data.control or not dense),
            (
                "score",
                "data.validation (for cosine-best)",
                self.data.validation or "cosine-best" not in methods,
            ),
            ("select", "score", self.score),
            ("finetune", "select", self.select),
            ("evaluate", "data.test", self.data.test or not needs_test),
            ("evaluate", "finetune (or model)", self.finetune or tested),
            ("evaluate", "data.validation", self.data.validation or not shots),
            ("evaluate", "intervene (for activations)", self.intervene or not reads),
        )
        for stage, need, given in needs:
            if stage in stages and not given:
                raise ValueError(f"{stage} needs the section {need}")
        if "select" not in stages or self.select is None or self.score is None:
            return
        method, needed = self.select.method, self.select.scored[0]
        if needed not in self.score.methods:
            raise ValueError(
                f"select.method is {method!r}, and score.methods does not name {needed!r}; "
                f"{did_you_mean(needed, self.score.methods)}"
            )
        if self.select.reads_vectors and KEEPS_VECTORS not in self.score.methods:
            raise ValueError(
                f"select.diversity.column is {KEEPS_VECTORS}, whose vectors are made when "
                "score.methods names it"
            )
