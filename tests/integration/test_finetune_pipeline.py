"""From selection to a trained and evaluated model, on the tiny project, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import tiny_config, tiny_tokenizer
from tests.tiny_project import run, sums, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from igds.config.load import load_config
from igds.data.index import load_index
from igds.errors import RequestError

SECTIONS = """
finetune: {batch: 4, device_batch: 4, learning_rate: 0.01, equal: steps, steps: 6}
evaluate: {original: true, max_new_tokens: 6, samples: 3, temperature: 1.0, pass_at: [2]}
"""
QUICK = "score: {methods: [length, random]}\nselect: {method: length, budget: {rows: 12}}\n"


def with_training(project: Path, sections: str = SECTIONS) -> Path:
    """Give the tiny project test rows and the two sections, and take the slow ones away."""
    write_rows(project / "test.jsonl", sums(8, 9))
    text = (project / "igds.yaml").read_text()
    head = text[: text.index("recall:")].replace(
        "  pool: [{path: pool.jsonl}]\n",
        "  pool: [{path: pool.jsonl}]\n  test: [{path: test.jsonl}]\n",
    )
    tail = "report: {rows: 3}\nruntime: {threads: 1, shard_rows: 16, batch_tokens: 512}\n"
    (project / "igds.yaml").write_text(head + QUICK + sections + tail)
    return project


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a project that was trained and evaluated."""
    from tests.tiny_project import build_project

    project = with_training(build_project(tmp_path_factory.mktemp("trained")))
    return run(project).folder.path


