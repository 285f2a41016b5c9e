"""The page's words, units and marks follow the edit, the metric and who was confirmed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from report_folder import TASK_FEATURE, Plan, write_run, write_table
from report_planted import LIKELIHOOD, OUTPUTS, plant
from test_reporting import Page

from igds.features import FeatureId
from igds.reporting.figures import positive_features
from igds.reporting.page import write_report
from igds.reporting.summaries import Positive
from igds.stability.agreement import Identification, agreement
from igds.stability.page import stability_page

CLAMPED = "set the feature to its largest activation on the prior prompts"


def judged(folder: Path, facts: Mapping[str, Any]) -> None:
    """Change what `task_features.json` says."""
    path = folder / "intervene" / "task_features.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def page_of(folder: Path) -> Page:
    write_report(folder, folder / "report" / "index.html")
    return Page((folder / "report" / "index.html").read_text(encoding="utf-8"))


def section(page: Page, start: str, end: str) -> str:
    """Return the words from the title of one section to that of another."""
    return page.text[page.text.rindex(start) : page.text.rindex(end)]


def positive(page: Page) -> str:
    return section(page, "Positive features by block", "Of all features the SAEs know")


def scored(folder: Path) -> None:
    """Write a run whose S2 and S3 were judged on the task's score."""
    write_run(folder, Plan(recalled=20, task_features=(TASK_FEATURE, "L21/3")))
    plant(folder, {"metric": "task_score", **LIKELIHOOD, **OUTPUTS})
    judged(folder, {"judged_on": "task score"})


def paper(folder: Path, rule: str) -> None:
    """Write a run in the paper mode, its features edited by a rule at two positions."""
    write_run(folder, Plan(recalled=20))
    path = folder / "intervene" / "effects.parquet"
    rows = [row for row in pq.read_table(path).to_pylist() if row["split"] == "S2"]
    facts = {"split": "all", "metric": "task_score", "rule": rule, **OUTPUTS}
    facts |= {"contrast": None}
    write_table(
        path,
        [row | facts | {"position": at} for row in rows for at in ("read", "generated")],
    )
    words = [
        {"feature": TASK_FEATURE, "position": at, "word": "sum", "log_ratio": 2.5}
        | {"outputs": 31, "original_outputs": 3, "n": 100}
        for at in ("read", "generated")
    ]
    write_table(folder / "intervene" / "words.parquet", words)
    pilot = {"rows": 50, "score": 0.3219, "discordant": 17, "expected_discordant": 34.0}
    pilot |= {"prompts": 100, "reason": "", "broken": 0.2}
    (folder / "intervene" / "pilot.json").write_text(json.dumps(pilot))
    judged(folder, {"judged_by": "read", "judged_on": "task score", "two_sided": {}})


def test_positive_features_of_a_likelihood_run_are_in_nats(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(recalled=20))
    text = positive(page_of(tmp_path))
    assert "own contribution at the read position, and the correct answers became likelier" in text
    assert "filled S3, pale S2, hollow S1" in text and "Deltas in nats per response token" in text
    assert "speaks against" not in text and "task score" not in text


def test_positive_features_of_a_task_score_run_are_in_task_score(tmp_path: Path) -> None:
    scored(tmp_path)
    text = positive(page_of(tmp_path))
    assert "and the task's score of generated outputs rose" in text
    assert text.count("Deltas of the task score, 0 to 1") == 2
    assert "filled S3, pale S2." in text and "S1" not in text and "nats" not in text


def test_positive_features_that_were_ablated_are_said_to_be_harmful(tmp_path: Path) -> None:
    paper(tmp_path, "ablate")
    text = positive(page_of(tmp_path))
    assert "interventions set the feature to 0 at the read position" in text
    assert "speaks against a feature" in text and "likelier" not in text and "S3" not in text


def test_the_papers_features_stand_beside_the_size_of_their_push(tmp_path: Path) -> None:
    paper(tmp_path, "amplify")
    text = section(page_of(tmp_path), "The published procedure: each", "Generated outputs")
    order = json.loads((tmp_path / "intervene" / "task_features.json").read_text())["order"]
    assert text.count("push 3.2 %, KL 0.00123") == len(order)


def test_only_confirmed_features_are_green(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(recalled=20, outcome="confirmed"))
    plant(tmp_path, {"label": "helpful"})
    classes = page_of(tmp_path).values("class")
    assert classes.count("badge helpful") == 1 and classes.count("badge unclear") == 15


def test_doses_that_did_not_fit_are_not_passed_over(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(recalled=20))
    judged(tmp_path, {"two_sided": {}})
    assert "+0.0601 two sides not tested: over the budget" in page_of(tmp_path).text


