from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from igds.config.identity import dump_yaml
from igds.config.inputs import Source
from igds.config.load import ConfigFile, load_config
from igds.errors import RequestError

BASE = """
name: first
model: {id: some/model}
saes: [{path: sae}]
data:
  prior: [{path: prior.jsonl}]
  validation: [{path: validation.jsonl}]
  pool: [{path: pool.jsonl}, {path: more.jsonl, columns: {question: problem}}]
recall: {}
intervene: {}
score: {}
"""
DIVERSE = "select: {diversity: {column: rds, candidates: 1.5}}"


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load_text(text: str, *overrides: str) -> ConfigFile:
        path = tmp_path / "igds.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides)

    return load_text


def refusal(load: Any, text: str, *overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        load(text, *overrides)
    return str(caught.value)


def test_base_is_the_folder_of_the_file(load: Any, tmp_path: Path) -> None:
    file = load(BASE)
    assert file.base == tmp_path.resolve()
    assert file.config.name == "first"
    assert file.config.data.pool[1].columns == {"question": "problem"}
    assert file.config.report is None


@pytest.mark.parametrize("written", ["0.145", "0.1450", "1e-3", ".5", "0.10000000000000000000001"])
def test_a_ratio_is_the_decimal_that_was_written(load: Any, written: str) -> None:
    config = load(f"{BASE}select: {{budget: {{ratio: {written}}}}}").config
    assert config.select.budget.ratio == Decimal(written)
    config = load(BASE, "--select.budget.ratio", written).config
    assert config.select.budget.ratio == Decimal(written)


def test_yaml_is_version_1_2(load: Any) -> None:
    text = BASE.replace("name: first", "name: no") + "seed: 0o17\n"
    config = load(text).config
    assert (config.name, config.seed) == ("no", 15)


def test_a_small_number_is_a_number(load: Any) -> None:
    assert load(BASE, "--intervene.delta-min", "2e-5").config.intervene.delta_min == 2e-5


@pytest.mark.parametrize(
    ("words", "where", "value"),
    [
        (["--recall.min-frequency", "0.9"], "recall.min_frequency", 0.9),
        (["--recall.min_frequency=0.9"], "recall.min_frequency", 0.9),
        (["--data.pool.0.path", "x y.jsonl"], "data.pool.0.path", "x y.jsonl"),
        (["--data.pool.1.columns.question", "my-col"], "data.pool.1.columns.question", "my-col"),
        (["--name", "2024"], "name", "2024"),
        (["--name=true"], "name", "true"),
        (["--model.revision", "null"], "model.revision", None),
        (["--intervene.delta-min", "-1"], "intervene.delta_min", -1.0),
        (["--intervene.allow-unconfirmed", "true"], "intervene.allow_unconfirmed", True),
        (["--runtime.workers", "3"], "runtime.workers", 3),
        (["--score.methods", "[igds, random]"], "score.methods", ("igds", "random")),
        (["--report", "{rows: 2}"], "report.rows", 2),
        (["--seed", "1", "--seed", "2"], "seed", 2),
        (["--task.response", " {answer}"], "task.response", " {answer}"),
        (["--prompts.template", "{question}\nA:"], "prompts.template", "{question}\nA:"),
        (["--prompts.template", "[{q}"], "prompts.template", "[{q}"),
        (["--task.name", "{a"], "task.name", "{a"),
        (["--prompts.template", "~"], "prompts.template", None),
        (["--prompts.chat-template", "true", "--prompts.system", ""], "prompts.system", ""),
    ],
)
def test_overrides_reach_their_field(load: Any, words: list[str], where: str, value: Any) -> None:
    found: Any = load(BASE, *words).config
    for key in where.split("."):
        if isinstance(found, dict):
            found = found[key]
        else:
            found = found[int(key)] if key.isdecimal() else getattr(found, key)
    assert found == value
    assert type(found) is type(value)


def test_a_command_line_budget_replaces_the_section(load: Any) -> None:
    text = f"{BASE}select: {{budget: {{ratio: 0.145}}, unique: none}}"
    select = load(text, "--select.budget.rows", "5").config.select
    assert (select.budget.ratio, select.budget.rows, select.unique) == (None, 5, "none")


def test_two_command_line_budgets_are_refused(load: Any) -> None:
    said = refusal(load, BASE, "--select.budget.rows", "5", "--select.budget.tokens", "9")
    assert "select.budget takes exactly one of ratio, rows, tokens; got rows and tokens" in said


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("recal: {}", ["recal is not a setting", "did you mean recall?"]),
        ("report: {row: 1}", ["report.row is not a setting", "did you mean report.rows?"]),
        ("min_frequency: 0.9", ["did you mean recall.min_frequency?"]),
        (
            "zzzz: 1",
            [
                "zzzz is not a setting",
                "known: data, evaluate, experiment, finetune, intervene, model",
            ],
        ),
        ("1: 2", ["1 is not a setting"]),
        ("seed: 1.5", ["seed is 1.5, expected a whole number"]),
        ("seed: true", ["seed is True, expected a whole number"]),
        ("seed: '1'", ["seed is '1', expected a whole number"]),
        ("runs_dir: 5", ["runs_dir is 5, expected text"]),
        ("runtime: {workers: many}", ["runtime.workers is 'many', expected a whole number"]),
        ("runtime: {workers: 0}", ["runtime.workers must be at least 1, not 0"]),
        ("runtime: {threads: 0}", ["runtime.threads must be at least 1, not 0"]),
        ("runtime: {batch_tokens: -1}", ["runtime.batch_tokens must be at least 1"]),
        ("runtime: {executor: cloud}", ["runtime.executor is 'cloud', expected one of local, ray"]),
        ("runtime: {device: gpu}", ["runtime.device must be auto, cpu, cuda", "'gpu'"]),
        ("runtime: {device: map, workers: 2}", ["runtime.device map is one model on all GPUs"]),
        ("report:", ["report is empty: write {} for its defaults, or leave it out"]),
        ("report: 5", ["report is 5, expected a section"]),
        ("report: {rows: 0}", ["report.rows must be at least 1"]),
        ("prompts: {control_templates: '{text}:'}", ["prompts.control_templates is", "a list"]),
        ("prompts: {control_templates: ['Next:']}", ["prompts.control_templates", "{text}"]),
        ("task: {name: [math]}", ["task.name is ['math'], expected text"]),
        ("select: {budget: {}}", ["select.budget takes exactly one of", "got none"]),
        ("select: {budget: {ratio: 0}}", ["select.budget.ratio must be over 0"]),
        ("select: {budget: {ratio: 1.01}}", ["select.budget.ratio", "1.01"]),
        ("select: {budget: {ratio: .inf}}", ["select.budget.ratio is inf, expected a number"]),
        ("select: {budget: {rows: 0}}", ["select.budget.rows must be at least 1"]),
        ("select: {budget: {tokens: 2.5}}", ["select.budget.tokens is 2.5"]),
        ("select: {diversity: {}}", ["select.diversity.column is missing"]),
        ("select: {diversity: {column: ''}}", ["select.diversity.column must not be empty"]),
        (
            "select: {diversity: {column: v, candidates: 0.9}}",
            ["select.diversity.candidates must be at least 1, not 0.9"],
        ),
        ("seed: -1", ["seed must be at least 0"]),
        ("name: second", ["duplicate key", "line 12"]),
    ],
)
def test_wrong_settings_are_named(load: Any, extra: str, words: list[str]) -> None:
    said = refusal(load, f"{BASE}{extra}\n")
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("name: first\n", "", "name is missing"),
        ("{id: some/model}", "{}", "model.id is missing"),
        ("{id: some/model}", "{id: ''}", "model.id must not be empty"),
        ("{id: some/model}", "{id: m, dtype: int8}", "model.dtype is 'int8', expected one of auto"),
        ("name: first", "name: a/b", "name must be a plain folder name"),
        ("name: first", "name: ..", "name must be a plain folder name"),
        ("name: first", "name: ''", "name must be a plain folder name"),
        ("name: first", "name: 2024", "name is 2024, expected text"),
        ("[{path: sae}]", "[]", "saes must not be empty"),
        ("[{path: sae}]", "{path: sae}", "saes is {'path': 'sae'}, expected a list"),
        ("[{path: sae}]", "[{path: sae, layer: -1}]", "saes.0.layer must be at least 0"),
        ("[{path: sae}]", "[{path: a, layer: 3}, {path: b, layer: 3}]", "2 SAEs for block 3"),
        ("[{path: prior.jsonl}]", "[]", "data.prior must not be empty"),
        ("[{path: prior.jsonl}]", "[{path: a, limit: 0}]", "data.prior.0.limit must be at least 1"),
        ("[{path: prior.jsonl}]", "[{path: a, colums: {}}]", "did you mean data.prior.0.columns?"),
        ("[{path: prior.jsonl}]", "[{path: a, columns: {q: 1}}]", "data.prior.0.columns.q is 1"),
        ("recall: {}", "recall: {min_frequency: high}", "recall.min_frequency is 'high'"),
        ("recall: {}", "recall: {min_frequency: 0}", "recall.min_frequency must be over 0"),
        ("recall: {}", "recall: {min_frequency: 1.1}", "recall.min_frequency must be over 0"),
        ("recall: {}", "recall: {min_frequency: .nan}", "recall.min_frequency must be over 0"),
        ("intervene: {}", "intervene: {coefficient: 0}", "intervene.coefficient must be over 0"),
        ("intervene: {}", "intervene: {rule: ablate}", "intervene.rule ablate is for mode: paper"),
        ("intervene: {}", "intervene: {rule: clamp, coefficient: 2}", "clamp takes none"),
        ("intervene: {}", "intervene: {mode: paper, position: all}", "is for mode: rigorous"),
        ("intervene: {}", "intervene: {rule: patch}", "intervene.rule is 'patch'"),
        (
            "intervene: {}",
            "intervene: {mode: paper, samples: 4, temperature: 1, pass_k: 4}",
            "intervene.pass_k 4 needs more samples than that, not 4",
        ),
        (
            "intervene: {}",
            "intervene: {samples: 4, temperature: 1, pass_k: 2}",
            "intervene.pass_k is for mode: paper, or metric: task_score",
        ),
        (
            "intervene: {}",
            "intervene: {metric: task_score, top_k: 2}",
            "intervene.metric task_score confirms one feature",
        ),
        ("intervene: {}", "intervene: {delta_min: .inf}", "intervene.delta_min must be a finite"),
        ("intervene: {}", "intervene: {top_k: 11}", "intervene.top_k must be at most confirm_n"),
        ("intervene: {}", "intervene: {order_rows: 0}", "intervene.order_rows must be at least 1"),
        ("score: {}", "score: {methods: [igsd]}", "no method 'igsd'; did you mean igds?"),
        ("score: {}", "score: {methods: []}", "score.methods must not be empty"),
        ("score: {}", "score: {methods: [igds, igds]}", "score.methods names igds 2 times"),
    ],
)
def test_wrong_changes_are_named(load: Any, old: str, new: str, word: str) -> None:
    assert old in BASE
    assert word in refusal(load, BASE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "stage", "said"),
    [
        ("recall: {}", "", "intervene", "intervene needs the section recall"),
        ("  validation: [{path: validation.jsonl}]\n", "", "intervene", "needs the section data.v"),
        ("intervene: {}", "", "score", "score needs the section intervene"),
        ("  pool: [{path: pool.jsonl}", "  test: [{path: a}", "score", "needs the section data.po"),
        ("score: {}", "select: {}", "select", "select needs the section score"),
        ("score: {}", "score: {}\nselect: {method: random}", "select", "select.method is 'random'"),
        ("score: {}", f"score: {{}}\n{DIVERSE}", "select", "select.diversity.column is rds"),
    ],
)
def test_gaps_matter_to_the_stages_that_run(
    load: Any, old: str, new: str, stage: str, said: str
) -> None:
    assert old in BASE
    config = load(BASE.replace(old, new)).config
    stages = ["index", "recall", "intervene", "score", "select"]
    config.check_stages(stages[: stages.index(stage)])
    with pytest.raises(ValueError, match=said):
        config.check_stages([stage])


