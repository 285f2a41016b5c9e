"""The doctor on tiny projects: SAEs that fit, and four planted faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.doctor_project import build, build_chat
from tests.tiny_project import sums, write_rows

from igds import pipeline
from igds.cli.main import main
from igds.config.load import load_config
from igds.doctor.diagnosis import Diagnosis
from igds.doctor.examine import LayerFigures
from igds.features import FeatureId
from igds.progress import SilentProgress


def diagnose(project: Path, *overrides: str, limit: int = 40) -> Diagnosis:
    file = load_config(project / "igds.yaml", list(overrides))
    return pipeline.diagnose(file, limit=limit, progress=SilentProgress())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project whose SAEs are those of blocks 1 and 2."""
    return build(tmp_path_factory.mktemp("sound"), {1: 1, 2: 2})


def test_saes_that_fit_are_fit(sound: Path) -> None:
    found = diagnose(sound)
    assert found.fit == [1, 2], found.verdicts
    assert [verdict.reasons for verdict in found.verdicts] == [(), ()]
    assert (found.prior_prompts, found.control_prompts, found.paraphrases) == (20, 20, 3)
    assert found.tokens_read == found.prompt_tokens
    assert (found.bos.token, found.bos.added, found.bos.leads) == ("<bos>", True, True)
    for figures in found.figures:
        assert figures.tokens["explained_variance"] > 0.7
        assert figures.all_tokens["explained_variance"] != figures.tokens["explained_variance"]
        assert max(figures.blocks, key=figures.blocks.get) == figures.layer
        assert figures.scale.scale == pytest.approx(1, rel=0.3)
        assert max(feature.task_stability for feature in figures.cue.features) > 0.5


@pytest.mark.parametrize(("configured", "made_for"), [(2, 1), (1, 2), (2, 3)])
def test_a_hook_off_by_one_is_named(tmp_path: Path, configured: int, made_for: int) -> None:
    found = diagnose(build(tmp_path, {configured: made_for}), "--saes", one_sae(configured))
    (verdict,) = found.verdicts
    assert verdict.level == "unfit"
    assert verdict.reasons[0].startswith("OFF BY ONE BLOCK")
    assert f"of block {made_for} and" in verdict.reasons[0]


def test_an_sae_of_another_layer_is_named(tmp_path: Path) -> None:
    project = build(tmp_path, {1: 1, 2: 0})
    good, bad = diagnose(project).verdicts
    assert (good.level, bad.level) == ("fit", "unfit")
    assert bad.reasons[0].startswith("WRONG BLOCK")
    assert "of block 0 and" in bad.reasons[0]


@pytest.mark.parametrize("scale", [16.0, 0.125])
def test_a_missing_input_scale_is_found(tmp_path: Path, scale: float) -> None:
    project = build(tmp_path, {1: 1, 2: 2}, scale=scale)
    for figures, verdict in zip(*figures_and_verdicts(diagnose(project)), strict=True):
        assert verdict.level == "unfit"
        assert verdict.reasons[0].startswith("INPUT SCALE MISSING")
        assert figures.scale.scale == pytest.approx(scale, rel=0.3)
        assert figures.scale.explained_variance > 0.7


def test_a_cue_whose_words_decide_the_order_is_doubted(sound: Path) -> None:
    others = '["{question} #0", "{question} @Z", "{question} ~~"]'
    found = diagnose(sound, "--prompts.paraphrases", others)
    for verdict in found.verdicts:
        assert verdict.level == "doubtful"
        assert "the ranking changes with the cue's words" in verdict.reasons[0]


def test_a_doubled_bos_is_a_finding_and_the_rest_is_measured(sound: Path) -> None:
    once = diagnose(sound)
    text = (sound / "igds.yaml").read_text()
    assert text.count('template: "{question}') == 1
    config = sound / "doubled.yaml"
    config.write_text(text.replace('template: "{question}', 'template: "<bos>{question}'))
    doubled = pipeline.diagnose(load_config(config), limit=40, progress=SilentProgress())
    assert doubled.fit == []
    for verdict in doubled.verdicts:
        assert len(verdict.reasons) == 1
        assert verdict.reasons[0].startswith("DOUBLED BOS: 40 prompts have more than one <bos>")
    assert doubled.bos.surplus == 40
    assert doubled.bos.example.startswith("<bos>")
    assert [one.tokens for one in doubled.figures] == [one.tokens for one in once.figures]


def test_a_bos_inside_a_row_is_a_finding(sound: Path, tmp_path: Path) -> None:
    rows = sums(10, 5)
    rows[3]["question"] += " <bos> and on"
    write_rows(tmp_path / "prior.jsonl", rows)
    found = diagnose(sound, "--data.prior.0.path", str(tmp_path / "prior.jsonl"))
    assert found.bos.surplus == 1
    assert found.fit == []


def test_training_without_bos_is_doubted(tmp_path: Path) -> None:
    project = build(tmp_path, {1: 1, 2: 2})
    path = project / "saes" / "L1" / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"]["prepend_bos"] = False
    path.write_text(json.dumps(config))
    first, second = diagnose(project).verdicts
    assert (first.level, second.level) == ("doubtful", "fit")
    assert "trained on texts without a BOS" in first.reasons[0]


