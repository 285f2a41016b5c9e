"""The public pieces against plain transformers, in five model families."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.helpers import FAMILIES, save_tiny, tiny_model, tiny_tokenizer
from tests.tiny_project import tiny_sae

import igds
from igds.features import FeatureId
from igds.saes.sae import check_saes

PROMPTS = [f"{'so ' * (place % 5)}{place * 37} and {place * 11}\nSum:" for place in range(12)]
LAYER = 2


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return tiny_model(request.param)


def plain_activations(model, sae):
    """Return [prompts, d_sae]: one unpadded forward a prompt, the SAE written out."""
    tokenizer, rows = tiny_tokenizer(), []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            # hidden_states[0] is the embedding, so block L's output is entry L + 1.
            hidden = model(ids, output_hidden_states=True).hidden_states[LAYER + 1]
        rows.append(torch.relu(hidden[0, -1] @ sae.W_enc + sae.b_enc))
    return torch.stack(rows)


def test_scores_equal_plain_transformers(family):
    sae = tiny_sae(LAYER)
    features = [FeatureId(LAYER, 3), FeatureId(LAYER, 17)]
    scores = igds.feature_resonant_scores(
        family, tiny_tokenizer(), [sae], features, PROMPTS, batch_tokens=100
    )
    acts = plain_activations(family, sae)
    expected = acts[:, 3] + acts[:, 17]
    assert expected.max() > 0
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5 * float(acts.max()))


def test_recall_counts_equal_plain_transformers(family):
    sae = tiny_sae(LAYER)
    table = igds.recall(
        family,
        tiny_tokenizer(),
        [sae],
        PROMPTS[:8],
        validation_prompts=PROMPTS[8:10],
        control_prompts=PROMPTS[10:],
        min_frequency=0.5,
    )
    acts = plain_activations(family, sae)[:8]
    # Only values within 1e-5 of the cut may fall on either side of it.
    near = (acts.abs() < 1e-5 * acts.max()) & (acts != 0)
    assert not near.any()
    np.testing.assert_allclose(
        table["frequency"].to_numpy(), (acts > 0).double().mean(dim=0).numpy(), atol=1e-12
    )
    assert table["recalled"].to_pylist() == ((acts > 0).double().mean(dim=0) >= 0.5).tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": PROMPTS[0]}, "prompts is one text: give a list"),
        ({"prompts": []}, "prompts is empty"),
        ({"saes": []}, "saes is empty"),
        ({"min_frequency": 80.0}, "min_frequency is a share over 0 and at most 1, not 80"),
    ],
)
def test_recall_refuses_what_is_no_request(changes, said):
    wanted = {"saes": [tiny_sae(LAYER)], "prompts": PROMPTS} | changes
    with pytest.raises(ValueError, match=said):
        igds.recall(tiny_model(), tiny_tokenizer(), **wanted)


@pytest.mark.parametrize("prompts", [PROMPTS[0], []])
def test_scores_of_no_list_are_refused(prompts):
    with pytest.raises(ValueError, match="prompts is"):
        igds.feature_resonant_scores(
            tiny_model(), tiny_tokenizer(), [tiny_sae(LAYER)], [FeatureId(LAYER, 3)], prompts
        )


def test_features_may_be_named_in_text():
    names = ["L2/3", "L2/17"]
    features = [FeatureId.parse(name) for name in names]
    model, tokenizer, saes = tiny_model(), tiny_tokenizer(), [tiny_sae(LAYER)]
    by_text, by_id = (
        igds.feature_resonant_scores(model, tokenizer, saes, given, PROMPTS)
        for given in (names, features)
    )
    assert by_id.max() > 0
    assert torch.equal(by_text, by_id)
    rows = ([*PROMPTS[:3]], [" 1"] * 3)
    by_text, by_id = (
        igds.intervene(
            model, tokenizer, saes, given, *rows, rule="clamp", maxima=dict.fromkeys(given, 2.0)
        )
        for given in (names, features)
    )
    assert by_id["feature"].to_pylist() and by_text.equals(by_id)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (["L2/3", "2/17"], r"features\[1\]: '2/17' is not a feature name: write L<layer>/<index>"),
        ("L2/3", "features is one feature: give a list"),
        ([], "features is empty"),
    ],
)
def test_what_names_no_feature_is_refused(features, said):
    given = (tiny_model(), tiny_tokenizer(), [tiny_sae(LAYER)], features, PROMPTS)
    with pytest.raises(ValueError, match=said):
        igds.feature_resonant_scores(*given)
    with pytest.raises(ValueError, match=said):
        igds.intervene(*given, [" 1"] * len(PROMPTS))


@pytest.mark.parametrize(
    ("responses", "said"),
    [
        ([" 1"] * 11, "12 prompts but 11 responses"),
        ([" 1"] * 11 + ["2"], r"responses\[11\] begins '2' right behind .*Sum:"),
        ([" 1"] * 11 + [""], r"responses\[11\] begins ''"),
        (" 1", "responses is one text"),
    ],
)
def test_intervene_refuses_rows_that_do_not_pair_up(responses, said):
    features = [FeatureId(LAYER, 3)]
    with pytest.raises(ValueError, match=said):
        igds.intervene(
            tiny_model(), tiny_tokenizer(), [tiny_sae(LAYER)], features, PROMPTS, responses
        )


def test_one_sae_in_place_of_a_list_is_refused():
    with pytest.raises(ValueError, match=r"saes is one SAE: give a list, \[sae\]"):
        check_saes(tiny_sae(LAYER))


def test_load_model_gives_what_a_run_loads(tmp_path, monkeypatch):
    saved = save_tiny(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    model, tokenizer = igds.load_model("model", device="cpu")
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    ids = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(ids).logits, saved(ids).logits)
    with pytest.raises(ValueError, match="there is no .*absent"):
        igds.load_model("./absent")


def test_every_public_name_is_there():
    for name in igds.__all__:
        assert getattr(igds, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'recal'"):
        igds.recal  # noqa: B018 (the lookup is the test)