@pytest.mark.parametrize(("methods", "old", "new", "said"), [
    ("cosine-best", "recall: {}\nintervene: {}\n", "", "recall (for cosine-best)"),
    ("cosine, probe", "  pool:", "  control: []\n  pool:", "data.control (for cosine, probe)"),
    ("cosine-best", "  validation:", "  test:", "data.validation (for cosine-best)"),
])  # fmt: skip
def test_methods_need_their_sets(load: Any, methods: str, old: str, new: str, said: str) -> None:
    text = BASE.replace("score: {}", f"score: {{methods: [{methods}]}}")
    load(text).config.check_stages(["score"])
    with pytest.raises(ValueError, match=re.escape(f"score needs the section {said}")):
        load(text.replace(old, new)).config.check_stages(["score"])


def test_a_stage_by_a_method_without_features_needs_no_interventions(load: Any) -> None:
    text = BASE.replace("intervene: {}\nscore: {}", "score: {methods: [random]}")
    load(text).config.check_stages(["recall", "score"])


def test_every_problem_is_named_at_once(load: Any) -> None:
    said = refusal(load, f"{BASE}seed: x\nreport: {{rows: y}}\nnope: 1\n")
    assert all(word in said for word in ("seed is 'x'", "report.rows is 'y'", "nope is not"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--recall"], "--recall has no value"),
        (["--recall.min-frequency", "--seed"], "--recall.min-frequency has no value"),
        (["extra"], "'extra' is not an override"),
        (["--data.pool.2.path", "x"], "data.pool has 2 items, counted from 0: no item 2"),
        (["--data.pool.first.path", "x"], "no item first"),
        (["--data.0", "x"], "data is a section, which has no item 0"),
        (["--name.first", "x"], "name is 'first' in the file: nothing can be set below it"),
        (["--seed", "[1"], "seed is '[1', which is not YAML"),
        (["--seed", "soon"], "seed is 'soon', expected a whole number"),
        (["--recall.min-freq", "0.9"], "did you mean recall.min_frequency?"),
        (["--select.buget.rows", "5"], "did you mean select.budget?"),
        (["--select.ratio", "0.5"], "did you mean select.budget.ratio?"),
    ],
)
def test_wrong_overrides_are_named(load: Any, words: list[str], said: str) -> None:
    assert said in refusal(load, BASE, *words)


