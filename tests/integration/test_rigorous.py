"""The rigorous mode through the pipeline: joint deltas, the record of S3, the budget, the plan."""

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO

import pyarrow.compute as pc
import pytest
from tests.tiny_project import build_project, run

from igds.cli.main import main
from igds.errors import RequestError

TWO = (
    "--intervene.screen-keep",
    "20",
    "--intervene.exact-keep",
    "12",
    "--intervene.confirm-n",
    "10",
)
TWO += ("--intervene.top-k", "2")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return build_project(tmp_path_factory.mktemp("rigorous"))


@pytest.fixture
def fresh(project, tmp_path):
    """The project with recall done, as nothing after it changes recall."""
    if not (project / "runs").exists():
        run(project, until="recall")
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    return tmp_path


def facts(project):
    return json.loads((project / "runs/tiny/intervene/task_features.json").read_text())


def stdout_of(*words):
    out = StringIO()
    with redirect_stdout(out):
        assert main([str(word) for word in words]) == 0
    return out.getvalue()


def test_two_features_have_a_joint_delta_on_s3(fresh):
    found = run(fresh, *TWO, "--intervene.across", "live", until="intervene")
    names = facts(fresh)["features"]
    assert len(names) == 2 and facts(fresh)["group"] == "+".join(names)
    rows = found.effects.filter(pc.equal(found.effects["feature"], "+".join(names)))
    assert rows["split"].to_pylist() == ["S3"]
    assert rows["n"].to_pylist() == [6]
    assert rows["delta"][0].as_py() != 0.0
    assert facts(fresh)["spent_by_step"]["joint delta on S3"] > 0


def test_reading_s3_again_under_another_plan_is_said(fresh):
    run(fresh, until="intervene")
    assert (facts(fresh)["s3_readings"], facts(fresh)["s3_first_plan"]) == (1, None)
    record = fresh / "runs/s3.jsonl"
    assert len(record.read_text().splitlines()) == 1
    # begun again from nothing, the same plan is the same reading
    shutil.rmtree(fresh / "runs/tiny/intervene")
    run(fresh, until="intervene")
    assert facts(fresh)["s3_readings"] == 1
    run(fresh, "--intervene.coefficient", "2", until="intervene", overwrite=True)
    assert facts(fresh)["s3_readings"] == 2
    assert facts(fresh)["s3_first_plan"]["coefficient"] == 1.0
    assert len(record.read_text().splitlines()) == 2
    said = stdout_of("status", fresh / "runs/tiny")
    assert "S3 READ AGAIN: S3 was read 2 times" in said and "coefficient 1, top_k 1" in said
    assert "run tiny)" in said


def test_another_name_does_not_reset_the_record_of_s3(fresh):
    paper = ("--name", "published", "--intervene.mode", "paper", "--intervene.max-new-tokens", "4")
    run(fresh, *paper, until="intervene")
    run(fresh, until="intervene")
    # the paper mode read every validation row, those of S3 among them
    assert facts(fresh)["s3_readings"] == 2
    assert facts(fresh)["s3_first_plan"]["run"] == "published"
    lines = [json.loads(line) for line in (fresh / "runs/s3.jsonl").read_text().splitlines()]
    assert [one["run"] for one in lines] == ["published", "tiny"]
    assert set(lines[1]["row_hashes"]) < set(lines[0]["row_hashes"])


def test_more_pool_rows_are_no_other_plan(fresh):
    run(fresh, until="intervene")
    pool = fresh / "pool.jsonl"
    pool.write_text(pool.read_text() + json.dumps({"question": "7 and 8", "answer": "15"}) + "\n")
    run(fresh, until="intervene", overwrite=True)
    assert facts(fresh)["s3_readings"] == 1
    prior = fresh / "prior.jsonl"
    prior.write_text(prior.read_text() + json.dumps({"question": "9 and 8"}) + "\n")
    run(fresh, until="intervene", overwrite=True)
    assert facts(fresh)["s3_readings"] == 2


def costs(project):
    """Return the budget and what was spent of it, as the manifest has them."""
    manifest = json.loads((project / "runs/tiny/manifest.json").read_text())
    return manifest["budget"], manifest["spent"]


def test_a_budget_is_kept_or_the_funnel_refused_before_any_model_work(fresh):
    with pytest.raises(RequestError, match="intervene.budget is 100 forward equivalents") as no:
        run(fresh, "--intervene.budget", "100", until="intervene")
    assert "exact deltas on S1" in str(no.value)
    part = fresh / "runs/tiny/intervene.part"
    assert [path.name for path in part.iterdir()] == ["stage.json"]
    run(fresh, until="intervene", overwrite=True)
    free = facts(fresh)
    assert free["budget"] is None
    total = sum(free["spent_by_step"].values())
    assert free["spent"] <= total <= free["spent"] + len(free["spent_by_step"])
    assert costs(fresh) == (None, free["spent"])
    enough = 10 * free["spent"]
    run(fresh, "--intervene.budget", str(enough), until="intervene", overwrite=True)
    assert costs(fresh) == (enough, free["spent"])
    assert facts(fresh)["spent"] == free["spent"] <= facts(fresh)["budget"]


def test_plan_says_how_many_prompts_a_delta_needs(fresh):
    config = fresh / "igds.yaml"
    said = stdout_of("plan", config, "--minutes", "1")
    assert "once its deviation between prompts is measured" in said
    assert "1 minutes here are about" in said
    run(fresh, until="intervene")
    family = json.loads((fresh / "runs/tiny/intervene/plan.json").read_text())["features"]
    said = stdout_of("plan", config, "--delta", "0.5", "0.01")
    assert "for 0.5" in said and all(name in said for name in family)
    assert "at the family-wise level 0.05 over 2 features" in said
    # the bars are those under which S3 was read, not those of a configuration changed since
    said = stdout_of("plan", config, "--delta", "0.5", "--intervene.delta-min", "0.4")
    assert "above delta_min 0 nats a token" in said
    (fresh / "runs/tiny/intervene/plan.json").unlink()
    assert "runs/tiny/intervene has no plan.json" in stdout_of("plan", config).replace("\n", " ")
