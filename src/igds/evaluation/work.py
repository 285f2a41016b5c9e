"""Worker side of evaluation: one model, loaded once, for gold responses and generated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch

from igds.evaluation.generation import Decoding, Output, generated_responses
from igds.evaluation.items import GoldRow
from igds.models.likelihood import check_head
from igds.models.load import ModelSpec, load_causal, load_tokenizer
from igds.reading.responses import Continuation, read_continuations

WORK = "igds.evaluation.work:EvaluateWork"

LIKELIHOODS = pa.schema(
    [
        pa.field("row_id", pa.string()),
        pa.field("logprob", pa.float64()),
        pa.field("tokens", pa.int64()),
        pa.field("logprob_answer", pa.float64()),
        pa.field("answer_tokens", pa.int64()),
    ]
)
"""Nats a token: the mean over the response, and over its final answer where one is marked."""

OUTPUTS = pa.schema(
    [
        pa.field("row_id", pa.string()),
        pa.field("sample", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("tokens", pa.int64()),
        pa.field("finished", pa.bool_()),
    ]
)


def outputs_table(row_ids: Sequence[str], outputs: Sequence[Sequence[Output]]) -> pa.Table:
    """Return `OUTPUTS` of responses [row][sample]."""
    rows = [
        {
            "row_id": row_id,
            "sample": sample,
            "text": output.text,
            "tokens": output.tokens,
            "finished": output.finished,
        }
        for row_id, samples in zip(row_ids, outputs, strict=True)
        for sample, output in enumerate(samples)
    ]
    return pa.Table.from_pylist(rows, schema=OUTPUTS)


class EvaluateWork:
    """Likelihoods or outputs of some held-out rows."""

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        decoding: Mapping[str, Any],
        batch_tokens: int,
        threads: int,
    ) -> None:
        """Load the model.

        Args:
            model: fields of a `ModelSpec`.
            decoding: fields of `Decoding`.
            batch_tokens: padded tokens a forward batch.
            threads: CPU threads of this worker.
        """
        torch.set_num_threads(threads)
        spec = ModelSpec(**model)
        self._model, self._tokenizer = load_causal(spec), load_tokenizer(spec)
        check_head(self._model)
        self._decoding, self._batch_tokens = Decoding(**decoding), batch_tokens

    def __call__(self, shard: Mapping[str, Any]) -> pa.Table:
        """Return `LIKELIHOODS` of a shard of `gold` rows, `OUTPUTS` of one of `prompts`."""
        if "gold" in shard:
            return self._likelihoods([GoldRow(**row) for row in shard["gold"]])
        outputs = generated_responses(
            self._model, self._tokenizer, shard["prompts"], shard["row_ids"], self._decoding
        )
        return outputs_table(shard["row_ids"], outputs)

    def _likelihoods(self, rows: list[GoldRow]) -> pa.Table:
        pairs = [Continuation(context=row.prompt_ids, response=row.response_ids) for row in rows]
        logprobs, _ = read_continuations(self._model, pairs, self._batch_tokens)
        assert logprobs is not None, "likelihoods were asked for"
        found = []
        for row, values in zip(rows, logprobs, strict=True):
            answer = values[slice(*row.answer)] if row.answer else None
            found.append(
                {
                    "row_id": row.row_id,
                    "logprob": float(values.mean()),
                    "tokens": len(values),
                    "logprob_answer": None if answer is None else float(answer.mean()),
                    "answer_tokens": None if answer is None else len(answer),
                }
            )
        return pa.Table.from_pylist(found, schema=LIKELIHOODS)
