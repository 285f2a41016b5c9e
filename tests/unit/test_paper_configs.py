"""The nine published pairs load, name SAEs that exist, and ask for what the paper did."""

from __future__ import annotations

from pathlib import Path

import pytest

from igds.config.experiment import ORIGINAL
from igds.config.load import load_config
from igds.data.templates import parse_template
from igds.experiments.cells import plan_cells
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
ARMS = ("original", "full", "random", "loss", "ifd", "zip", "igds")
NUMBERS = {  # the main comparison: percent of pass@8, ROUGE-1, percent of COMET
    "gemma-2-2b-math": (11.2, 32.2, 29.2, 24.6, 30.0, 29.4, 37.8),
    "llama-3.1-8b-math": (26.6, 45.0, 40.8, 37.2, 36.8, 35.4, 45.8),
    "qwen3-8b-math": (55.7, 60.8, 58.7, 59.4, 60.5, 60.3, 61.1),
    "gemma-2-2b-summarization": (0.220, 0.450, 0.439, 0.448, 0.440, 0.449, 0.452),
    "llama-3.1-8b-summarization": (0.011, 0.260, 0.254, 0.254, 0.258, 0.245, 0.261),
    "qwen3-8b-summarization": (0.312, 0.489, 0.482, 0.474, 0.488, 0.485, 0.490),
    "gemma-2-2b-translation": (26.92, 65.93, 62.92, 55.31, 64.19, 63.37, 68.14),
    "llama-3.1-8b-translation": (31.11, 77.68, 70.78, 72.29, 76.82, 74.49, 78.45),
    "qwen3-8b-translation": (81.30, 82.71, 82.61, 82.66, 82.69, 82.57, 83.07),
}
ABLATED_ARMS = ("igds-random", "igds-nofilter", "igds@top3", "igds@top5")
ABLATED = {  # Table 3, of Gemma alone, in that order
    "gemma-2-2b-math": (29.2, 33.0, 37.2, 31.8),
    "gemma-2-2b-summarization": (0.439, 0.434, 0.447, 0.435),
    "gemma-2-2b-translation": (63.19, 64.52, 66.81, 62.83),
}
MEASURED = {
    "math": ("pass@8", 100),
    "summarization": ("task_score", 1),
    "translation": ("comet", 100),
}
"""Task -> the metric of the published numbers, and how many of their unit make 1."""
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers_stand_beside_the_arms_they_are_of(name: str) -> None:
    config = load_config(FOLDER / f"{name}.yaml").config
    assert config.experiment
    metric, unit = MEASURED[config.task.name]
    assert config.experiment.primary == metric
    wanted = dict(zip(ARMS, NUMBERS[name], strict=True))
    if name in ABLATED:
        wanted |= dict(zip(ABLATED_ARMS, ABLATED[name], strict=True))
    whole, *others = config.experiment.grid
    assert set(whole.arms) == set(wanted)
    assert whole.published == pytest.approx({arm: n / unit for arm, n in wanted.items()})
    assert not any(part.published for part in others)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_cells_are_those_of_the_papers_tables_trained_as_there(name: str) -> None:
    plan = plan_cells(load_config(FOLDER / f"{name}.yaml").config)
    half = [*ARMS[2:], *(ABLATED_ARMS if name in ABLATED else ())]
    cells = [(cell.arm, str(cell.budget.ratio) if cell.budget else "") for cell in plan.cells]
    wanted = [("original", ""), ("full", "")]
    wanted += [(arm, "0.5") for arm in half]
    wanted += [(arm, ratio) for arm in ARMS[2:] for ratio in ("0.2", "0.8")]  # Fig. 4
    assert sorted(cells) == sorted(wanted)
    for cell in plan.cells:
        made = plan.cell_config(cell)
        if cell.arm == ORIGINAL:
            assert made.finetune is None
            continue
        trained = made.finetune
        assert trained and trained.lora is None
        assert (trained.equal, trained.epochs) == ("rows", 1)
        assert (trained.learning_rate, trained.batch) == (2e-5, 64)
        assert made.select and made.score and made.intervene
        assert set(made.select.scored) <= set(made.score.methods)
        assert made.intervene.top_k == {"igds@top3": 3, "igds@top5": 5}.get(cell.arm, 1)