@pytest.mark.parametrize("text", ["", "test: ", "test: []"])
def test_an_item_of_an_absent_or_empty_list_is_refused_with_what_to_write(
    load: Any, text: str
) -> None:
    lines = BASE.replace("data:\n", f"data:\n  {text}\n")
    assert lines != BASE
    said = refusal(load, lines, "--data.test.0.path", "x.jsonl")
    assert said.startswith("--data.test.0.path: data.test has no items in the file")
    option, value = said.rpartition("give the list as a whole, ")[2].split(maxsplit=1)
    assert value == "'[{path: x.jsonl}]'"
    config = load(lines, option, value.strip("'")).config
    assert config.data.test == (Source(path="x.jsonl"),)
    assert "--score.methods '[igds]'" in refusal(load, "name: x", "--score.methods.0", "igds")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--seed", "[1"], "--seed is '[1'"),
        (["--recall.min-freq", "0.9"], "--recall.min_freq is not a setting"),
        (["--recall.min-frequency", "80"], "--recall.min_frequency must be over 0"),
        (["--select.buget.rows", "5"], "--select.buget is not"),
        (["--data.pool.2.path", "x"], "--data.pool.2.path: data.pool has 2 items"),
    ],
)
def test_an_error_of_a_typed_value_names_the_option_and_no_file(
    load: Any, words: list[str], option: str
) -> None:
    said = refusal(load, BASE, *words)
    assert said.startswith(option)
    assert "igds.yaml" not in said
    both = refusal(load, f"{BASE}runs_dir: 5\n", "--seed", "soon")
    assert "igds.yaml: runs_dir is 5" in both
    assert "  --seed is 'soon'" in both


