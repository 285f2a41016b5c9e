from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from igds.cli.init import example
from igds.config import schema
from igds.config.load import load_config
from igds.config.reference import commented_yaml, field_docs, reference_page
from igds.config.training import Evaluate, Finetune
from igds.sae_training import config
from igds.sae_training.reference import training_page

ROOT = Path(__file__).parents[2]


def schema_classes() -> list[type]:
    found = [*vars(schema).values(), *vars(config).values()]
    return [value for value in found if isinstance(value, type) and is_dataclass(value)]


@pytest.mark.parametrize("cls", schema_classes())
def test_every_setting_says_what_it_means(cls: type) -> None:
    docs = field_docs(cls)
    assert [field.name for field in fields(cls) if not docs.get(field.name)] == []


@pytest.mark.parametrize("task", ["math", "summarization", "translation"])
def test_a_commented_config_loads_back_equal(task: str, tmp_path: Path) -> None:
    path = tmp_path / "igds.yaml"
    path.write_text(commented_yaml(example(task)), encoding="utf-8")
    assert load_config(path).config == example(task)


def test_a_stage_is_switched_on_by_its_comment(tmp_path: Path) -> None:
    text = commented_yaml(example("math"))
    on = text.replace("\n# finetune: {}\n", "\nfinetune: {}\n")
    on = on.replace("\n# evaluate: {}\n", "\nevaluate: {}\n")
    assert on != text and "\n# experiment:\n" in text  # that needs a grid
    path = tmp_path / "igds.yaml"
    path.write_text(on, encoding="utf-8")
    found = load_config(path).config
    assert (found.finetune, found.evaluate) == (Finetune(), Evaluate())


def test_comments_are_the_docstrings_and_absent_keys_are_comments() -> None:
    lines = commented_yaml(example("math")).splitlines()
    place = lines.index("  min_frequency: 0.8")
    assert "(tau)" in lines[place - 1] and lines[place - 1].startswith("  # ")
    assert "  # revision:" in lines
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("name", "page"), [("config.md", reference_page()), ("saes.md", training_page())]
)
def test_the_pages_in_docs_are_the_schemas(name: str, page: str) -> None:
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == page, f"docs/{name} is old: run `make docs`"


def test_the_pages_list_every_setting() -> None:
    page = reference_page() + training_page()
    for cls in schema_classes():
        for field in fields(cls):
            assert f"| `{field.name}` |" in page
    assert "## data.prior[]" in page
    assert "## select.budget" in page
    assert "## sources[]" in page
