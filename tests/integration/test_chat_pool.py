"""The chat configuration of docs/pools.md on the tiny model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.helpers import tiny_tokenizer
from tests.tiny_project import build_project, run, sums
from transformers import AutoModelForCausalLM, AutoTokenizer

import igds
from igds.cli.main import main
from igds.data.index import load_index
from igds.errors import RequestError
from igds.features import FeatureId
from igds.models.capture import capture
from igds.pipeline import Run
from igds.runs.folder import RunFolder

PAGE = Path(__file__).parents[2] / "docs" / "pools.md"
SMALL = (
    "--intervene.screen-rows", "6", "--intervene.order-rows", "6", "--intervene.confirm-rows", "6",
    "--intervene.screen-keep", "4", "--intervene.exact-keep", "3", "--intervene.confirm-n", "2",
    "--intervene.controls", "0", "--runtime.threads", "1",
)  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def openai(question: str, answer: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": [{"role": "system", "content": "Add."}, *turns]}


def sharegpt(question: str, answer: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, "id": 7}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run over chat rows, two responses a prompt in the pool."""
    folder = build_project(tmp_path_factory.mktemp("chat"))
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "model")
    for seed, (name, n) in enumerate((("prior", 20), ("validation", 18))):
        rows = [openai(row["question"], f"It is\n#### {row['answer']}") for row in sums(n, seed)]
        write(folder / f"{name}.jsonl", rows)
    answers = ("So {}", "\\boxed{{{}}}\n")
    pool = [
        sharegpt(row["question"], answer.format(row["answer"]))
        for answer in answers
        for row in sums(30, 2)
    ]
    write(folder / "pool.jsonl", pool)
    section = PAGE.read_text(encoding="utf-8").partition("## Chat rows")[2]
    (folder / "igds.yaml").write_text(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0])
    run(folder, *SMALL)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def result_of(project: Path) -> Run:
    return Run(RunFolder(project / "runs" / "chat"))


def test_pool_scores_equal_a_plain_transformers_reference(project: Path) -> None:
    result = result_of(project)
    found = json.loads((result.folder.path / "intervene" / "task_features.json").read_text())
    feature = FeatureId.parse(found["features"][0])
    sae = igds.load_sae(project / "saes" / f"L{feature.layer}")
    model = AutoModelForCausalLM.from_pretrained(project / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(project / "model")
    expected = []
    for line in (project / "pool.jsonl").read_text().splitlines():
        question = json.loads(line)["conversations"][0]["value"]
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=False,
        )
        with torch.no_grad(), capture(model, [feature.layer]) as kept:
            model(ids)
        h = kept[feature.layer][0, -1]
        expected.append(float(torch.relu(h @ sae.W_enc[:, feature.index])))
    scores = result.selection["pool_score"].to_numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5 * max(expected))
    assert max(expected) > 0


def test_one_response_of_a_prompt_is_chosen_and_leaves_as_it_came(project: Path) -> None:
    result = result_of(project)
    selection = result.selection
    hashes = load_index(result.folder.path / "index", ["prompt_hash"])["prompt_hash"].to_pylist()
    chosen = [h for h, keep in zip(hashes, selection["selected"].to_pylist(), strict=True) if keep]
    assert len(chosen) == len(set(chosen)) == 15
    summary = json.loads((result.folder.path / "select" / "summary.json").read_text())
    assert summary["reasons"]["per_prompt"] == 30
    pool = (project / "pool.jsonl").read_text().splitlines()
    kept = [line for line, keep in zip(pool, selection["selected"], strict=True) if keep.as_py()]
    assert (result.folder.path / "select" / "selected.jsonl").read_text().splitlines() == kept


def test_every_set_is_read_at_the_end_of_the_generation_prompt(project: Path) -> None:
    summary = json.loads((project / "runs" / "chat" / "index" / "summary.json").read_text())
    rows = sum(entry["status"]["ok"] for entry in summary["sets"].values())
    assert summary["read_tokens"] == {"]": rows}
    assert summary["template"] == "<bos>[user]{text}<eos>[assistant]"
    assert "[user]{text}" in result_of(project).report.read_text()


def test_deltas_are_over_the_response_s_tokens_and_its_answer(project: Path) -> None:
    folder = result_of(project).folder.path
    index = load_index(folder / "index" / "validation", ["row_id", "response"])
    responses = dict(zip(*(column.to_pylist() for column in index.columns), strict=True))
    samples = pq.read_table(folder / "intervene" / "samples.parquet").to_pylist()
    for sample in samples:
        response = responses[sample["row_id"]]
        deltas = sample["delta_by_token"]
        assert len(deltas) == len(response)  # the tiny tokenizer has a token a byte
        answer = len(response.partition("#### ")[2])
        assert sample["delta_answer"] == pytest.approx(np.mean(deltas[-answer:]), abs=1e-6)


def test_the_file_of_init_runs_once_its_paths_are_set(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("runs", "igds.yaml"))
    (copy / "data").symlink_to(copy)
    assert main(["init", "chat", "--output", str(copy / "igds.yaml")]) == 0
    made = run(
        copy,
        *("--model.id", "model", "--model.dtype", "float32"),
        *("--saes", "[{path: saes/L1}, {path: saes/L2}]"),
        *("--data.pool.0.messages", "conversations", "--data.control.0.path", "control.jsonl"),
        *("--data.control.0.columns", "{text: question}", "--prompts.system", ""),
        *SMALL,
    )
    assert made.selection["selected"].to_pylist().count(True) == 12  # 0.2 of 60
    asked = result_of(project).folder.path / "index"
    for name in ("", "prior", "validation", "control"):
        found = load_index(made.folder.path / "index" / name, ["prompt", "response"])
        assert found.equals(load_index(asked / name, ["prompt", "response"]))


def test_another_system_prompt_is_another_index(project: Path) -> None:
    with pytest.raises(RequestError, match='system: "" on disk, "Think." asked for'):
        run(project, *SMALL, "--prompts.system", "Think.")


def test_responses_are_scored_behind_a_stated_marker_and_their_prompt(
    project: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "project"
    shutil.copytree(project, copy)
    methods = ("--score.methods", "[igds, ifd]")
    with pytest.raises(RequestError, match="in a chat template state score.marker"):
        run(copy, *SMALL, *methods)
    run(copy, *SMALL, *methods, "--score.marker", "<bos>[assistant]")
    folder = copy / "runs" / "chat"
    found = pq.read_table(sorted((folder / "score" / "ifd").glob("shard-*.parquet"))).to_pylist()
    rows = load_index(folder / "index", ["prompt", "response"]).to_pylist()
    model = AutoModelForCausalLM.from_pretrained(project / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(project / "model")

    def plain(context: str, response: str) -> float:
        ids = [
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, response)
        ]
        with torch.no_grad():
            logits = model(torch.tensor([ids[0] + ids[1]])).logits[0, len(ids[0]) - 1 : -1]
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1])))

    for row, values in list(zip(rows, found, strict=True))[::7]:
        assert values["loss"] == pytest.approx(plain(row["prompt"], row["response"]), abs=1e-5)
        bare = plain("<bos>[assistant]", row["response"])
        assert values["bare_loss"] == pytest.approx(bare, abs=1e-5)
