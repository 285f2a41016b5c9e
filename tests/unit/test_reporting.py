"""The page shows what was planted and escapes what is hostile."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from report_folder import HOSTILE, TASK_FEATURE, Plan, write_run, write_table

from igds.reporting.page import write_report

VOID = {"meta", "br", "img", "link", "hr", "input", "path", "use"}
SECTIONS = ("features", "others", "positive", "recall", "scores", "rows", "unscored", "facts")


class Page(HTMLParser):
    """A parsed page: its text, its tags with attributes, and whether the tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html, self.words, self.tags, self.open = html, [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


def make_page(folder: Path, plan: Plan) -> Page:
    write_run(folder, plan)
    write_report(folder, folder / "report" / "index.html")
    return Page((folder / "report" / "index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return make_page(tmp_path_factory.mktemp("run"), Plan())


@pytest.mark.parametrize(
    "planted",
    [
        "118 of 600 pool rows selected by igds, ranked by the activation of L14/11575",
        "Delta on S3on 100 prompts nothing before had read+0.042 [+0.0",
        "Delta on S2features are taken in the order of S2, so a rival may have more on S3+0.0",
        "Interventions add 1 times the feature's own contribution at the read position.",
        "push 3.2 %, KL 0.00123",
        "1 leaves plain text as it is1.046",
        "Prompts where it is inactivethere the intervention does nothing4 of 100",
        "share of task prompts on which it is active94.3 %",
        "the same on rows of other tasks12.3 %",
        "0.876 [0.840, 0.910]",
        "against other templates0.642",
        "␣therefore",
        "↵↵",
        "90 of 240 features pass",
        "0.812",
        "47.3",
        "2.1 %",
        "Spearman correlation −0.14",
        "rank correlation of 0.93",
        "not specific: the lower end of its AUROC is 0.47",
        "Method, budgetigds; ratio 0.2",
        "3 min 12 s",
        "20260113",
        "prior30029927,4111 empty_prompt",
        "put your final answer within \\boxed{}. Solution:",
        "gsm8k, row ",
    ],
)
def test_planted_values_are_shown(page: Page, planted: str) -> None:
    assert planted in page.text


def test_every_row_without_a_score_is_counted(page: Page) -> None:
    section = page.text[page.text.index("Rows of the pool by status.") :]
    table = section[: section.index("The run")]
    assert "Statusindexigdsrandom" in table
    assert "ok593593592" in table
    assert "bad_json222" in table
    assert "no_value··1" in table
    assert "too_long444" in table


def test_tags_nest_and_anchors_lead_somewhere(page: Page) -> None:
    assert not page.open
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for link in page.values("href") + page.values("xlink:href"):
        outside = link.startswith(("https://www.neuronpedia.org/", "cards/"))
        assert outside or link.removeprefix("#") in ids
    referenced = re.findall(r"url\(#([^)]*)\)", page.html)
    assert set(referenced) <= set(ids)


def test_page_needs_no_network_and_no_script(page: Page) -> None:
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "img", "object", "embed", "base", "form", "b>"}
    assert not page.values("src")
    assert "@import" not in page.html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page.html))
    policy = [a["content"] for t, a in page.tags if a.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_hostile_rows_are_text(page: Page) -> None:
    assert "<script>alert('x')</script>⟨U+202E⟩evil⟨U+202C⟩⟨U+2028⟩next␀ &amp; \"q\"" in page.text
    assert not set(HOSTILE) & set("\u202e\u2028\x00") & set(page.html)
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "strategyqa<b>" in page.text
    assert "best is L14/11575 <i>unproven</i>" in page.text
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert max(map(len, page.text.split(" "))) < 400
    assert "…[5,000 characters]" in page.text


def test_neuronpedia_links_only_where_the_sae_names_one(page: Page) -> None:
    links = {link for link in page.values("href") if link.startswith("https://")}
    start = "https://www.neuronpedia.org/gemma-2-2b/14-gemmascope-res-16k/"
    assert f"{start}11575" in links
    assert all(link.startswith(start) for link in links)


def test_hostile_neuronpedia_name_stays_inside_the_address(tmp_path: Path) -> None:
    write_run(tmp_path, Plan())
    path = tmp_path / "recall" / "quality.json"
    quality = json.loads(path.read_text())
    quality["L14"]["neuronpedia_id"] = 'x" onclick="alert(1)?a=<b>#'
    path.write_text(json.dumps(quality))
    write_report(tmp_path, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    (link, *_) = [link for link in page.values("href") if link.endswith("/11575")]
    assert link == (
        "https://www.neuronpedia.org/x%22%20onclick%3D%22alert%281%29%3Fa%3D%3Cb%3E%23/11575"
    )
    assert not page.values("onclick")


@pytest.mark.parametrize(
    ("plan", "stamp"),
    [
        (Plan(), "UNCONFIRMED"),
        (Plan(until="intervene", outcome="none"), "NO TASK FEATURE"),
        (Plan(until="index", overlap="allow"), "OVERLAP ALLOWED"),
    ],
)
def test_reservations_stand_before_any_number(tmp_path: Path, plan: Plan, stamp: str) -> None:
    html = make_page(tmp_path, plan).html
    assert 0 < html.index(f"<strong>{stamp}</strong>") < html.index('class="tiles"')


def test_a_confirmed_disjoint_run_bears_no_stamp(tmp_path: Path) -> None:
    page = make_page(tmp_path, Plan(outcome="confirmed"))
    assert 'class="stamp"' not in page.html


def test_labels_of_an_unconfirmed_run_do_not_look_confirmed(tmp_path: Path) -> None:
    confirmed = make_page(tmp_path / "a", Plan(outcome="confirmed"))
    doubtful = make_page(tmp_path / "b", Plan())
    assert "badge helpful" in confirmed.values("class")
    assert "badge helpful" not in doubtful.values("class")
    assert "not confirmed" in doubtful.text
    assert "not confirmed" not in confirmed.text


def test_overlaps_are_listed(tmp_path: Path) -> None:
    page = make_page(tmp_path, Plan(until="index", overlap="allow"))
    assert "prior and pool: 3 equal rows, 17 rows with a common 13-word run" in page.text


@pytest.mark.parametrize(
    ("until", "sections"),
    [
        ("index", ("unscored", "facts")),
        ("recall", ("recall", "unscored", "facts")),
        ("intervene", ("features", "others", "positive", "recall", "unscored", "facts")),
        ("select", ("features", "others", "positive", "recall", "scores", "unscored", "facts")),
        ("report", SECTIONS),
    ],
)
def test_sections_are_those_of_the_stages_that_ran(
    tmp_path: Path, until: str, sections: tuple[str, ...]
) -> None:
    page = make_page(tmp_path, Plan(until=until))
    found = tuple(attrs["id"] for tag, attrs in page.tags if tag == "section")
    assert found == sections
    assert [link for link in page.values("href") if link[0] == "#" and link[1:] in SECTIONS] == [
        f"#{name}" for name in sections
    ]


def test_several_task_features_each_have_a_column_and_a_strip(tmp_path: Path) -> None:
    names = (TASK_FEATURE, "L9/892", "L21/30170")
    page = make_page(tmp_path, Plan(task_features=names))
    assert "L14/11575, L9/892, L21/30170" in page.text
    strips = [attrs for tag, attrs in page.tags if attrs.get("class") == "strip"]
    responses = 10
    assert len(strips) == 3 * 10 + responses


def test_a_cut_inside_a_tie_is_warned_of(tmp_path: Path, page: Page) -> None:
    tied = make_page(tmp_path, Plan(tied=True))
    assert "The cut falls inside a tie." in tied.text
    assert "The cut falls inside a tie." not in page.text


def test_same_run_gives_same_bytes(tmp_path: Path) -> None:
    assert make_page(tmp_path / "a", Plan()).html == make_page(tmp_path / "b", Plan()).html


def test_rows_may_come_from_another_folder(tmp_path: Path) -> None:
    write_run(tmp_path / "run", Plan())
    (tmp_path / "run" / "report").rename(tmp_path / "part")
    write_report(tmp_path / "run", tmp_path / "without.html")
    write_report(tmp_path / "run", tmp_path / "with.html", tmp_path / "part")
    assert 'id="rows"' not in (tmp_path / "without.html").read_text()
    assert 'id="rows"' in (tmp_path / "with.html").read_text()


def test_figures_are_text_in_the_colours_of_the_page(page: Page) -> None:
    svgs = re.findall(r"<svg.*?</svg>", page.html, flags=re.DOTALL)
    assert len(svgs) == 5
    for svg in svgs:
        assert "<text" in svg
        assert "var(--muted)" in svg
        assert not re.search(r"#0102|#000000|black|DejaVu|width=\"[\d.]+pt", svg)
    assert ">Recalled features</text>" in svgs[1]
    assert all(">L14/11575</text>" in svgs[place] for place in (0, 2))


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, igds.reporting.page; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


TRANSFERRED = {
    "feature": TASK_FEATURE,
    "frequency": 0.4321,
    "control_frequency": 0.1111,
    "specificity": 0.4567,
    "specificity_low": 0.4001,
    "specificity_high": 0.5002,
}


def transfer_page(folder: Path, reason: str | None) -> Page:
    write_run(folder, Plan())
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("model:\n", "model:\n  train_id: big\n", 1))
    write_table(folder / "transfer" / "features.parquet", [TRANSFERRED])
    summary = {"model": "big<b>", "revision": None, "reason": reason}
    (folder / "transfer" / "summary.json").write_text(json.dumps(summary))
    write_report(folder, folder / "report" / "index.html")
    return Page((folder / "report" / "index.html").read_text(encoding="utf-8"))


def test_the_model_to_be_trained_is_shown(tmp_path: Path) -> None:
    page = transfer_page(tmp_path, None)
    assert "Frequency in the model to be trainedbig<b>" in page.text
    assert "43.2 % [11.1 %]" in page.text
    assert "0.457 [0.400, 0.500] fires less on the task" in page.text
    assert not page.open


def test_a_model_to_be_trained_that_could_not_be_measured_says_why(tmp_path: Path) -> None:
    page = transfer_page(tmp_path, "it has 3 blocks")
    assert "In the model to be trainedbig<b>Not measured: it has 3 blocks." in page.text
    assert "43.2 %" not in page.text


def test_without_such_a_model_nothing_is_said(page: Page) -> None:
    assert "model to be trained" not in page.text


def test_the_family_test_the_controls_and_the_doses_are_shown(page: Page) -> None:
    assert "0.0123 (q 0.0321)" in page.text
    assert "other decoder rows +0.0038" in page.text  # 95th percentile of 0 to 0.0038
    assert "residual draws +0.0019" in page.text
    assert "1: \u22120.0391, " in page.text and "2: +0.0601" in page.text
    assert "one-sided" not in page.text
    assert "Of 12 features that it left out" in page.text
    assert "at most 35.4 % by the interval" in page.text
    assert "S3 READ AGAIN" not in page.text


def test_the_budget_and_what_was_spent_stand_with_the_costs(page: Page) -> None:
    costs = page.text[page.text.rindex("Time and memory") :]
    said = "Interventions ran 123,456 forward equivalents (tokens through the whole model) of a "
    assert f"{said}budget of 200,000." in costs
    assert page.text.count("forward equivalents") == 1


def test_a_split_that_was_read_before_is_stamped_with_its_first_plan(tmp_path: Path) -> None:
    page = make_page(tmp_path, Plan(outcome="confirmed", readings=3))
    assert "S3 READ AGAIN" in page.text
    assert "S3 was read 3 times" in page.text
    assert "coefficient 0.5, top_k 1 and the features L9/7, L14/8" in page.text


def test_what_task_features_do_together_is_shown(tmp_path: Path) -> None:
    page = make_page(tmp_path, Plan(task_features=(TASK_FEATURE, "L21/3")))
    assert f"Edited together, each in the same way, {TASK_FEATURE}+L21/3 move" in page.text
    assert "+0.062 [" in page.text and "p 0.0123, adjusted for all groups" in page.text


def outputs_page(folder: Path, reason: str) -> Page:
    """Return the page of a run whose task feature was judged on generated outputs too."""
    write_run(folder, Plan())
    path = folder / "intervene" / "effects.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        if row["feature"] == TASK_FEATURE and row["split"] == "S3":
            row |= {"task_score": 0.4321, "original_score": 0.3456, "changed": 61}
            row |= {"tokens": 87.65, "original_tokens": 76.54}
            row |= {"broken": 0.1357, "original_broken": 0.2468}
            row |= {"side_effects": "longer, fewer broken"}
            row |= {"delta_pass_k": 0.0579, "pass_k_low": 0.0123, "pass_k_high": 0.1012}
    write_table(path, rows)
    words = [
        {"feature": TASK_FEATURE, "position": "read", "word": word, "log_ratio": 2.5 - place}
        | {"outputs": 31 - place, "original_outputs": 3, "n": 100}
        for place, word in enumerate(("therefore", "<b>", "\u202etotal"))
    ]
    write_table(folder / "intervene" / "words.parquet", words)
    pilot = {"rows": 50, "score": 0.3219, "discordant": 17, "expected_discordant": 34.0}
    pilot |= {"prompts": 100, "reason": reason, "broken": 0.2}
    (folder / "intervene" / "pilot.json").write_text(json.dumps(pilot))
    write_report(folder, folder / "page.html")
    return Page((folder / "page.html").read_text(encoding="utf-8"))


def test_what_generated_outputs_show_is_on_the_page(tmp_path: Path) -> None:
    text = outputs_page(tmp_path, "").text
    for shown in ("0.322", "17 of them", "34.0", "0.432 [0.346]", "87.7 [76.5]", "13.6 % [24.7 %]"):
        assert shown in text
    assert "61 of 100" in text and "longer, fewer broken" in text and "+0.058" in text
    assert "therefore: in 31 of 100 outputs, unedited 3" in text
    assert "Uninformative" not in text


def test_an_uninformative_metric_is_said_and_hostile_words_are_text(tmp_path: Path) -> None:
    page = outputs_page(tmp_path, "the score is 0.01")
    assert "Uninformative: the score is 0.01." in page.text
    assert "judged on likelihood, not on task score" in page.text
    assert "\u202e" not in page.html and "<b>:" not in page.html


def test_without_outputs_nothing_is_said_of_them(page: Page) -> None:
    assert "Generated outputs" not in page.text
