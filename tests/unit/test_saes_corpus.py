"""The training text: which rows are left out, which held out, and in which form they are shown."""

import gzip
import json
from pathlib import Path

import pytest

from igds.config.load import read_settings
from igds.errors import RequestError
from igds.sae_training.config import SAETraining, TextSource
from igds.sae_training.corpus import Text, fingerprints, read_excluded, read_texts

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart"
LONG = " ".join(f"word{n}" for n in range(30))


def encode(texts: list[str]) -> list[list[int]]:
    """Return one token a character."""
    return [[ord(letter) for letter in text] for text in texts]


def decode(text: Text) -> str:
    return "".join(map(chr, text.ids))


def source(path: str, **settings: object) -> TextSource:
    known = {"name": "rows", "license": "MIT", "url": "https://example.org", "tokens": 10_000}
    return TextSource(path=path, **known | settings)


def read(one: TextSource, root: Path, **settings: object) -> list[Text]:
    defaults = {"excluded": frozenset(), "holdout": 0, "context": 1000, "seed": 0}
    return read_texts(one, root, encode, **defaults | settings)


def write_jsonl(path: Path, rows: list[dict]) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_fingerprints_ignore_case_punctuation_and_white_space() -> None:
    assert fingerprints("One two\nthree!") == fingerprints("one  TWO, three")
    assert fingerprints("one two") == []


def test_a_run_of_13_words_is_shared_and_one_of_12_is_not() -> None:
    words = LONG.split()
    shared = set(fingerprints(LONG))
    assert not shared.isdisjoint(fingerprints("start " + " ".join(words[4:17]) + " end"))
    assert shared.isdisjoint(fingerprints("start " + " ".join(words[4:16]) + " end"))


def test_rows_lines_and_runs_of_excluded_rows_are_left_out(tmp_path: Path) -> None:
    question = "Which of these five cities lies furthest from the sea?"
    write_jsonl(tmp_path / "used.jsonl.gz", [{"question": f"{question}\n- Paris"}, {"text": LONG}])
    kept = {"text": "An entirely different question about the sea?"}
    rows = [{"text": question.upper()}, {"text": f"so {LONG}"}, kept]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    excluded = read_excluded([tmp_path / "used.jsonl.gz"])
    texts = read(source("rows.jsonl"), tmp_path, excluded=excluded)
    assert [decode(text) for text in texts] == [kept["text"]]


def test_wording_common_to_excluded_rows_excludes_nothing(tmp_path: Path) -> None:
    wording = "Is the claim above correct, and can it be verified by human common sense?"
    used = [{"text": f"Claim number {n} of the list.\n{wording}"} for n in range(4)]
    write_jsonl(tmp_path / "used.jsonl", used)
    excluded = read_excluded([tmp_path / "used.jsonl"])
    assert excluded.isdisjoint(fingerprints(f"Another claim, unseen so far today.\n{wording}"))
    assert not excluded.isdisjoint(fingerprints(used[2]["text"]))


def test_held_out_rows_are_not_trained_on_and_take_the_first_template(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": f"row {n}."} for n in range(20)])
    templates = ("{text} A:", "{text} B:", "{text}")
    texts = read(source("rows.jsonl", templates=templates), tmp_path, holdout=5)
    held = [decode(text) for text in texts if text.held_out]
    trained = [decode(text) for text in texts if not text.held_out]
    assert len(held) == 5
    assert all(text.endswith(" A:") for text in held)
    rows = {text.split(".")[0] for text in trained}
    assert rows.isdisjoint(text.split(".")[0] for text in held)
    # Each of the other 15 rows is shown once in every template, no form twice.
    assert len(rows) == 15
    assert len(set(trained)) == len(trained) == 45
    assert len({text.split(".")[0] for text in trained[:15]}) == 15


def test_cue_only_where_the_template_ends_in_one(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "a", "answer": "b:"}])
    one = source(
        "rows.jsonl",
        columns={"text": "text", "answer": "answer"},
        templates=("{text} A:", "{text} A: {answer}"),
    )
    cues = {decode(text): text.cue for text in read(one, tmp_path)}
    assert cues == {"a A:": True, "a A: b:": False}


def test_long_prompts_are_left_out_and_long_passages_cut(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "x" * 30}])
    one = source("rows.jsonl", templates=("{text}:", "{text}"))
    assert [decode(text) for text in read(one, tmp_path, context=20)] == ["x" * 20]


