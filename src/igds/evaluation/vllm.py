"""Responses by vLLM, in a Python of its own: it needs other versions than igds."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from igds.data.seeds import seeded_bits
from igds.errors import RequestError
from igds.evaluation.generation import Decoding, output_of
from igds.evaluation.work import outputs_table
from igds.executors.other_python import OtherPython, visible_gpus
from igds.models.decode import stop_ids
from igds.models.load import ModelSpec, load_generation_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = 1024
"""Prompts a shard, the unit of resume: vLLM batches them as it likes."""
_PROCESS = Path(__file__).with_name("vllm_process.py")
_SEEDS = 2**31


def vllm(python: Path, device: str) -> OtherPython:
    """Return vLLM as that Python runs it, on the device of a `ModelSpec`.

    Raises:
        RequestError: the device is none that vLLM is run on.
    """
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise RequestError(
            f"evaluate.vllm_python generates on one GPU or on the CPU, and runtime.device is "
            f"{device}: set it to cuda, cuda:0 or cpu"
        )
    return OtherPython(
        name="vLLM",
        package="vllm",
        module="vllm",
        python=python,
        process=_PROCESS,
        variables=visible_gpus(device),
    )


def vllm_outputs(
    process: OtherPython,
    spec: ModelSpec,
    tokenizer: PreTrainedTokenizerBase,
    shards: Sequence[Mapping[str, Any]],
    settings: Decoding,
    memory: float = 0.9,
    places: Sequence[int] | None = None,
) -> Generator[tuple[str, pa.Table], None, None]:
    """Yield, shard by shard, name and version of the package and the shard's `OUTPUTS`.

    A response ends where one by transformers does. Samples are other draws: vLLM's noise is keyed
    by (seed, row), so that two models that are compared get the same seeds. Close the iterator to
    end the process before its time.

    Args:
        process: what `vllm` returns.
        spec: the model.
        tokenizer: its own.
        shards: `row_ids` and `prompts`, token ids, of each; the model's length is made for all.
        settings: how; `batch_tokens` is not read.
        memory: share of the GPU's or main memory, over 0 to 1.
        places: the shards that are wanted; all when None.

    Raises:
        RequestError: there is no such Python, or it has no vllm.
        WorkError: it failed.
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
            "language_model_only": True,
            "gpu_memory_utilization": memory,
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
    wanted = list(shards) if places is None else [shards[place] for place in places]
    with closing(process.answers([first, *(_seeded(shard, settings) for shard in wanted)])) as told:
        package = next(told)["package"]
        for shard, rows in zip(wanted, told, strict=True):
            outputs = [[output_of(tokenizer, one, ends, settings) for one in row] for row in rows]
            yield package, outputs_table(shard["row_ids"], outputs)


def _seeded(shard: Mapping[str, Any], settings: Decoding) -> dict[str, Any]:
    """Return a shard as the process reads it: a seed a row, by its name."""
    bits = (seeded_bits(settings.seed, "evaluate/vllm", name) for name in shard["row_ids"])
    return {"prompts": shard["prompts"], "seeds": [one % _SEEDS for one in bits]}