def test_a_stated_l0_far_from_the_measured_one_is_doubted(tmp_path: Path) -> None:
    project = build(tmp_path, {1: 1, 2: 2})
    path = project / "saes" / "L2" / "cfg.json"
    config = json.loads(path.read_text())
    config["metadata"]["l0"] = 300
    path.write_text(json.dumps(config))
    found = diagnose(project)
    assert found.fit == [1]
    assert "the release states 300" in found.verdicts[1].reasons[0]


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project over conversations, with a cue and SAEs that fit."""
    return build_chat(tmp_path_factory.mktemp("conversations"))


WORDS = '["So {text}", "Now {text}", "sum:"]'
"""Two user turns and a cue."""


def test_chat_prompts_are_read_at_the_cue(sound: Path, conversations: Path) -> None:
    found = diagnose(conversations, "--prompts.paraphrases", WORDS)
    assert found.fit == [1, 2], found.verdicts
    assert (found.prior_prompts, found.control_prompts, found.paraphrases) == (20, 20, 3)
    assert (found.bos.token, found.bos.added, found.bos.leads) == ("<bos>", False, True)
    assert found.bos.surplus == 0
    # This chat template makes the prompts of the raw project, so all but stability is the same.
    raw = diagnose(sound)
    assert found.prompt_tokens == raw.prompt_tokens
    for ours, theirs in zip(found.figures, raw.figures, strict=True):
        # The prompts come in other batches, so the last bits of float32 may differ.
        for part in ("read", "tokens", "blocks"):
            mine, other = (getattr(one, part) for one in (ours, theirs))
            assert mine == pytest.approx(other, rel=1e-6)
        assert [f.index for f in ours.cue.features] == [f.index for f in theirs.cue.features]
        assert max(feature.task_stability for feature in ours.cue.features) > 0.5


def test_chat_prompts_without_paraphrases_have_no_stability(
    conversations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(conversations / "igds.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "stability: not measured, as nothing asks the same in other words" in shown
    assert "layers worth using: L1, L2" in shown
    found = diagnose(conversations)
    assert found.paraphrases == 0
    assert {figures.cue.task_stability for figures in found.figures} == {None}


def test_chat_paraphrases_that_decide_the_order_are_doubted(conversations: Path) -> None:
    found = diagnose(conversations, "--prompts.paraphrases", '["#0", "@Z", "~~"]')
    for verdict in found.verdicts:
        assert verdict.level == "doubtful"
        assert "the ranking changes with the cue's words" in verdict.reasons[0]


def test_the_task_features_of_an_earlier_run_are_looked_at(finished: Path) -> None:
    before = diagnose(finished)
    outcome = finished / "runs" / "tiny" / "intervene" / "task_features.json"
    (feature,) = json.loads(outcome.read_text())["features"]
    layer, index = FeatureId.parse(feature).layer, FeatureId.parse(feature).index
    assert [f.index for f in of_layer(before, layer).cue.features] == [index]
    other = diagnose(finished, "--name", "another")
    assert len(of_layer(other, layer).cue.features) > 1


def test_the_command_exits_0_with_a_fit_layer_and_writes_json(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "doctor.json"
    assert main(["doctor", str(sound / "igds.yaml"), "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "layers worth using: L1, L2" in shown
    written = json.loads(path.read_text())
    assert written["fit"] == [1, 2]
    assert written["figures"][0]["blocks"]["1"] == pytest.approx(
        written["figures"][0]["scale"]["explained_variance"]
    )
    assert not (sound / "runs").exists()


def test_the_command_exits_1_without_a_fit_layer(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(project / "igds.yaml")]) == 1
    shown = capsys.readouterr()
    assert "layers worth using: none" in shown.out
    assert "stability: not measured" in shown.out
    assert shown.err.splitlines()[-1].startswith("error: no layer is fit")


def test_one_prompt_is_too_few_to_tell(sound: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(sound / "igds.yaml"), "--data.prior.0.limit", "1"]) == 2
    shown = capsys.readouterr()
    assert "layers worth using: none" in shown.out
    assert "L1 cannot tell: too few prompts to tell: 1 different prior prompts, and it" in shown.out
    assert "unfit" not in shown.out
    assert "error: too few prompts to tell whether L1, L2 fit" in shown.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompts", "1"], "--prompts must be at least 4"),
        (["--json", "nowhere/x.json"], "there is no folder nowhere"),
        (["--prompts.paraphrases", '["{question} A:"]'], "paraphrases needs 3 templates or more"),
        (
            ["--prompts.paraphrases", '["{a} A:", "{question} B:", "{question} C:"]'],
            "has a place for a; the template has question",
        ),
        (["--data.prior.0.columns", "{question: absent}"], "no prior row can be read"),
    ],
)
def test_wrong_requests_exit_2(
    sound: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(sound / "igds.yaml"), *words]) == 2
    assert said in capsys.readouterr().err


def one_sae(layer: int) -> str:
    return f"[{{path: saes/L{layer}}}]"


def of_layer(found: Diagnosis, layer: int) -> LayerFigures:
    return next(figures for figures in found.figures if figures.layer == layer)


def figures_and_verdicts(found: Diagnosis) -> tuple:
    return found.figures, found.verdicts