def test_token_budget_and_seeded_order(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": f"{n:03}"} for n in range(200)])
    one = source("rows.jsonl", tokens=100)
    first, again, other = (
        [decode(text) for text in read(one, tmp_path, seed=seed)] for seed in (0, 0, 1)
    )
    assert len(first) == 33
    assert first == again != other


def test_files_of_each_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,body\n1,"two\r\nlines"\n')
    (tmp_path / "a.tsv").write_text("left\\nside\tright\n")
    (tmp_path / "a.eng").write_text("first line\nsecond line\n")
    write_jsonl(tmp_path / "a.jsonl", [{"text": ["joined", "list"]}])

    def texts(one: TextSource) -> set[str]:
        return {decode(text) for text in read(one, tmp_path)}

    assert texts(source("a.csv", columns={"text": "body"})) == {"two\nlines"}
    assert texts(source("a.tsv", columns={"text": "0"})) == {"left\nside"}
    assert texts(source("a.eng")) == {"first line", "second line"}
    assert texts(source("a.jsonl")) == {"joined list"}


def test_books_are_cut_into_passages_that_keep_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("one two\nthree four\n\nfive six seven eight\n\nnine\n")
    texts = read(source("book.txt", passage_words=5), tmp_path)
    assert {decode(text) for text in texts} == {"one two three four", "five six seven eight"}


def test_nothing_matches_and_missing_column(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="source rows: nothing matches"):
        read(source("none.jsonl"), tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", [{"body": "x"}])
    with pytest.raises(RequestError, match="row 0 has no column 'text'"):
        read(source("rows.jsonl"), tmp_path)


SETTINGS = """
model: {id: some/model}
layers: [1]
text_root: text
output: out
cache: cache
read_sources: [rows]
sources:
  - {name: rows, license: MIT, url: "https://example.org", path: rows.jsonl, tokens: 10,
     templates: ["{text} A:"]}
"""


def test_settings_are_strict(tmp_path: Path) -> None:
    path = tmp_path / "saes.yaml"
    path.write_text(SETTINGS)
    assert read_settings(path, ["--lr", "2e-4", "--layers", "[3, 4]"], SAETraining).layers == (3, 4)
    for line, message in {
        "d_seo: 5": "d_seo is not a setting; did you mean d_sae",
        "read_weight: 0": "read_weight must be at least 1, not 0",
        "lr: .nan": "lr must be a finite number",
        "max_norm: 0": "max_norm must be over 0",
        "batch_tokens: 0": "batch_tokens must be at least 1",
        "architecture: gated": "expected one of topk, batchtopk, matryoshka, jumprelu",
        "l0: many": "expected a number",
    }.items():
        path.write_text(f"{SETTINGS}{line}\n")
        with pytest.raises(RequestError, match=message):
            read_settings(path, (), SAETraining)
    path.write_text(SETTINGS.replace('["{text} A:"]', '["{text}"]'))
    with pytest.raises(RequestError, match=r"first template of one of them must end in a cue"):
        read_settings(path, (), SAETraining)
    path.write_text(SETTINGS.replace("tokens: 10", "tokens: 10, passage_words: 0"))
    with pytest.raises(RequestError, match="passage_words must be at least 1, not 0"):
        read_settings(path, (), SAETraining)
    path.write_text(SETTINGS.replace("[rows]", "[others]"))
    with pytest.raises(RequestError, match=r"read_sources \['others'\]: name some of \['rows'\]"):
        read_settings(path, (), SAETraining)


def test_the_quickstart_settings_are_valid() -> None:
    config = read_settings(QUICKSTART / "saes.yaml", (), SAETraining)
    assert config.layers == (9, 15, 21)
    assert all(one.url.startswith("https://") and one.license for one in config.sources)
    # Mathematical or not, rows are shown under the same cues.
    assert len({one.templates for one in config.sources}) == 3


def test_a_template_that_ends_in_a_box_ends_in_a_cue(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}])
    (text,) = read(source("rows.jsonl", templates=("{text} \\boxed{}",)), tmp_path)
    assert text.cue


def test_blank_rows_are_no_text(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": " "}, {"text": "a"}, {"text": ""}])
    assert [decode(text) for text in read(source("rows.jsonl"), tmp_path)] == ["a"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text"', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl, line 1 is no JSON object"),
        ("a.csv", 'text\n"torn', r"a\.csv cannot be read: unexpected end of data"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError, match=said):
        read(source(name), tmp_path)
    if name.endswith(".jsonl"):
        with pytest.raises(RequestError, match=said):
            read_excluded([tmp_path / name])


def test_a_cell_of_any_length_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"text\n{'x' * 200_000}\n")
    (text,) = read(source("a.csv", tokens=300_000), tmp_path, context=300_000)
    assert len(text.ids) == 200_000
