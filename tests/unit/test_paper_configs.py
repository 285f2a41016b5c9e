"""The nine published pairs load, name SAEs that exist, and ask for what the paper did."""

from __future__ import annotations

from pathlib import Path

import pytest

from igds.config.load import load_config
from igds.data.templates import parse_template
from igds.features import FeatureId
from igds.saes.registry import find_entry
from igds.tasks.registry import load_task

FOLDER = Path(__file__).parents[2] / "configs" / "paper"

PUBLISHED = {
    "gemma-2-2b-math": ("L14/11575", "+12 "),
    "gemma-2-2b-summarization": ("L25/3017", "+0.025"),
    "gemma-2-2b-translation": ("L11/892", "+1.12"),
    "llama-3.1-8b-math": ("L19/16897", "+1.5 "),
    "llama-3.1-8b-summarization": ("L31/15962", "+0.022"),
    "llama-3.1-8b-translation": ("L8/2083", "+4.98"),
    "qwen3-8b-math": ("L16/36564", "+1.8 "),
    "qwen3-8b-summarization": ("L18/61304", "+0.018"),
    "qwen3-8b-translation": ("L12/43296", "+8.34"),
}
TRAINING = {
    "math": (
        "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.\n",
        "Solution: {response}",
    ),
    "summarization": (
        "Use a sentence to summarize this following text.\n{dialogue}\n", "{response}",
    ),
    "translation": (
        "Please translate the following text into Chinese.\n{source}\n", "{response}",
    ),
}  # fmt: skip
BLOCKS = {"gemma-2-2b": range(26), "llama-3.1-8b": range(32), "qwen3-8b": range(12, 19)}
TEMPLATES = {
    "math": "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.\n"
    "Solution:",
    "summarization": "Use a sentence to summarize this following text:\n{dialogue}\nSummarization:",
    "translation": "Please translate the following text into Chinese.\nText: {source}\n"
    "Translation:",
}
STAGES = ("index", "recall", "intervene", "score", "select", "report")


def test_there_is_one_config_a_pair() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_config_is_the_pair(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    config = load_config(path).config
    feature, delta = PUBLISHED[name]
    model, task = name.rsplit("-", 1)
    config.check_stages(STAGES)
    assert config.name == name
    assert config.task.name == task
    assert config.prompts.template == TEMPLATES[task] == load_task(config.task, FOLDER).template
    assert parse_template(TEMPLATES[task]).fields
    assert config.recall and config.recall.min_frequency == 0.8
    assert config.intervene and config.intervene.top_k == config.intervene.coefficient == 1
    assert config.score and config.score.aggregate == "raw"
    assert config.select and str(config.select.budget.ratio) == "0.5"
    assert config.finetune
    assert (config.finetune.template, config.finetune.response) == TRAINING[task]
    # each model has its own record of who read S3
    assert config.runs_dir == f"../../runs/{model}"
    head = path.read_text(encoding="utf-8").splitlines()[0]
    assert feature in head and delta in head
    line = next(text for text in (FOLDER / "README.md").read_text().splitlines() if name in text)
    assert feature in line and delta in line
    assert FeatureId.parse(feature).layer in BLOCKS[model]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_procedure_is_one_switch_away(name: str) -> None:
    overrides = ["--intervene.mode", "paper", "--name", f"{name}-published"]
    config = load_config(FOLDER / f"{name}.yaml", overrides).config
    assert config.intervene and config.intervene.mode == "paper"


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_file_says_what_the_paper_leaves_open_and_what_reads_s3_first(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines() if ": not given" in line]
    assert [line[0] for line in lines] == ["position:", "temperature:", "max_new_tokens:"]
    most = "1024" if name.endswith("math") else "256"
    assert [line[1] for line in lines] == ["read", "0", most]
    for whole in (text, (FOLDER / "README.md").read_text(encoding="utf-8")):
        assert whole.index("igds run ") < whole.index("igds verify ")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_saes_are_those_of_every_block(name: str) -> None:
    config = load_config(FOLDER / f"{name}.yaml").config
    blocks = BLOCKS[name.rsplit("-", 1)[0]]
    if name.startswith("qwen3"):
        # Not published: the user's own files, one a block.
        assert [sae.layer for sae in config.saes] == list(blocks)
        assert not any(sae.release or sae.hub for sae in config.saes)
        return
    entries = [find_entry(sae.release or "", sae.id or "") for sae in config.saes]
    named = [entry.path for entry in entries]
    assert len(set(named)) == len(blocks)
    for block, path in zip(blocks, named, strict=True):
        assert f"layer_{block}/" in path or f"L{block}R" in path
