"""What is trained on: ids, labels, order, log; worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.helpers import tiny_tokenizer
from tests.training_project import colours

from igds.config.training import Evaluate, Finetune, Lora
from igds.data.index_files import INDEX_SCHEMA, IndexWriter
from igds.errors import RequestError
from igds.finetuning.examples import (
    example_lengths,
    response_lengths,
    rows_by_id,
    training_examples,
    training_order,
    training_texts,
)
from igds.finetuning.launch import check_packages, training_command, training_environment
from igds.finetuning.results import log_table, rows_table
from igds.finetuning.spec import TrainFolder

EOS = 2
NAMES = [f"row{place}" for place in range(10)]


def settings(**given: object) -> Finetune:
    return Finetune(**{"batch": 4, "device_batch": 2, **given})


def write_index(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write an index of rows that name what a test asks of them."""
    with IndexWriter(folder, {}) as writer:
        for row in rows:
            known = {"content_hash": "", "source": "", "ordinal": 0, "status": "ok"}
            rest = {**dict.fromkeys(INDEX_SCHEMA.names), **known, "original": b""}
            writer.add([rest | row])


def test_prompt_and_response_are_tokenized_apart_and_only_the_response_is_learned() -> None:
    tokenizer, rows = tiny_tokenizer(), colours(3)
    examples = training_examples(tokenizer, rows, max_tokens=99, chat=False).to_pylist()
    for example, row in zip(examples, rows.to_pylist(), strict=True):
        prompt = tokenizer(row["prompt"]).input_ids
        response = tokenizer(row["response"], add_special_tokens=False).input_ids
        assert prompt[0] == tokenizer.bos_token_id
        assert example["input_ids"] == [*prompt, *response, EOS]
        assert example["labels"] == [*[-100] * len(prompt), *response, EOS]
        assert not example["truncated"]


def test_training_may_ask_in_other_words_and_learn_a_cue(tmp_path: Path) -> None:
    rows = [("a", "1+1", " 2"), ("b", "{x}", "{response}")]
    write_index(
        tmp_path,
        [
            {
                "row_id": row_id, "prompt": f"{question}\nSum:", "response": response,
                "fields": json.dumps({"question": question}),
            }
            for row_id, question, response in rows
        ],
    )  # fmt: skip
    assert training_texts(tmp_path, "ab", settings()) == rows_by_id(tmp_path, "ab")
    given = settings(template="Add {question}.\n", response="Sum: {response}!")
    assert training_texts(tmp_path, "ab", given).to_pylist() == [
        {"row_id": "a", "prompt": "Add 1+1.\n", "response": "Sum: 2!"},
        {"row_id": "b", "prompt": "Add {x}.\n", "response": "Sum: {response}!"},
    ]
    with pytest.raises(RequestError, match=r"finetune\.template: row a has no field 'query'"):
        training_texts(tmp_path, "ab", settings(template="{query}?"))
    with pytest.raises(RequestError, match="has no place"):
        training_texts(tmp_path, "ab", settings(template="Add."))


