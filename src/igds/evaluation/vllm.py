"""Responses by vLLM, in a Python of its own: it needs other versions than igds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from igds.data.seeds import seeded_bits
from igds.evaluation.generation import Decoding, output_of
from igds.evaluation.work import outputs_table
from igds.executors.other_python import OtherPython
from igds.models.decode import stop_ids
from igds.models.load import ModelSpec, load_generation_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = 1024
"""Prompts a shard, the unit of resume: vLLM batches them as it likes."""
_PROCESS = Path(__file__).with_name("vllm_process.py")
_SEEDS = 2**31


def vllm(python: Path) -> OtherPython:
    """Return vLLM as that Python runs it."""
    return OtherPython(name="vLLM", package="vllm", module="vllm", python=python, process=_PROCESS)


def vllm_outputs(
    python: Path,
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    shards: Sequence[Mapping[str, Any]],
    settings: Decoding,
) -> tuple[str, Iterator[pa.Table]]:
    """Return name and version of the package, and the `OUTPUTS` of each shard as they come.

    A response ends where one by transformers does. Samples are other draws: vLLM's noise is keyed
    by (seed, row), so that two models that are compared get the same seeds.

    Args:
        python: interpreter of an environment with vllm.
        spec: the model.
        tokenizer: its own.
        shards: `row_ids` and `prompts`, token ids, of each; at least one.
        settings: how; `batch_tokens` is not read.

    Raises:
        RequestError: there is no such Python, or it has no vllm.
        WorkError: it failed, as the tables come too.
    """
    ends = stop_ids(load_generation_config(spec), tokenizer)
    longest = max(len(ids) for shard in shards for ids in shard["prompts"])
    first = {
        "model": {
            "model": spec.path,
            "dtype": spec.dtype,
            "max_model_len": longest + settings.max_new_tokens,
            "trust_remote_code": spec.trust_remote_code,
            "generation_config": "vllm",  # the model's own settings are left out
            "seed": settings.seed % _SEEDS,
        },
        "sampling": {
            "n": settings.samples,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_new_tokens,
            "stop": list(settings.stop),
            "stop_token_ids": ends,
        },
    }
    answers = vllm(python).answers([first, *map(_seeded(settings.seed), shards)])
    package: str = next(answers)["package"]

    def tables() -> Iterator[pa.Table]:
        for shard, rows in zip(shards, answers, strict=True):
            outputs = [[output_of(tokenizer, one, ends, settings) for one in row] for row in rows]
            yield outputs_table(shard["row_ids"], outputs)

    return package, tables()


def _seeded(seed: int) -> Any:
    """Return what makes a shard what the process reads: a seed a row, by its name."""

    def shown(shard: Mapping[str, Any]) -> dict[str, Any]:
        names = shard["row_ids"]
        seeds = [seeded_bits(seed, "evaluate/vllm", name) % _SEEDS for name in names]
        return {"prompts": shard["prompts"], "seeds": seeds}

    return shown
