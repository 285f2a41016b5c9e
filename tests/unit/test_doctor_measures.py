"""The doctor's measures and verdicts on numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import CHATML, chat_tokenizer

from igds.config.inputs import Prompts, Task
from igds.data.chat import ChatTemplate
from igds.data.rendering import Rendering
from igds.data.templates import parse_template
from igds.doctor.examine import LayerFigures, _draw
from igds.doctor.measures import (
    CueFit,
    FeatureFit,
    ScaleFit,
    best_scale,
    cue_fit,
    fit_by_block,
    typical,
)
from igds.doctor.prompts import Bos, paraphrases_of
from igds.doctor.verdict import Verdict, judge
from igds.errors import RequestError
from igds.saes.sae import SAE
from igds.tasks.registry import BUILT_IN, load_task

BOS = Bos(token="<bos>", added=True, leads=True, surplus=0, example=None)
QUALITY = {"explained_variance": 0.8, "l0": 50.0, "dead_share": 0.5, "edge_cases": 0}
STEADY = FeatureFit(index=3, specificity=0.9, specific=True, stability=0.8, task_stability=0.7)


def unit_sae(at: float) -> SAE:
    """Return the SAE that copies both dimensions, if they are over 0.75 and under 1.5 times `at`.

    What is larger fires two more features, which double it.
    """
    eye = torch.eye(2)
    return SAE(
        layer=1,
        activation="jumprelu",
        W_enc=torch.cat([eye, eye], dim=1),
        W_dec=torch.cat([eye, eye]),
        b_enc=torch.zeros(4),
        b_dec=torch.zeros(2),
        threshold=torch.tensor([0.75, 0.75, 1.5, 1.5]) * at,
        hook_name="blocks.1.hook_resid_post",
        release="unit",
        revision="0",
    )


def points(size: float = 1.0) -> torch.Tensor:
    """Return values of 0.8 to 1.4 times a size, or 0."""
    draw = torch.Generator().manual_seed(0)
    on = torch.rand(200, 2, generator=draw) < 0.5
    return on * (0.8 + 0.6 * torch.rand(200, 2, generator=draw)) * size


@pytest.mark.parametrize("at", [1.0, 64.0, 1 / 16])
def test_the_scale_of_an_sae_is_found(at: float) -> None:
    found = best_scale(unit_sae(at), points())
    assert found.scale == at
    assert found.explained_variance == pytest.approx(1)
    assert found.l0 == pytest.approx(float((points() > 0).sum(dim=1).float().mean()))
    assert found.unit_scale == pytest.approx(math.sqrt(2) / float(points().norm(dim=1).mean()))


def test_the_fit_of_each_block_leaves_bos_and_sinks_out() -> None:
    x = points()
    x[0], x[1] = 1.2, 1000.0
    bos = torch.arange(len(x)) == 0
    assert typical(x, bos).tolist() == [False, False, *[True] * (len(x) - 2)]
    blocks = fit_by_block(unit_sae(1.0), {1: x, 2: 4 * x, 3: torch.ones_like(x)}, bos)
    assert blocks[1] == pytest.approx(1)
    assert blocks[2] is not None and blocks[2] < 0
    assert blocks[3] is None


def test_no_token_is_typical_when_all_are_bos() -> None:
    assert not typical(points(), torch.ones(200, dtype=torch.bool)).any()


def test_features_that_keep_turn_and_lose_their_order() -> None:
    rank = torch.arange(20.0)
    task = torch.stack([rank + 10, rank, rank], dim=1)
    control = torch.stack([rank, rank + 30, rank], dim=1)[:10]

    def reworded(acts: torch.Tensor) -> torch.Tensor:
        return torch.stack([acts[:, 0] ** 2 + 1, -acts[:, 1], torch.zeros(len(acts))], dim=1)

    found = cue_fit(
        [4, 5, 6],
        [task, reworded(task[:8]), task[:8]],
        [control, reworded(control[:6]), control[:6]],
    )
    kept, turned, lost = found.features
    assert [feature.index for feature in found.features] == [4, 5, 6]
    assert [feature.specificity for feature in found.features] == [1, 0, 0.75]
    assert [feature.specific for feature in found.features] == [True, False, True]
    # The second paraphrase changes nothing: each median is half way from the first to 1.
    assert [f.stability for f in (kept, turned, lost)] == pytest.approx([1, 0, 0.5])
    assert [f.task_stability for f in (kept, turned, lost)] == pytest.approx([1, 0, 0.5])
    assert found.stability == found.task_stability == pytest.approx(1)


def test_without_paraphrases_or_controls_nothing_is_made_up() -> None:
    task = torch.rand(9, 2)
    found = cue_fit([0, 1], [task], [torch.empty(0, 2)])
    assert (found.stability, found.task_stability) == (None, None)
    assert [feature.specificity for feature in found.features] == [None, None]
    assert not any(feature.specific for feature in found.features)
    none = cue_fit([], [task[:, :0], task[:, :0]], [task[:, :0], task[:, :0]])
    assert (none.features, none.stability) == ((), None)


def figures(**changes: object) -> LayerFigures:
    sound = {
        "layer": 5,
        "release": "hand",
        "d_sae": 100,
        "read": QUALITY,
        "tokens": QUALITY,
        "all_tokens": QUALITY,
        "across": 0.2,
        "published_l0": 60.0,
        "prepend_bos": True,
        "blocks": {4: 0.7, 5: 0.8, 6: 0.7},
        "scale": ScaleFit(scale=1.0, explained_variance=0.8, l0=50.0, unit_scale=0.1),
        "cue": CueFit(features=(STEADY,), stability=0.8, task_stability=0.7),
    }
    return LayerFigures(**sound | changes)


def judged(
    one: LayerFigures, bos: Bos, *, mixed_pool: bool, different: tuple[int, int] = (128, 64)
) -> Verdict:
    return judge(one, bos, mixed_pool=mixed_pool, different=different)


def with_features(*features: FeatureFit) -> CueFit:
    return CueFit(features=features, stability=0.1, task_stability=0.1)


def quality(variance: float | None, l0: float = 50.0) -> dict[str, float | None]:
    return {**QUALITY, "explained_variance": variance, "l0": l0}


SHAKY = dataclasses.replace(STEADY, stability=0.3, task_stability=0.6)
COMMON = dataclasses.replace(STEADY, specific=False)
SCALED = ScaleFit(scale=32.0, explained_variance=0.75, l0=60.0, unit_scale=30.0)


@pytest.mark.parametrize(
    ("changes", "level", "reason"),
    [
        ({}, "fit", None),
        ({"published_l0": None, "prepend_bos": None}, "fit", None),
        ({"cue": with_features(SHAKY, STEADY)}, "fit", None),
        ({"blocks": {4: 0.84, 5: 0.8, 6: 0.84}}, "fit", None),
        ({"blocks": {4: 0.86, 5: 0.8, 6: 0.7}}, "unfit", "OFF BY ONE BLOCK: this SAE explains 0.8"),
        ({"blocks": {1: 0.9, 5: 0.8, 6: 0.86}}, "unfit", "WRONG BLOCK"),
        ({"blocks": {4: None, 5: None, 6: 0.1}}, "fit", None),
        ({"blocks": {4: 0.3, 5: 0.1}, "scale": SCALED}, "unfit", "INPUT SCALE MISSING"),
        ({"blocks": {4: 0.9, 5: 0.1}, "scale": SCALED}, "unfit", "OFF BY ONE BLOCK"),
        ({"blocks": {4: 0.1, 5: 0.7}, "scale": SCALED}, "fit", None),
        ({"tokens": quality(0.45)}, "doubtful", "at the prompts' tokens is 0.45, under 0.5"),
        ({"tokens": quality(0.2)}, "unfit", "at the prompts' tokens is 0.20, not above 0.2"),
        ({"read": quality(0.24)}, "doubtful", "at the read position is 0.24, under 0.25"),
        ({"read": quality(-0.5)}, "unfit", "at the read position is -0.50, not above 0.0"),
        ({"read": quality(None)}, "unfit", "do not vary"),
        ({"tokens": quality(0.8, 181)}, "doubtful", "181.0 features are active a token"),
        ({"tokens": quality(0.8, 19)}, "doubtful", "the release states 60"),
        ({"prepend_bos": False}, "doubtful", "trained on texts without a BOS"),
        ({"cue": with_features()}, "unfit", "no feature is active on enough prior prompts"),
        ({"cue": with_features(COMMON)}, "unfit", "no feature tells task from control"),
        ({"cue": with_features(SHAKY, COMMON)}, "doubtful", "the steadiest has a rank correlation"),
    ],
)
def test_verdicts_for_a_mixed_pool(changes: dict, level: str, reason: str | None) -> None:
    verdict = judged(figures(**changes), BOS, mixed_pool=True)
    assert (verdict.layer, verdict.level) == (5, level)
    if reason is None:
        assert verdict.reasons == ()
    else:
        assert len(verdict.reasons) == 1
        assert reason in verdict.reasons[0]


READ, ORDER = {"read": quality(-0.5)}, {"cue": with_features(SHAKY)}
COMMON_ONLY, SILENT = {"cue": with_features(COMMON)}, {"cue": with_features()}


@pytest.mark.parametrize(
    ("changes", "different", "reason"),
    [
        (READ, (15, 64), "too few prompts to tell: 15 different prior prompts, and it takes 16"),
        ({"read": quality(None)}, (1, 64), "1 different prior prompts, and it takes 16; the resi"),
        ({"read": quality(0.1)}, (15, 64), "; explained variance at the read position is 0.10"),
        (READ | {"across": 0.25}, (128, 64), "the prior prompts are too alike to tell: explained "),
        (SILENT, (15, 64), "15 different prior prompts, and it takes 16; no feature is active"),
        (COMMON_ONLY, (128, 15), "15 different control prompts, and it takes 16; the pool is"),
        (COMMON_ONLY, (15, 64), "15 different prior prompts, and it takes 16; the pool is"),
        (ORDER, (15, 64), "15 different prior prompts, and it takes 16; the ranking changes"),
    ],
)
def test_too_few_or_too_alike_prompts_do_not_count_against_a_layer(
    changes: dict, different: tuple[int, int], reason: str
) -> None:
    verdict = judged(figures(**changes), BOS, mixed_pool=True, different=different)
    assert verdict.level == "cannot tell"
    assert len(verdict.reasons) == 1 and reason in verdict.reasons[0]
    enough = judged(figures(**changes | {"across": 0.24}), BOS, mixed_pool=True, different=(16, 16))
    assert enough.level in ("unfit", "doubtful")
    assert enough.reasons == (verdict.reasons[0].partition("; ")[2],)


def test_few_prompts_excuse_nothing_that_tokens_show() -> None:
    few = {"different": (1, 0), "mixed_pool": False}
    assert judged(figures(), BOS, **few).level == "fit"
    assert judged(figures(tokens=quality(0.1)), BOS, **few).level == "unfit"
    both = judged(figures(tokens=quality(0.1), read=quality(-1.0)), BOS, **few)
    assert both.level == "unfit" and len(both.reasons) == 2
    assert both.reasons[1].startswith("too few prompts to tell")
    doubtful = judged(figures(tokens=quality(0.4), read=quality(-1.0)), BOS, **few)
    assert doubtful.level == "cannot tell" and "under 0.5" in doubtful.reasons[1]


def test_a_single_pool_asks_for_order_among_task_prompts_alone() -> None:
    assert judged(figures(cue=with_features(COMMON)), BOS, mixed_pool=False).level == "fit"
    assert judged(figures(cue=with_features(SHAKY)), BOS, mixed_pool=False).level == "fit"
    other = dataclasses.replace(STEADY, task_stability=0.2)
    assert judged(figures(cue=with_features(other)), BOS, mixed_pool=False).level == "doubtful"


def test_the_worst_reason_comes_first() -> None:
    doubled = dataclasses.replace(BOS, surplus=7, example="<bos>A")
    verdict = judged(figures(tokens=quality(0.4)), doubled, mixed_pool=True)
    assert verdict.level == "unfit"
    assert verdict.reasons[0].startswith("DOUBLED BOS: 7 prompts")
    assert "under 0.5" in verdict.reasons[1]


def test_prompts_without_the_bos_of_training_are_doubted() -> None:
    bare = dataclasses.replace(BOS, added=False, leads=False)
    assert "no <bos> leads" in judged(figures(), bare, mixed_pool=True).reasons[0]
    none = dataclasses.replace(bare, token=None)
    assert judged(figures(), none, mixed_pool=True).level == "fit"


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_tasks_have_three_paraphrases(name: str) -> None:
    task = load_task(Task(name=name), Path())
    found = paraphrases(Prompts(), task, task.template)
    assert len({task.template, *(one.template.text for one in found)}) == 4
    assert {one.template.fields for one in found} == {parse_template(task.template).fields}
    assert paraphrases(Prompts(), task, "{other} so:") == []
    assert paraphrases(Prompts(), task, task.template, chat_rows=True) == []


def test_paraphrases_of_the_configuration() -> None:
    task = load_task(Task(), Path())
    own = ("{q} A:", "{q} B:", "C {q}:")
    found = paraphrases(Prompts(paraphrases=own), task, "{q} D:")
    assert tuple(one.template.text for one in found) == own
    with pytest.raises(RequestError, match="has a place for q; the template has question"):
        paraphrases(Prompts(paraphrases=own), task, task.template)
    with pytest.raises(ValueError, match="needs 3 templates or more, not 2"):
        Prompts(paraphrases=own[:2])


def paraphrases(
    prompts: Prompts, task: Any, template: str, *, chat_rows: bool = False, cue: str | None = None
) -> list[Rendering]:
    chat = None
    if prompts.chat_template:
        chat = ChatTemplate(tokenizer=chat_tokenizer(CHATML), cue=cue)
    rendering = Rendering(
        template=parse_template(template, user_turn=chat is not None),
        task=task,
        require_response=False,
        chat=chat,
    )
    return paraphrases_of(prompts, task, rendering, chat_rows=chat_rows)


def test_paraphrases_of_chat_prompts_are_user_turns_or_cues() -> None:
    task = load_task(Task(), Path())
    own = ("Add: {text}", "{text}\nPlease.", "Result:")
    prompts = Prompts(paraphrases=own, chat_template=True, cue="Answer:")
    turns = {"messages": [{"role": "user", "content": "1+1"}]}
    found = paraphrases(prompts, task, "{text}", chat_rows=True, cue="Answer:")
    shown = [one.render(fields, 0)[1] for one in found for fields in (turns, {"text": "1+1"})]
    frame = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}"
    expected = [("Add: 1+1", "Answer:"), ("1+1\nPlease.", "Answer:"), ("1+1", "Result:")]
    assert shown == [frame.format(*pair) for pair in expected for _ in range(2)]
    with pytest.raises(RequestError, match="prompts.cue is not set: write a user turn with {text}"):
        paraphrases(prompts, task, "{text}", chat_rows=True)
    with pytest.raises(RequestError, match="a place for text; the template has question"):
        paraphrases(prompts, task, "{question}", cue="Answer:")
    # A conversation has no field but its last user turn.
    fields = Prompts(paraphrases=("{question}", "{question} 2", "{question} 3"), chat_template=True)
    with pytest.raises(RequestError, match="place for question; the conversations have text"):
        paraphrases(fields, task, "{question}", chat_rows=True)
    blank = Prompts(paraphrases=("A: ", "B:", "C:"), chat_template=True, cue="Answer:")
    with pytest.raises(RequestError, match="'A: ' has white space around it"):
        paraphrases(blank, task, "{text}", cue="Answer:")


def test_draws_are_of_their_item() -> None:
    scan, tokens = (_draw(500, 50, 3, item) for item in ("scan", "tokens"))
    assert scan.sum() == tokens.sum() == 50
    assert torch.equal(scan, _draw(500, 50, 3, "scan"))
    assert not torch.equal(scan, tokens)
    assert not torch.equal(scan, _draw(500, 50, 4, "scan"))
    assert _draw(5, 50, 3, "scan").all()