@pytest.mark.parametrize(
    ("rule", "words"), [("clamp", CLAMPED), ("ablate", "set the feature to 0")]
)
def test_words_of_outputs_name_the_edit_and_its_position(
    tmp_path: Path, rule: str, words: str
) -> None:
    paper(tmp_path, rule)
    page = page_of(tmp_path)
    assert f"where interventions {words} at the read position, against" in page.text
    assert f"where interventions {words} at the read position and every later token" in page.text
    assert not re.search("amplified", page.html, flags=re.IGNORECASE)
    assert "At every token" not in page.text


def test_outputs_beyond_the_twentieth_feature_are_counted(tmp_path: Path) -> None:
    paper(tmp_path, "amplify")
    order = [TASK_FEATURE, *(f"L9/{1000 + 37 * 3 * k}" for k in range(5))]
    assert "as they are ordered" not in page_of(tmp_path).text
    judged(tmp_path, {"order": order + order[1:] * 3})
    assert "The first 20 of 21 features, as they are ordered" in page_of(tmp_path).text


@pytest.mark.parametrize("metric", ["logprob", "task_score"])
def test_the_joint_delta_has_the_unit_of_its_metric(tmp_path: Path, metric: str) -> None:
    if metric == "task_score":
        scored(tmp_path)
    else:
        write_run(tmp_path, Plan(recalled=20, task_features=(TASK_FEATURE, "L21/3")))
    text = page_of(tmp_path).text
    found = text[text.index("Edited together") : text.index("Which features were confirmed")]
    assert ("move the correct answers by" in found) == (metric == "logprob")
    assert ("move the task score by" in found) == (metric == "task_score")
    assert ("nats per response token on S3" in found) == (metric == "logprob")
    assert ("both in nats per response token" in found) == (metric == "task_score")


def test_scores_and_nats_have_axes_of_their_own(tmp_path: Path) -> None:
    scored(tmp_path)
    alone = whiskers(page_of(tmp_path))
    plant(tmp_path, {"delta": 0.9, "delta_low": 0.8, "delta_high": 1.0})
    page = page_of(tmp_path)
    assert "all whiskers of one unit share one axis" in page.text
    # Larger scores move the marks of scores only: the contrast keeps its place.
    assert whiskers(page)["Contrast"] == alone["Contrast"]
    assert whiskers(page)["Delta on S3"] != alone["Delta on S3"]


def whiskers(page: Page) -> dict[str, list[str]]:
    """Return row of the first table -> the styles of its marks."""
    table = page.html[page.html.index('class="facing"') :]
    rows = re.findall(r"<tr><th[^>]*>([^<]*)<small>.*?</tr>", table, flags=re.DOTALL)
    bodies = re.findall(r"<tr><th[^>]*>[^<]*<small>(.*?)</tr>", table, flags=re.DOTALL)
    found = zip(rows, bodies, strict=True)
    return {name: re.findall(r'style="([^"]*)"', body) for name, body in found}


def test_numbers_of_one_cell_are_told_apart_in_words(tmp_path: Path) -> None:
    write_run(tmp_path, Plan(recalled=20))
    page = page_of(tmp_path)
    rivals = section(page, "The rivals", "Passed over")
    cell = r"% control [\d.]+ %( =)? inactive 4 of 100"
    assert len(re.findall(cell, rivals)) == 15
    assert len(re.findall(r"0.0123 q 0.0321", rivals)) == 9
    assert rivals.count("without first 5:") == 15
    assert f"{TASK_FEATURE.split('/')[1]} task feature +0.042 (S3)" in positive(page)
    heads = [attrs for tag, attrs in page.tags if tag == "th"]
    assert heads and all(attrs.get("scope") in ("row", "col") for attrs in heads)


def test_task_features_of_an_identification_are_named_as_such() -> None:
    found = Identification(
        prior="a",
        seed=0,
        recalled=frozenset("pq"),
        order=("p", "q"),
        deltas={"p": 2.0, "q": 1.0},
        outcome="confirmed",
        features=("q",),
    )
    results = {"priors": {"a": 1}, "seeds": [0], **agreement([found], 2)}
    page = Page(stability_page("run", results))
    assert "p (1), q task feature (1)" in page.text
    heads = [attrs for tag, attrs in page.tags if tag == "th"]
    assert heads and all(attrs.get("scope") in ("row", "col") for attrs in heads)


def test_a_feature_of_index_0_is_named_where_it_is_marked() -> None:
    feature = FeatureId(9, 0)
    found = [Positive(id=feature, delta=0.1, measured="S3")]
    other = [*found, Positive(id=FeatureId(9, 500), delta=0.1, measured="S3")]
    assert ">L9/0</text>" in positive_features(found, [feature])
    assert ">L9/0</text>" in positive_features(other, [feature])
