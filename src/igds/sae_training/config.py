"""The configuration of `igds saes train`: each field is written here once, with its meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from igds.config.checks import at_least, finite, not_empty
from igds.config.inputs import Model
from igds.data import templates


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """One source of open text."""

    name: str
    """Name in tables and records."""
    license: str
    """Licence of the text, recorded with the SAEs."""
    url: str
    """Where anyone can fetch it."""
    path: str
    """File or glob below `text_root`: .jsonl, .csv, .tsv (no header, `\\n` marks a line break),
    .eng (a text a line), or plain .txt, which is cut into passages. A .gz ending is fine."""
    tokens: int
    """Tokens to take from this source; fewer when it has fewer."""
    templates: tuple[str, ...] = ("{text}",)
    """Forms in which a row is shown: each row in one of them, then in another while tokens are
    left. The first is that of held-out rows; that of a read source ends in a cue."""
    columns: dict[str, str] = field(default_factory=lambda: {"text": "text"})
    """Field of the templates -> column of the file; a number, from 0, for .tsv."""
    passage_words: int = 120
    """Words a passage of a .txt file."""
    encoding: str = "utf-8"
    """Character encoding of the files."""

    def __post_init__(self) -> None:
        """Refuse counts under 1 and a source without a form.

        Raises:
            ValueError: as said.
        """
        at_least(self, 1, "tokens", "passage_words")
        not_empty(self, "templates")


@dataclass(frozen=True, slots=True, kw_only=True)
class SAETraining:
    """One training run: one pass of the model, then one SAE a block."""

    model: Model
    """The model whose residual stream is described."""
    layers: tuple[int, ...]
    """Decoder blocks, from 0, whose outputs get an SAE each."""
    text_root: str
    """Folder that the paths of the sources start from."""
    sources: tuple[TextSource, ...]
    """The text."""
    exclude: tuple[str, ...] = ()
    """JSONL files of rows that must not be trained on: a text that shares a row, a line or a run
    of 13 words (each Chinese or Japanese sign is one) with them, by hash, is left out."""
    output: str
    """Folder in which `L<layer>` folders are written."""
    cache: str
    """Folder of the captured residuals, 2 bytes a number; kept, so that a killed run goes on."""
    d_sae: int = 4096
    """Features an SAE."""
    architecture: Literal["topk", "batchtopk", "matryoshka", "jumprelu"] = "topk"
    """How sparsity is reached. topk gives every token the same number of features; the others give
    them where the error is largest, and few to read positions, which are much alike. matryoshka is
    batchtopk whose first features also reconstruct alone."""
    matryoshka_widths: tuple[int, ...] = ()
    """Features of each level of a matryoshka SAE, rising to d_sae; an eighth, a quarter, a half and
    all of d_sae when absent."""
    decoder: Literal["trained", "frozen"] = "trained"
    """frozen makes a control: the decoder stays at random unit directions, one a feature by the
    seed, to which the encoder is tied at the start, and all else is trained as before."""
    l0: float = 32
    """Features active a token: exactly (k of topk) or on average (k of batchtopk and matryoshka,
    target of jumprelu)."""
    context: int = 256
    """Most tokens a text; longer passages are cut, longer rows left out."""
    epochs: float = 1
    """Passes over the captured residuals."""
    batch: int = 1024
    """Residuals an optimizer step."""
    lr: float = 1e-3
    """Learning rate of Adam; it falls to 0 over the last fifth of the steps."""
    read_weight: int = 25
    """Times a residual at the end of a prompt (a template that ends in a cue) is shown an epoch:
    features are read there, but it is one token of a prompt."""
    max_norm: float = 10
    """Residuals of more than this many median norms are left out: attention sinks, mostly the
    first token, where no feature is read."""
    holdout: int = 100
    """Rows of each source kept from training to measure quality."""
    read_sources: tuple[str, ...]
    """Sources whose held-out rows measure quality at the read position."""
    batch_tokens: int = 4096
    """Padded tokens a forward batch of the model."""
    threads: int | None = None
    """Threads; torch decides when absent."""
    seed: int = 0
    """Root of every random stream."""

    def __post_init__(self) -> None:
        """Refuse values out of range and names that match nothing.

        Raises:
            ValueError: as said.
        """
        self.model.trains_none("igds saes train")
        names = [source.name for source in self.sources]
        unknown = sorted(set(self.read_sources) - set(names))
        if unknown or not self.read_sources:
            raise ValueError(f"read_sources {unknown}: name some of {names}")
        if len(set(names)) < len(names) or len(set(self.layers)) < len(self.layers):
            raise ValueError("names of sources and layers must each be unique")
        if not self.layers or min(self.layers) < 0:
            raise ValueError("layers must name decoder blocks, from 0")
        at_least(self, 1, "d_sae", "context", "batch", "read_weight", "holdout")
        at_least(self, 1, "batch_tokens", "threads")
        finite(self, "l0", "epochs", "lr", "max_norm")
        for name in ("l0", "epochs", "lr", "max_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be over 0, not {getattr(self, name)}")
        read = [source for source in self.sources if source.name in self.read_sources]
        if all(templates.Template(text=one.templates[0]).ends_in_place for one in read):
            raise ValueError(
                f"read_sources {[source.name for source in read]}: the first template of one of "
                "them must end in a cue, as '{text}\\nAnswer:', where features are read"
            )
        widths = self.matryoshka_widths
        if widths and self.architecture != "matryoshka":
            raise ValueError(f"matryoshka_widths are for matryoshka, not for {self.architecture}")
        if widths and (list(widths) != sorted(set(widths)) or widths[-1] != self.d_sae):
            raise ValueError(
                f"matryoshka_widths must rise to d_sae, {self.d_sae}, not {list(widths)}"
            )
