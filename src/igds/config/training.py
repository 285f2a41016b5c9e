"""Settings of what follows the selection: fine-tuning, and the evaluation of what it made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from igds.config.checks import at_least, finite, not_empty
from igds.config.inputs import DType
from igds.errors import did_you_mean

TRACKERS = ("tensorboard", "wandb", "trackio")
"""Names that `finetune.trackers` takes, each that of its Python module."""
PASSES = ("device_batch", "gradient_checkpointing", "checkpoint_steps", "trackers")
"""Settings that change a training's rounding alone, and the draws of `lora.dropout`: they may
differ between the cells of an experiment."""
LAYOUT = (*PASSES, "processes", "accelerate_config")
"""Settings of where and how igds's own training runs: a killed run may go on with others."""
RESPONSE = "{response}"
"""Place of the gold response in `finetune.response`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Low-rank adapters, trained in place of all weights."""

    rank: int = 16
    """Rank of the two factors."""
    alpha: int = 32
    """The product of the factors is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is dropped while it is trained, 0 to under 1."""
    targets: tuple[str, ...] = ("all-linear",)
    """Names of the modules that get adapters, as q_proj; all-linear is every one but the head."""

    def __post_init__(self) -> None:
        """Refuse sizes below 1, a dropout out of range and no target."""
        at_least(self, 1, "rank", "alpha")
        not_empty(self, "targets")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and under 1, not {self.dropout}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetune:
    """Supervised fine-tuning of `model.train_id`, or else `model.id`, on the selected rows.

    The loss is over response and EOS alone.
    """

    engine: Literal["trl", "llamafactory", "axolotl"] = "trl"
    """trl trains here; the others write data and YAML, and print the command that trains."""
    lora: Lora | None = None
    """Train adapters and merge them at the end; `{}` takes the defaults. Absent: all weights."""
    equal: Literal["rows", "tokens", "steps"] = "rows"
    """What runs that are compared have in common: rows, each trained on `epochs` times, or `tokens`
    or `steps` whatever the number of rows: all rows in a new order again and again until then."""
    epochs: float = 1.0
    """Times that each row is trained on; a fraction takes that share of the next pass."""
    tokens: int | None = None
    """Prompt and response tokens to train on, for `equal: tokens`; it stops before the first row
    that does not fit."""
    steps: int | None = None
    """Updates, for `equal: steps`."""
    template: str | None = None
    """Prompt template of training, with `{field}` places; it needs no cue. That of the run when
    absent, and always in chat prompts."""
    response: str | None = None
    """What is learned, `{response}` being the gold response without the space it begins with:
    `Solution: {response}` trains on a cue too. The gold response as it stands when absent."""
    learning_rate: float = 2e-5
    """Highest learning rate, over 0."""
    batch: int = 64
    """Rows an update, over all devices."""
    device_batch: int = 8
    """Most rows a forward pass on one device; times `processes` it must divide `batch`."""
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls after its warm-up: to 0, or not at all."""
    warmup: float = 0.1
    """Share of the updates, 0 to under 1, rounded down, over which the learning rate rises from
    0."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_tokens: int = 2048
    """Longest row, tokens; of a longer one the end of the response is cut off, EOS too. A row whose
    prompt leaves no room for a response is left out, and counted."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Autocast of forward and backward; weights and updates are float32 in any case."""
    gradient_checkpointing: bool = False
    """Compute activations twice to keep fewer of them."""
    checkpoint_steps: int = 100
    """Updates between two checkpoints, from which a killed run goes on."""
    processes: int = 1
    """Processes, one a GPU, started by `accelerate launch` when there are several."""
    accelerate_config: str | None = None
    """File of `accelerate config`, for FSDP or DeepSpeed; `accelerate launch` is then used."""
    trackers: tuple[str, ...] = ()
    """Where the loss is sent too: tensorboard (into the run folder), wandb, trackio."""

    def __post_init__(self) -> None:
        """Refuse values out of range, and settings that do not go together."""
        finite(self, "learning_rate", "epochs", "warmup", "weight_decay")
        at_least(self, 1, "tokens", "steps", "batch", "device_batch", "max_tokens")
        at_least(self, 1, "checkpoint_steps", "processes")
        at_least(self, 0, "weight_decay")
        for name in ("learning_rate", "epochs"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be over 0, not {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must be at least 0 and under 1, not {self.warmup}")
        if self.response is not None and self.response.count(RESPONSE) != 1:
            raise ValueError(f"response needs the place {RESPONSE} once, not {self.response!r}")
        if self.engine != "trl":
            self._check_engine()
        self._check_amounts()
        if self.batch % (self.forward_batch * self.processes):
            raise ValueError(
                f"batch {self.batch} is no multiple of {self.forward_batch} (device_batch) times "
                f"{self.processes} (processes)"
            )
        for name in self.trackers:
            if name not in TRACKERS:
                raise ValueError(f"trackers has {name!r}; {did_you_mean(name, TRACKERS)}")

    def _check_amounts(self) -> None:
        """Refuse an amount that `equal` does not go by, and the want of one that it does."""
        for name in ("tokens", "steps"):
            if (self.equal == name) != (getattr(self, name) is not None):
                raise ValueError(f"{name} and equal: {name} go together")

    def _check_engine(self) -> None:
        """Refuse what another trainer would not be told."""
        if self.equal == "tokens":
            raise ValueError("equal: tokens needs engine: trl")
        if self.template is not None or self.response is not None:
            raise ValueError("template and response need engine: trl")
        if self.accelerate_config is not None:
            raise ValueError("accelerate_config needs engine: trl; other trainers take their own")
        if self.trackers and self.engine == "axolotl":
            raise ValueError("trackers are not written for axolotl: set them in its YAML")

    @property
    def forward_batch(self) -> int:
        """Return the rows of a forward pass on one device."""
        return max(1, min(self.device_batch, self.batch // self.processes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """Measures on `data.test`, and benchmarks, of the fine-tuned model."""

    original: bool = False
    """Evaluate the model as it was before fine-tuning too, and pair the two row by row."""
    model: str | None = None
    """A model that was fine-tuned elsewhere, in place of the run's own; written as `model.id`."""
    likelihood: bool = True
    """Measure the log-probability of gold responses, and of their final answers."""
    generate: bool = True
    """Generate responses and judge them by the task's score."""
    activations: bool = False
    """Read the task features at the read position of the held-out prompts, in these models."""
    samples: int = 1
    """Responses a prompt; more than one needs a temperature."""
    temperature: float = 0.0
    """0 decodes greedily; over 0 samples."""
    top_p: float = 1.0
    """Smallest share of probability to sample from, over 0 to 1."""
    max_new_tokens: int = 512
    """Longest response, tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end a response beside the EOS, as the next problem after examples."""
    pass_at: tuple[int, ...] = ()
    """Each k of pass@k, below `samples`; for scores of 0 and 1."""
    template: str | None = None
    """Prompt template of generated responses, not of chat prompts; that of the run when absent."""
    shots: int = 0
    """Examples before each prompt, not in chat prompts: rows of `data.validation` by a seeded draw,
    in this template."""
    shots_header: str = ""
    """Text before the examples."""
    vllm_python: str | None = None
    """Python of an environment with vllm: generate responses by it, on a GPU."""
    comet_python: str | None = None
    """Python of an environment with unbabel-comet: judge translations by COMET too."""
    comet_checkpoint: str = "Unbabel/wmt22-comet-da"
    """COMET model: a name on the Hub, or a .ckpt file."""
    lm_eval: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, as mmlu or truthfulqa_mc2."""
    lm_eval_path: str | None = None
    """Folder with YAML of further tasks of your own."""
    lm_eval_limit: int | None = None
    """Documents of each of these tasks, the first."""
    dtype: DType = "auto"
    """Weights of the models; auto is float32 on CPU, bfloat16 elsewhere, the same for both."""

    @property
    def decoding(self) -> dict[str, float | int] | None:
        """Return how responses are generated, by the names of the settings; None where none are."""
        names = ("samples", "temperature", "top_p", "max_new_tokens", "shots")
        return {name: getattr(self, name) for name in names} if self.generate else None

    @property
    def measures(self) -> Evaluate:
        """Return what results depend on: that another Python is used, not where it is."""
        return replace(
            self,
            vllm_python=self.vllm_python and "vllm",
            comet_python=self.comet_python and "comet",
        )

    @property
    def reads_rows(self) -> bool:
        """Return whether rows of `data.test` are measured, not benchmarks alone."""
        return self.likelihood or self.generate or self.activations

    def __post_init__(self) -> None:
        """Refuse nothing to do, values out of range, and samples that are all the same."""
        at_least(self, 1, "samples", "max_new_tokens", "lm_eval_limit")
        at_least(self, 0, "temperature", "shots")
        finite(self, "temperature")
        if not (self.reads_rows or self.lm_eval):
            raise ValueError(
                "likelihood, generate, activations and lm_eval are all off: nothing to measure"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be over 0 and at most 1, not {self.top_p}")
        if self.vllm_python is not None and 0 < self.temperature < 0.01:
            raise ValueError("temperature must be 0 or at least 0.01 where vLLM generates")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("samples over 1 are all the same at temperature 0: raise it")
        for k in self.pass_at:
            if not 1 <= k < self.samples:
                raise ValueError(f"pass_at has {k}: it must be at least 1 and below samples")
        if not self.generate:
            for name in ("pass_at", "vllm_python", "comet_python", "shots", "stop", "template"):
                if getattr(self, name):
                    raise ValueError(f"{name} is about generated responses: set generate: true")