def test_a_merge_across_the_border_is_not_made() -> None:
    """`:` and ` b` would be one token of the joint text; apart they are not."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {"<eos>": 0, **{c: n for n, c in enumerate("a:Ġb", 1)}, ":Ġ": 5, ":Ġb": 6}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[(":", "Ġ"), (":Ġ", "b")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")
    rows = pa.table({"row_id": ["x"], "prompt": ["a:"], "response": [" b"]})
    assert tokenizer("a: b").input_ids == [1, 6]
    (example,) = training_examples(tokenizer, rows, max_tokens=9, chat=False).to_pylist()
    assert example["input_ids"] == [1, 2, 3, 4, 0]
    assert example["labels"] == [-100, -100, 3, 4, 0]


def test_a_long_row_loses_the_end_of_its_response_and_one_without_room_is_left_out() -> None:
    rows = pa.table({"row_id": ["a", "b"], "prompt": ["ab", "abcdef"], "response": [" xyz", " x"]})
    examples = training_examples(tiny_tokenizer(), rows, max_tokens=6, chat=False).to_pylist()
    (kept,) = examples
    assert kept["row_id"] == "a" and kept["truncated"]
    assert len(kept["input_ids"]) == len(kept["labels"]) == 6
    assert kept["labels"][:3] == [-100] * 3 and EOS not in kept["labels"]


def test_chat_prompts_get_no_second_bos() -> None:
    rows = pa.table({"row_id": ["a"], "prompt": ["<bos>hi"], "response": ["yo"]})
    (example,) = training_examples(tiny_tokenizer(), rows, max_tokens=99, chat=True).to_pylist()
    assert example["input_ids"].count(1) == 1
    assert len(example["input_ids"]) == 1 + 2 + 2 + 1


def test_a_tokenizer_without_an_eos_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(RequestError, match="no EOS"):
        training_examples(tokenizer, colours(1), max_tokens=9, chat=False)


def test_each_pass_has_every_row_once_in_an_order_of_its_own() -> None:
    order = training_order(NAMES, [5] * 10, settings(epochs=2.0), seed=3)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]
    assert order != training_order(NAMES, [5] * 10, settings(epochs=2.0), seed=4)
    half = training_order(NAMES, [5] * 10, settings(epochs=0.5), seed=3)
    assert half == order[:5]


def test_the_order_follows_ids_not_places() -> None:
    order = training_order(NAMES, [5] * 10, settings(), seed=3)
    turned = training_order(NAMES[::-1], [5] * 10, settings(), seed=3)
    assert [NAMES[place] for place in order] == [NAMES[::-1][place] for place in turned]


def test_equal_steps_and_equal_tokens() -> None:
    steps = training_order(NAMES, [5] * 10, settings(equal="steps", steps=7), seed=0)
    assert len(steps) == 7 * 4
    assert np.bincount(steps).tolist().count(3) == 8  # 28 = 2 x 10 + 8
    tokens = training_order(NAMES, [5] * 10, settings(equal="tokens", tokens=64), seed=0)
    assert len(tokens) == 12
    assert tokens == steps[:12]
    with pytest.raises(RequestError, match="shorter than the first row"):
        training_order(NAMES, [5] * 10, settings(equal="tokens", tokens=4), seed=0)


def test_rows_by_id_takes_any_list_and_names_what_is_not_there(tmp_path: Path) -> None:
    write_index(tmp_path, colours(4).to_pylist())
    found = rows_by_id(tmp_path, ["row2", "row0"])
    assert found["row_id"].to_pylist() == ["row0", "row2"]
    assert found["response"].to_pylist() == [" green, by far"] * 2
    with pytest.raises(RequestError, match="1 rows are not in .*, as row9"):
        rows_by_id(tmp_path, ["row0", "row9"])


def test_the_log_counts_the_tokens_of_the_rows_in_their_order() -> None:
    entry = {"loss": 1.0, "learning_rate": 0.1, "grad_norm": 2.0}
    history = [{"step": step, **entry} for step in (1, 2, 3)]
    log = log_table(history, np.array([1, 10, 100, 1000, 10000]), batch=2)
    assert log["tokens"].to_pylist() == [11, 1111, 11111]


def test_rows_say_how_often_and_how_long() -> None:
    examples = training_examples(tiny_tokenizer(), colours(3), max_tokens=99, chat=False)
    table = rows_table(examples, [2, 0, 2])
    assert table["times"].to_pylist() == [1, 0, 2]
    assert table["response_tokens"].to_pylist() == [14 + 1, 5 + 1, 14 + 1]
    assert response_lengths(examples).tolist() == table["response_tokens"].to_pylist()
    assert example_lengths(examples).tolist() == table["tokens"].to_pylist()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"equal": "steps"}, "steps and equal: steps go together"),
        ({"tokens": 5}, "tokens and equal: tokens go together"),
        ({"equal": "tokens", "tokens": 5, "engine": "axolotl"}, "tokens needs engine: trl"),
        ({"learning_rate": 0.0}, "learning_rate must be over 0"),
        ({"warmup": 1.0}, "warmup must be"),
        ({"response": "Sum:"}, "response needs the place {response} once, not 'Sum:'"),
        ({"engine": "axolotl", "template": "{x}"}, "template and response need engine: trl"),
        ({"batch": 6, "device_batch": 4}, "batch 6 is no multiple of 4"),
        ({"engine": "axolotl", "trackers": ("wandb",)}, "trackers are not written for axolotl"),
        ({"engine": "axolotl", "accelerate_config": "a"}, "accelerate_config needs engine: trl"),
        ({"processes": 3}, "batch 64 is no multiple of 8 .* times 3"),
        ({"trackers": ("tensorbord",)}, "did you mean tensorboard"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Finetune(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"samples": 4}, "temperature 0"),
        ({"vllm_python": "p", "temperature": 0.001}, "at least 0.01 where vLLM generates"),
        ({"vllm_python": "p", "generate": False}, "vllm_python is about generated responses"),
        ({"samples": 4, "temperature": 1.0, "pass_at": (4,)}, "pass_at has 4"),
        ({"generate": False, "likelihood": False}, "nothing to measure"),
        ({"generate": False, "shots": 4}, "shots is about generated"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_evaluations_that_say_nothing_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Evaluate(**given)


def test_lora_needs_targets() -> None:
    with pytest.raises(ValueError, match="targets"):
        Lora(targets=())


def test_what_is_not_installed_is_named_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def installed(name: str) -> object:
        return None if name in ("trl", "wandb") else name

    monkeypatch.setattr("importlib.util.find_spec", installed)
    with pytest.raises(RequestError, match=r"trl is not installed: pip install 'igds\[train\]'"):
        check_packages(settings())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    with pytest.raises(RequestError, match=r"finetune\.trackers: wandb .*pip install wandb"):
        check_packages(settings(trackers=("tensorboard", "wandb")))


def test_one_process_sees_one_gpu_and_several_are_launched(tmp_path: Path) -> None:
    folder = TrainFolder(tmp_path)
    one = settings()
    environment = training_environment(one, {"CUDA_VISIBLE_DEVICES": "4,6"}, "cuda:1", 2, tmp_path)
    assert environment["CUDA_VISIBLE_DEVICES"] == "6"
    assert training_environment(one, {}, "cuda", 2, tmp_path)["CUDA_VISIBLE_DEVICES"] == "0"
    assert training_environment(one, {}, "map", 2, tmp_path)["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in training_environment(one, {}, "cpu", 2, tmp_path)
    file = settings(accelerate_config="fsdp.yaml")  # says how many processes there are
    assert "CUDA_VISIBLE_DEVICES" not in training_environment(file, {}, "cuda", 2, tmp_path)
    assert training_command(folder, one, tmp_path)[1:3] == ["-m", "igds.finetuning.train"]
    kept = training_environment(one, {"MALLOC_TOP_PAD_": "7"}, "cpu", 2, tmp_path)
    assert (kept["MALLOC_MMAP_MAX_"], kept["MALLOC_TOP_PAD_"]) == ("0", "7")  # the user's own wins
    assert kept["OMP_NUM_THREADS"] == "2"
    assert not [name for name in environment if name.startswith("MALLOC")]
    two = settings(processes=2, accelerate_config="fsdp.yaml")
    command = training_command(folder, two, tmp_path)
    assert command[1:] == [
        "-m", "accelerate.commands.launch", "--num_processes", "2", "--config_file",
        str(tmp_path / "fsdp.yaml"), "-m", "igds.finetuning.train", str(tmp_path), "--attached",
    ]  # fmt: skip
    assert "CUDA_VISIBLE_DEVICES" not in training_environment(two, {}, "cuda", 2, tmp_path)
    command = training_command(folder, settings(processes=2), tmp_path)
    assert command[3:7] == ["--num_processes", "2", "--main_process_port", "0"]