def test_dumped_settings_load_back_equal(load: Any) -> None:
    config = load(BASE, "--select.budget.ratio", "1", "--report", "{}").config
    assert load(dump_yaml(config)).config == config


CHAT = BASE.replace("pool: [{path: pool.jsonl}", "pool: [{path: pool.jsonl, messages: turns}")


def test_chat_rows_need_the_chat_template(load: Any) -> None:
    assert "needs chat_template: true" in refusal(load, CHAT)
    config = load(CHAT + "prompts: {chat_template: true, thinking: false, system: ''}").config
    assert config.data.has_chat
    assert (config.prompts.thinking, config.prompts.system) == (False, "")
    assert not load(BASE).config.data.has_chat


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BASE + "prompts: {system: Be brief.}", "system is for chat prompts: set chat_template"),
        (BASE + "prompts: {cue: 'A:'}", "cue is for chat prompts"),
        (CHAT + "prompts: {chat_template: true, cue: 'A: '}", "cue must be text without white"),
        (CHAT + "prompts: {chat_template: true, cue: ''}", "cue must be text without white"),
        (CHAT.replace("{path: more.jsonl,", "{path: more.jsonl, messages: m,"), "keep one of them"),
    ],
)
def test_chat_settings_that_do_not_go_together(load: Any, text: str, words: str) -> None:
    assert words in refusal(load, text)


