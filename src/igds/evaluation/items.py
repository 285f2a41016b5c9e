"""What is measured of each held-out row, and the prompts that rows become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from igds.config.training import Evaluate
from igds.data.seeds import seeded_bits
from igds.data.templates import Template, parse_template, render_row
from igds.data.tokens import encode_prompts, encode_responses
from igds.errors import RequestError
from igds.tasks.base import Task, answer_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("row_id", "status", "prompt", "prompt_hash", "response", "fields")
"""Index columns that items are made from."""

ITEMS = pa.schema(
    [
        pa.field("model", pa.string()),
        pa.field("item", pa.string()),
        pa.field("cluster", pa.string()),
        pa.field("metric", pa.string()),
        pa.field("sample", pa.int64()),
        pa.field("value", pa.float64()),
        pa.field("tokens", pa.int64()),
        pa.field("finished", pa.bool_()),
        pa.field("text", pa.string()),
    ]
)
"""Columns of `evaluate/items.parquet`, one row a model, item, metric and sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldRow:
    """A held-out row for one model: prompt and gold response as its tokens; plain JSON values."""

    row_id: str
    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    """Without EOS."""
    answer: Sequence[int] | None
    """First token of the final answer in the response and the token after its last."""


def gold_rows(
    rows: pa.Table, tokenizer: PreTrainedTokenizerBase, task: Task, *, chat: bool, context: int
) -> list[GoldRow]:
    """Return the rows whose gold response fits into the context behind its prompt.

    Args:
        rows: `COLUMNS` of rows with status ok and a response.
        tokenizer: of the model.
        task: may mark the final answer.
        chat: whether a chat template rendered the prompts.
        context: most tokens of prompt and response.
    """
    prompts, texts = rows["prompt"].to_pylist(), rows["response"].to_pylist()
    ids = encode_prompts(tokenizer, prompts, chat=chat)
    after = list(zip(prompts if chat else [""] * len(rows), ids, strict=True))
    responses = encode_responses(tokenizer, texts, after if chat else [])
    found = []
    for place, row_id in enumerate(rows["row_id"].to_pylist()):
        if not responses[place] or len(ids[place]) + len(responses[place]) > context:
            continue
        head = after[place] if chat else ("", ())
        answer = answer_tokens(task, tokenizer, texts[place], head)
        found.append(
            GoldRow(
                row_id=row_id, prompt_ids=ids[place], response_ids=responses[place], answer=answer
            )
        )
    return found


def generation_prompts(
    rows: pa.Table, examples: pa.Table | None, settings: Evaluate, template: Template, seed: int
) -> list[str]:
    """Return the text that the model goes on from, for each row.

    Args:
        rows: `COLUMNS` of the rows.
        examples: `COLUMNS` of rows with responses, to draw `shots` from.
        settings: may name another template, and examples.
        template: of the run.
        seed: of the draw; it is the same for every row.

    Raises:
        RequestError: there are too few examples, or a row lacks a field of the template.
    """
    if settings.template is None and not settings.shots:
        return rows["prompt"].to_pylist()
    own = parse_template(settings.template) if settings.template is not None else template
    head = _shots(examples, settings, own, seed) if settings.shots else ""
    asked = rows.select(["row_id", "fields"]).to_pylist()
    return [head + render_row(own, row, "evaluate.template") for row in asked]


def _shots(examples: pa.Table | None, settings: Evaluate, template: Template, seed: int) -> str:
    """Return the header and the examples, each with a blank line after it."""
    known = [] if examples is None else examples.to_pylist()
    if len(known) < settings.shots:
        raise RequestError(
            f"evaluate.shots {settings.shots}: data.validation has {len(known)} rows with responses"
        )
    known.sort(key=lambda row: (seeded_bits(seed, "evaluate/shots", row["row_id"]), row["row_id"]))
    shown = [
        render_row(template, row, "evaluate.template") + row["response"]
        for row in known[: settings.shots]
    ]
    return settings.shots_header + "".join(f"{shot}\n\n" for shot in shown)