def test_a_run_trains_on_the_selected_rows_and_keeps_log_and_model(trained: Path) -> None:
    selection = pq.read_table(trained / "select" / "selection.parquet")
    rows = pq.read_table(trained / "finetune" / "rows.parquet")
    chosen = selection.filter(selection["selected"])["row_id"].to_pylist()
    assert rows["row_id"].to_pylist() == chosen and len(chosen) == 12
    assert rows["times"].to_pylist() == [2] * 12  # 6 updates of 4 rows
    log = pq.read_table(trained / "finetune" / "log.parquet")
    assert log["step"].to_pylist() == list(range(1, 7))
    summary = json.loads((trained / "finetune" / "summary.json").read_text())
    assert summary["steps"] == 6 and summary["rows"] == 12
    assert summary["tokens"] == log["tokens"][-1].as_py() == 2 * pc.sum(rows["tokens"]).as_py()
    assert summary["last_loss"] < summary["first_loss"]
    kept = {path.name for path in (trained / "finetune").iterdir()}
    assert kept == {
        "history.json", "log.parquet", "model", "rows.parquet", "spec.json", "stage.json",
        "summary.json", "train.log",
    }  # fmt: skip
    weights = load_file(trained / "finetune" / "model" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_held_out_likelihood_rises_and_equals_a_plain_loop(trained: Path) -> None:
    results = json.loads((trained / "evaluate" / "results.json").read_text())
    gain = results["differences"]["logprob"]
    assert gain["mean"] > 0 and gain["low"] > 0 and gain["n"] == 8
    items = pq.read_table(trained / "evaluate" / "items.parquet")
    tokenizer = AutoTokenizer.from_pretrained(trained / "finetune" / "model")
    model = AutoModelForCausalLM.from_pretrained(trained / "finetune" / "model").eval()
    expected = {}
    for line in (trained.parents[1] / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        head = tokenizer(f"{row['question']}\nSum:").input_ids
        answer = tokenizer(f" {row['answer']}", add_special_tokens=False).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([[*head, *answer]])).logits[0, len(head) - 1 : -1]
        values = logits.float().log_softmax(-1)[range(len(answer)), answer]
        expected[row["question"]] = float(values.mean())
    own = items.filter((pc.field("model") == "tuned") & (pc.field("metric") == "logprob"))
    assert sorted(own["value"].to_pylist()) == pytest.approx(sorted(expected.values()), abs=1e-5)


def test_every_sample_of_both_models_is_kept_and_summed_up(trained: Path) -> None:
    items = pq.read_table(trained / "evaluate" / "items.parquet")
    outputs = items.filter(pc.field("metric") == "task_score")
    assert len(outputs) == 2 * 8 * 3 and outputs["text"].null_count == 0
    results = json.loads((trained / "evaluate" / "results.json").read_text())
    assert set(results["models"]["tuned"]) == {"logprob", "task_score", "pass@2"}
    assert results["outputs"]["tuned"]["cut_off_share"] <= 1
    assert results["too_long"] == {
        name: {"likelihood": 0, "generate": 0} for name in ("tuned", "original")
    }
    assert results["decoding"] == {
        "samples": 3, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 6, "shots": 0,
    }  # fmt: skip
    assert not (trained / "evaluate" / "parts").exists()


def test_the_page_shows_training_and_evaluation(trained: Path) -> None:
    page = (trained / "report" / "index.html").read_text()
    assert 'id="finetune"' in page and 'id="evaluate"' in page
    assert "loss-" in page  # ids of the figure
    assert "3 a prompt, temperature 1, top-p 1, at most 6 tokens, 0-shot" in page


def test_a_training_that_diverges_is_finished_and_says_so(tmp_path: Path) -> None:
    from tests.tiny_project import build_project

    sections = SECTIONS.replace("0.01", "1.0e+30").replace(
        "max_new_tokens: 6, samples: 3, temperature: 1.0, pass_at: [2]", "generate: false"
    )
    trained = run(with_training(build_project(tmp_path), sections)).folder.path
    log = pq.read_table(trained / "finetune" / "log.parquet")
    assert log["loss"][0].is_valid and not log["loss"][-1].is_valid
    summary = json.loads((trained / "finetune" / "summary.json").read_text())
    assert summary["first_loss"] > 0 and summary["last_loss"] is None
    results = json.loads((trained / "evaluate" / "results.json").read_text())
    assert results["models"]["tuned"]["logprob"]["mean"] is None
    assert results["decoding"] is None
    assert results["models"]["original"]["logprob"]["mean"] < 0
    assert 'id="evaluate"' in (trained / "report" / "index.html").read_text()


def test_test_rows_that_cannot_be_judged_are_refused_before_scoring(project: Path) -> None:
    with_training(project)
    write_rows(project / "test.jsonl", [{"question": row["question"]} for row in sums(8, 9)])
    with pytest.raises(RequestError, match="data.test: no row can be judged"):
        run(project)
    assert not (project / "runs" / "tiny" / "score").exists()


@pytest.mark.parametrize(
    "words", [("--model.train-id", "wide"), ("--finetune", "null", "--evaluate.model", "wide")]
)
def test_activations_in_a_model_of_another_width_are_refused_before_anything(
    project: Path, words: tuple[str, ...]
) -> None:
    config = tiny_config("llama")
    config.hidden_size = 64
    AutoModelForCausalLM.from_config(config).save_pretrained(project / "wide")
    tiny_tokenizer().save_pretrained(project / "wide")
    write_rows(project / "test.jsonl", sums(8, 9))
    text = (project / "igds.yaml").read_text()
    text = text.replace("pool.jsonl}]\n", "pool.jsonl}]\n  test: [{path: test.jsonl}]\n")
    sections = "finetune: {}\nevaluate: {generate: false, activations: true}\n"
    (project / "igds.yaml").write_text(text + sections)
    with pytest.raises(RequestError, match="cannot be read in .*wide: its residual stream is 64"):
        run(project, *words)
    assert not (project / "runs" / "tiny" / "index").exists()


def test_a_second_run_changes_nothing_and_other_settings_keep_the_earlier_model(
    trained: Path,
) -> None:
    project = trained.parents[1]
    model = trained / "finetune" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    run(project)
    assert model.stat().st_mtime_ns == before
    run(project, "--finetune.trackers", "[]", "--finetune.checkpoint-steps", "3")
    assert model.stat().st_mtime_ns == before
    run(project, "--finetune.learning-rate", "0.02", until="finetune")
    assert model.stat().st_mtime_ns > before
    kept = list((trained / "cells").glob("*/finetune/model/model.safetensors"))
    assert [path.stat().st_mtime_ns for path in kept] == [before]


def test_training_in_words_of_its_own(project: Path) -> None:
    words = "template: '{question} makes?', response: 'Sum: {response}'"
    with_training(project, f"finetune: {{batch: 4, device_batch: 4, {words}}}\n")
    with pytest.raises(RequestError, match=r"finetune\.template has the place 'query'"):
        run(project, "--finetune.template", "{query} makes?", until="finetune")
    assert not (project / "runs").exists() or not list((project / "runs").glob("*/index"))
    folder = run(project, until="finetune").folder.path
    rows = pq.read_table(folder / "finetune" / "rows.parquet").sort_by("row_id")
    ids = rows["row_id"].to_pylist()
    read = load_index(
        folder / "index", ["row_id", "n_prompt_tokens", "n_response_tokens"], ids
    ).sort_by("row_id")
    longer = len(" makes?") - len("\nSum:") + len("Sum: ") - len(" ")
    assert rows["tokens"].to_pylist() == [
        one["n_prompt_tokens"] + one["n_response_tokens"] + len(["<eos>"]) + longer
        for one in read.to_pylist()
    ]


@pytest.mark.parametrize("engine", ["llamafactory", "axolotl"])
def test_another_engine_gets_data_yaml_and_command(project: Path, engine: str) -> None:
    from ruamel.yaml import YAML

    with_training(project, "finetune: {batch: 8, device_batch: 4, lora: {rank: 4}}\n")
    folder = run(project, "--finetune.engine", engine, until="finetune").folder.path / "finetune"
    settings = YAML(typ="safe").load((folder / f"{engine}.yaml").read_text())
    rows = [json.loads(line) for line in (folder / "selected.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and set(rows[0]) == {"instruction", "output"}
    assert rows[0]["instruction"].endswith("\nSum:")
    assert settings["gradient_accumulation_steps"] == 2
    assert settings["learning_rate"] == 2e-5
    assert settings["output_dir"] == str(folder / "model")
    note, *more = json.loads((folder / "summary.json").read_text())["notes"]
    assert str(folder / f"{engine}.yaml") in note
    wanted = {"llamafactory": "no <bos> and <eos>", "axolotl": "bfloat16"}[engine]
    assert any(wanted in note for note in more)
    assert all(row["output"].endswith("<eos>") for row in rows) == (engine == "llamafactory")
    if engine == "llamafactory":
        info = json.loads((folder / "dataset_info.json").read_text())
        assert settings["dataset_dir"] == str(folder) and settings["dataset"] in info
        wanted = {
            "stage": "sft",
            "finetuning_type": "lora",
            "template": "empty",
            "lora_target": "all",
        }
        assert wanted.items() <= settings.items()
        assert settings["model_name_or_path"] == str(project / "model")
    else:
        (data,) = settings["datasets"]
        assert data["path"] == str(folder / "selected.jsonl")
        assert data["type"]["format"] == "{instruction}"
        assert settings["base_model"] == str(project / "model")
        assert settings["train_on_inputs"] is False and settings["bf16"] is False
        assert settings["adapter"] == "lora" and settings["lora_target_linear"] is True
    with pytest.raises(RequestError, match="is not there: train it with the YAML"):
        run(project, "--finetune.engine", engine, "--evaluate.original", "true", only="evaluate")


def test_sections_that_lack_their_inputs_are_refused(project: Path) -> None:
    with_training(project)
    config = load_config(project / "igds.yaml").config
    with pytest.raises(ValueError, match="finetune needs the section select"):
        load_without(project, "select").check_stages(["finetune"])
    with pytest.raises(ValueError, match=r"evaluate needs the section data\.test"):
        load_without(project, "  test").check_stages(["evaluate"])
    config.check_stages(["finetune", "evaluate"])


def load_without(project: Path, key: str):
    text = (project / "igds.yaml").read_text().splitlines(keepends=True)
    (project / "less.yaml").write_text("".join(x for x in text if not x.startswith(f"{key}:")))
    return load_config(project / "less.yaml").config


def test_a_benchmark_of_ones_own_by_the_harness(project: Path) -> None:
    """A task in YAML over a local file goes the way that benchmarks of the Hub go."""
    with_training(project, "evaluate: {original: true, likelihood: false, generate: false}\n")
    folder = project / "tasks"
    folder.mkdir()
    rows = [{"q": f"{n} is", "a": n % 2} for n in range(6)]
    write_rows(folder / "rows.jsonl", rows)  # type: ignore[arg-type]
    (folder / "odd.yaml").write_text(
        f"""
task: odd_or_even
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "rows.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: ["even", "odd"]
doc_to_target: a
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    )
    text = (project / "igds.yaml").read_text()
    text = text.replace(
        "generate: false}", "generate: false, lm_eval: [odd_or_even], lm_eval_path: tasks}"
    )
    (project / "igds.yaml").write_text(text)
    path = run(project).folder.path / "evaluate"
    items = pq.read_table(path / "items.parquet")
    assert items["item"].to_pylist() == [f"odd_or_even/{n}" for n in range(6)]
    assert set(items["metric"].to_pylist()) == {"odd_or_even: acc"}
    tokenizer = AutoTokenizer.from_pretrained(project / "model")
    model = AutoModelForCausalLM.from_pretrained(project / "model").eval()
    right = []
    for row in rows:
        totals = []
        for word in (" even", " odd"):
            head = tokenizer(row["q"]).input_ids
            ids = tokenizer(row["q"] + word).input_ids
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            places = range(len(head), len(ids))
            totals.append(float(sum(logits[place - 1, ids[place]] for place in places)))
        right.append(float((totals[1] > totals[0]) == bool(row["a"])))
    assert items["value"].to_pylist() == right