@pytest.mark.parametrize("value", ["all", "one", 3])
def test_rows_of_one_prompt_are_a_word_or_a_number(load: Any, value: str | int) -> None:
    text = f"{BASE}select: {{per_prompt: {value}}}"
    config = load(text).config
    assert config.select.per_prompt == value
    assert load(f"{BASE}select: {{}}", "--select.per-prompt", str(value)).config == config
    assert load(dump_yaml(config)).config == config


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("two", "select.per_prompt is 'two', expected one of all, one, or a whole number"),
        ("true", "expected one of all, one, or a whole number"),
        ("1.5", "expected one of all, one, or a whole number"),
        ("0", "per_prompt must be at least 1"),
    ],
)
def test_refused_rows_of_one_prompt(load: Any, value: str, words: str) -> None:
    assert words in refusal(load, f"{BASE}select: {{per_prompt: {value}}}")


def test_a_diverse_choice_is_of_the_vectors_of_a_method_or_a_column(load: Any) -> None:
    config = load(BASE.replace("score: {}", f"score: {{methods: [igds, rds]}}\n{DIVERSE}")).config
    config.check_stages(["select"])
    assert config.select.diversity.candidates == Decimal("1.5")
    assert config.select.scored == ("igds", "rds")
    assert replace(config.select, method="rds").scored == ("rds",)
    assert replace(config.select, method="random-matched-2", diversity=None).scored == ("igds",)
    assert load(dump_yaml(config)).config == config
    column = load(BASE, "--select.diversity.column", "vector").config
    column.check_stages(["select"])
    assert column.select.diversity.candidates == 2


def test_a_diverse_choice_and_quotas_do_not_go_together(load: Any) -> None:
    quota = BASE.replace("{path: pool.jsonl}", "{path: pool.jsonl, quota: 0.5}")
    load(quota)
    said = refusal(load, f"{quota}select: {{diversity: {{column: vector}}}}")
    assert "select.diversity does not go with a quota in data.pool" in said
    assert "select.stratify: source" in said
