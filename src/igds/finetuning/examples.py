"""From rows to what is trained on: token ids, labels on response and EOS alone, and an order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from igds.config.training import RESPONSE, Finetune
from igds.data.index import load_index
from igds.data.seeds import seeded_bits
from igds.data.templates import parse_template, render_row
from igds.data.tokens import encode_prompts, encode_responses
from igds.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that the loss leaves out."""

EXAMPLES = pa.schema(
    [
        pa.field("row_id", pa.string()),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("labels", pa.list_(pa.int32())),
        pa.field("truncated", pa.bool_()),
    ]
)
"""One row an example; labels are the ids of response and EOS, and IGNORED before them."""


def rows_by_id(
    index: Path, row_ids: Sequence[str], columns: Sequence[str] = ("row_id", "prompt", "response")
) -> pa.Table:
    """Return columns of some rows of an index, prompt and response among them, in its order.

    Raises:
        RequestError: one of them is not there, or has no prompt or no response.
    """
    table = load_index(index, list(columns), row_ids)
    if len(table) != len(set(row_ids)):
        absent = sorted(set(row_ids) - set(table["row_id"].to_pylist()))
        raise RequestError(f"{len(absent)} rows are not in {index}, as {absent[0]}")
    empty = table.filter(pc.or_(pc.is_null(table["prompt"]), pc.is_null(table["response"])))
    if len(empty):
        raise RequestError(
            f"row {empty['row_id'][0]} has no prompt or no response: nothing can be learned of it"
        )
    return table


def training_texts(index: Path, row_ids: Sequence[str], settings: Finetune) -> pa.Table:
    """Return row_id, prompt and response of rows as they are trained on, in the index's order.

    Args:
        index: folder of the index.
        row_ids: the rows.
        settings: `template` and `response` may ask for other words than the index has.

    Raises:
        RequestError: as `rows_by_id`; the template has no place, or a row lacks a field of it.
    """
    if settings.template is None:
        rows = rows_by_id(index, row_ids)
    else:
        rows = rows_by_id(index, row_ids, ("row_id", "prompt", "response", "fields"))
        template = parse_template(settings.template, user_turn=True)
        found = rows.select(["row_id", "fields"]).to_pylist()
        prompts = [render_row(template, row, "finetune.template") for row in found]
        rows = _with(rows, "prompt", prompts).drop_columns("fields")
    if settings.response is not None:
        before, _, behind = settings.response.partition(RESPONSE)
        gold = (text.removeprefix(" ") for text in rows["response"].to_pylist())
        rows = _with(rows, "response", [f"{before}{text}{behind}" for text in gold])
    return rows


def _with(rows: pa.Table, name: str, texts: Sequence[str]) -> pa.Table:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, name, pa.array(texts, pa.large_string()))


def training_examples(
    tokenizer: PreTrainedTokenizerBase, rows: pa.Table, *, max_tokens: int, chat: bool
) -> pa.Table:
    """Return the examples of rows, with the columns of `EXAMPLES`, in the order given.

    Prompt and response are tokenized apart, as they were when the row was scored: what a token
    that spans both would say of the response, the model never sees at inference. Rows whose prompt
    leaves no room for a response token are left out.

    Args:
        tokenizer: of the model to be trained.
        rows: row_id, prompt, response.
        max_tokens: longest example; the end of a longer response is cut off, its EOS too.
        chat: whether the prompts were rendered by a chat template, which brings its own BOS.

    Raises:
        RequestError: the tokenizer has no EOS, or a prompt brings a second BOS.
    """
    eos = tokenizer.eos_token_id
    if not isinstance(eos, int):
        raise RequestError(f"{tokenizer.name_or_path} names no EOS token: set eos_token in it")
    prompts, responses = rows["prompt"].to_pylist(), rows["response"].to_pylist()
    prompt_ids = encode_prompts(tokenizer, prompts, chat=chat)
    after = list(zip(prompts, prompt_ids, strict=True)) if chat else []
    response_ids = encode_responses(tokenizer, responses, after)
    found = [
        {
            "row_id": row_id,
            "input_ids": [*prompt, *response, eos][:max_tokens],
            "labels": [*[IGNORED] * len(prompt), *response, eos][:max_tokens],
            "truncated": len(prompt) + len(response) + 1 > max_tokens,
        }
        for row_id, prompt, response in zip(
            rows["row_id"].to_pylist(), prompt_ids, response_ids, strict=True
        )
        if len(prompt) < max_tokens
    ]
    return pa.Table.from_pylist(found, schema=EXAMPLES)


def training_order(
    row_ids: Sequence[str], lengths: Sequence[int], settings: Finetune, seed: int
) -> list[int]:
    """Return the places of the examples in the order they are trained on, repeats included.

    Each pass over the rows has an order of its own, from the seed and the rows' ids alone.

    Args:
        row_ids: one an example.
        lengths: tokens of each example.
        settings: how much to train on.
        seed: of the run.

    Raises:
        RequestError: there is nothing to train on.
    """
    if not len(row_ids):
        raise RequestError("no row is left to train on: raise finetune.max_tokens")
    endless = _passes(row_ids, seed)
    if settings.equal == "steps":
        assert settings.steps is not None, "the settings have steps"
        return list(itertools.islice(endless, settings.steps * settings.batch))
    if settings.equal == "rows":
        return list(itertools.islice(endless, max(1, round(settings.epochs * len(row_ids)))))
    assert settings.tokens is not None, "the settings have tokens"
    order: list[int] = []
    left = settings.tokens
    for place in endless:
        left -= lengths[place]
        if left < 0:
            break
        order.append(place)
    if not order:
        raise RequestError(f"finetune.tokens {settings.tokens} is shorter than the first row")
    return order


def example_lengths(examples: pa.Table) -> np.ndarray:
    """Return the tokens of each example."""
    return pc.list_value_length(examples["input_ids"]).to_numpy()


def response_lengths(examples: pa.Table) -> np.ndarray:
    """Return the tokens of each example that the loss is over."""
    learned = pc.not_equal(pc.list_flatten(examples["labels"]), IGNORED).to_numpy()
    owner = pc.list_parent_indices(examples["labels"]).to_numpy()
    return np.bincount(owner[learned], minlength=len(examples))


def _passes(row_ids: Sequence[str], seed: int) -> Iterator[int]:
    """Yield the places of all rows, pass after pass, each in its own order."""
    for number in itertools.count():
        keys = [(seeded_bits(seed, "finetune", f"{number}/{name}"), name) for name in row_ids]
        yield from sorted(range(len(keys)), key=keys.__getitem__)
