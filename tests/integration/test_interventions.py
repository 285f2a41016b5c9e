"""Screen, samples, promoted tokens and the worker: planted truth, and equality with plain ways."""

from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from tests.helpers import (
    FAMILIES,
    GOLD,
    OTHER,
    PLANTED,
    planted_model,
    planted_rows,
    planted_sae,
    tiny_model,
    tiny_tokenizer,
)

from igds.errors import RequestError
from igds.features import FeatureId
from igds.interventions.api import intervene
from igds.interventions.effects import effects_of
from igds.interventions.examples import Example, make_examples
from igds.interventions.neutral import neutral_examples, perplexity_ratios
from igds.interventions.promoted import promoted_tokens
from igds.interventions.rules import Edit
from igds.interventions.samples import SAMPLES, control_samples, exact_samples
from igds.interventions.screen import gradient_screen, token_gradients
from igds.interventions.work import InterventionWork, example_shards, neutral_shard, promoted_shard
from igds.models.blocks import decoder_blocks
from igds.models.likelihood import (
    check_head,
    head_logits,
    kl_from_first,
    target_gradient,
    target_logprobs,
)
from igds.saes.formats.saelens import write_saelens

FEATURES = [FeatureId(1, index) for index in range(len(PLANTED))]
EXAMPLE = Example(
    row_id="a", prompt_ids=[1, *range(40, 60)], response_ids=[70, 71, 9, 10, 200, 201, 5]
)


def planted_examples(n):
    prompts, responses = planted_rows(n)
    return make_examples([f"row{i:02}" for i in range(n)], prompts, responses)


def means(table, column):
    grouped = table.group_by("feature").aggregate([(column, "mean")])
    return dict(
        zip(grouped["feature"].to_pylist(), grouped[f"{column}_mean"].to_pylist(), strict=True)
    )


def exact(model, examples, features=FEATURES, **options):
    settings = {"edit": Edit(), "batch_tokens": 64, "contrast": True} | options
    return exact_samples(model, [planted_sae()], features, examples, **settings)


def test_planted_deltas():
    samples = exact(planted_model(), planted_examples(20))
    delta, contrast, rest = (
        list(means(samples, column).values())
        for column in ("delta", "delta_contrast", "delta_without_first_5")
    )
    helpful, harmful, first, anything, null, never = range(6)
    assert delta[helpful] > 0.05 and rest[helpful] > 0.05 and contrast[helpful] > 0.05
    assert delta[harmful] < -0.02 and rest[harmful] < -0.02
    assert delta[first] > 0.05 and abs(rest[first]) < 1e-6
    assert delta[anything] > 0.05 and rest[anything] > 0.05 and contrast[anything] < 0
    assert abs(delta[null]) < 1e-6
    assert delta[never] == contrast[never] == rest[never] == 0.0
    by_token = samples["delta_by_token"].to_numpy()
    assert np.allclose([row.mean() for row in by_token], samples["delta"].to_numpy(), atol=1e-6)


def test_planted_labels_by_the_public_function():
    tokenizer = tiny_tokenizer(bos=False)
    prompts, responses = planted_rows(40)
    # A response that begins with a letter may only follow white space.
    texts = (
        [tokenizer.decode(ids) + "\n" for ids in prompts],
        [tokenizer.decode(ids) for ids in responses],
    )
    effects = intervene(planted_model(), tokenizer, [planted_sae()], FEATURES, *texts)
    labels = dict(zip(effects["feature"].to_pylist(), effects["label"].to_pylist(), strict=True))
    assert labels["L1/0"] == "helpful"
    assert labels["L1/1"] == "harmful"
    assert labels["L1/2"] == labels["L1/3"] == "format"
    assert labels["L1/4"] == labels["L1/5"] == "unclear"
    active = dict(zip(effects["feature"].to_pylist(), effects["active"].to_pylist(), strict=True))
    assert active["L1/0"] == 40 and active["L1/5"] == 0
    assert effects["delta"].to_pylist() == sorted(effects["delta"].to_pylist(), reverse=True)


def test_the_public_function_takes_rule_position_and_screen():
    tokenizer, (prompts, responses) = tiny_tokenizer(bos=False), planted_rows(12)
    texts = (
        [tokenizer.decode(ids) + "\n" for ids in prompts],
        [tokenizer.decode(ids) for ids in responses],
    )
    measured = (planted_model(), tokenizer, [planted_sae()], FEATURES, *texts)
    clamped = intervene(
        *measured, rule="clamp", maxima=dict.fromkeys(FEATURES, 3.0), position="all",
        screen="integrated",
    )  # fmt: skip
    rows = {row["feature"]: row for row in clamped.to_pylist()}
    # L1/5 writes what L1/0 writes, and is inactive everywhere
    assert rows["L1/5"]["active"] == 0 < rows["L1/5"]["delta"]
    assert rows["L1/5"]["push"] > rows["L1/0"]["push"] > 0 < rows["L1/0"]["kl"]
    assert {(row["rule"], row["position"]) for row in rows.values()} == {("clamp", "all")}
    ablated = intervene(*measured, rule="ablate")
    assert ablated["delta"].to_pylist() == sorted(ablated["delta"].to_pylist())
    assert ablated["feature"][0].as_py() in ("L1/0", "L1/3")
    assert clamped["neutral_perplexity_ratio"].null_count == len(clamped)


def test_intervene_refuses_a_model_in_training():
    with pytest.raises(ValueError, match="training mode"):
        intervene(planted_model().train(), tiny_tokenizer(), [planted_sae()], FEATURES, [], [])


def test_intervene_refuses_a_model_whose_blocks_take_no_more_rows():
    def one_row(_block, args, _kwargs):
        if args[0].shape[0] != 1:
            raise RuntimeError("shape is invalid for input of this size")

    model, tokenizer = planted_model(), tiny_tokenizer(bos=False)
    model.model.layers[2].register_forward_pre_hook(one_row, with_kwargs=True)
    with pytest.raises(RequestError, match="cannot be edited: a block takes no more rows"):
        intervene(model, tokenizer, [planted_sae()], FEATURES, ["a "], ["b c"])


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_plain_backward(family):
    model, layers, kept = tiny_model(family), [0, 2, 3], {}

    def keep(layer):
        def hook(_block, _inputs, output):
            output.retain_grad()
            kept[layer] = output

        return hook

    for layer in layers:
        decoder_blocks(model)[layer].register_forward_hook(keep(layer))
    prompt, response = EXAMPLE.prompt_ids, torch.tensor(EXAMPLE.response_ids)
    logits = model(torch.tensor([[*prompt, *EXAMPLE.response_ids]]), use_cache=False).logits[0]
    logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1).gather(1, response[:, None])
    logprobs.mean().backward()

    frozen = tiny_model(family).requires_grad_(False)
    found = token_gradients(frozen, EXAMPLE, layers, "read")
    for layer in layers:
        (state,), (grad,) = found[layer]
        expected = kept[layer].grad[0, len(prompt) - 1]
        assert (state - kept[layer][0, len(prompt) - 1]).norm() < 1e-5 * state.norm()
        assert (grad - expected).norm() < 1e-4 * expected.norm()
    assert not any(block._forward_hooks for block in decoder_blocks(frozen))


def test_screen_is_the_slope_of_the_exact_delta():
    model, examples = planted_model().requires_grad_(False), planted_examples(4)
    slope = means(gradient_screen(model, [planted_sae()], FEATURES, examples), "screen")
    up, down = (
        means(exact(model, examples, edit=Edit(coefficient=c), contrast=False), "delta")
        for c in (0.005, -0.005)
    )
    for feature in map(str, FEATURES):
        assert (up[feature] - down[feature]) / 0.01 == pytest.approx(
            slope[feature], rel=0.01, abs=1e-3
        )
    assert slope["L1/0"] > 0 > slope["L1/1"]
    assert slope["L1/5"] == 0


def test_screen_scales_with_the_coefficient_and_records_activations():
    model, examples = planted_model().requires_grad_(False), planted_examples(3)
    once = gradient_screen(model, [planted_sae()], FEATURES, examples)
    twice = gradient_screen(model, [planted_sae()], FEATURES, examples, edit=Edit(coefficient=2.0))
    assert np.allclose(twice["screen"], 2 * once["screen"].to_numpy())
    samples = exact(model, examples)
    assert np.allclose(once["activation"], samples["activation"], atol=1e-5)
    assert once["row_id"].to_pylist() == samples["row_id"].to_pylist()


def test_response_of_five_tokens_has_no_value_without_them():
    short = Example(row_id="a", prompt_ids=[5, 6], response_ids=[GOLD] * 5)
    samples = exact(planted_model(), [short])
    assert samples["delta_without_first_5"].null_count == len(FEATURES)
    assert samples["delta_contrast"].null_count == len(FEATURES)
    assert samples["delta"].null_count == 0


def test_order_of_features_across_blocks_does_not_matter():
    model, examples = planted_model(), planted_examples(2)
    saes = [planted_sae(2), planted_sae(1)]
    features = [FeatureId(2, 0), FeatureId(1, 0), FeatureId(2, 1)]
    options = {"edit": Edit(), "batch_tokens": 64, "contrast": False}
    a = exact_samples(model, saes, features, examples, **options)
    b = exact_samples(model, saes[::-1], features[::-1], examples, **options)
    keys = [("row_id", "ascending"), ("feature", "ascending")]
    assert np.allclose(a.sort_by(keys)["delta"], b.sort_by(keys)["delta"], atol=1e-6)


@pytest.mark.parametrize(
    ("feature", "message"),
    [(FeatureId(2, 0), "L2/0: no SAE reads block 2"), (FeatureId(1, 6), "has 6 features")],
)
def test_a_feature_without_its_sae_is_refused(feature, message):
    with pytest.raises(ValueError, match=message):
        exact(planted_model(), planted_examples(1), [feature])


def test_promoted_tokens_are_the_planted_ones():
    table = promoted_tokens(
        planted_model(), tiny_tokenizer(), [planted_sae(3)], [FeatureId(3, 2)], top=2
    ).to_pylist()
    assert [row["rank"] for row in table] == [1, 2]
    assert table[0]["token"] == tiny_tokenizer().decode([GOLD])
    # norm(6 e_2) is sqrt(32) e_2, and the head's weight there is 0.8
    assert table[0]["logit"] == pytest.approx(0.8 * 32**0.5, rel=1e-4)
    assert table[1]["logit"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_in_blocks_are_the_models_own(family, monkeypatch):
    monkeypatch.setattr("igds.models.likelihood._ROWS", 5)
    monkeypatch.setattr("igds.models.likelihood._VOCAB", 50)
    model = tiny_model(family)
    ids, targets = torch.arange(3, 24).view(3, 7), torch.tensor([9, 8, 258, 0, 3, 3, 4])
    with torch.no_grad():
        own = model(ids).logits.log_softmax(-1).gather(2, targets.expand(3, 7)[..., None])[..., 0]
        hidden = model.base_model(ids).last_hidden_state
        assert torch.allclose(target_logprobs(model, hidden, targets), own, atol=1e-5)
    mean, grad = target_gradient(model, hidden[0], targets)
    leaf = hidden[0].clone().requires_grad_(True)
    loss = head_logits(model, leaf).log_softmax(-1).gather(1, targets[:, None]).mean()
    loss.backward()
    assert mean == pytest.approx(loss.item(), abs=1e-5)
    assert torch.allclose(grad, leaf.grad, atol=1e-6)
    check_head(model)


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi"])
def test_log_probabilities_of_a_bfloat16_model_are_exact_and_never_positive(family, monkeypatch):
    monkeypatch.setattr("igds.models.likelihood._VOCAB", 50)
    model = tiny_model(family).bfloat16().requires_grad_(False)
    ids = torch.arange(3, 35).view(2, 16)
    hidden = model.base_model(ids).last_hidden_state
    model.get_output_embeddings().weight.mul_(8)  # peaked: most of the mass on one token
    logits = model.float().get_output_embeddings()(hidden.float())
    best = logits[0].argmax(1)
    own = logits.log_softmax(-1)
    model.bfloat16()
    found = target_logprobs(model, hidden, best)
    assert found.max() < 1e-5  # the rounding of float32
    expected = own.gather(2, best.expand(2, 16)[..., None])[..., 0]
    assert expected[0].max() > -1e-3
    assert torch.allclose(found, expected, atol=1e-4)
    each = (own[0, 0].exp() * (own[0, 0] - own[1])).sum(1)
    kl = kl_from_first(model, torch.cat([hidden[0, :1], hidden[1]]))
    assert torch.allclose(kl, each, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["gemma2", "granite"])
def test_a_head_that_rounds_to_bfloat16_is_known(family):
    model = tiny_model(family).bfloat16().requires_grad_(False)
    if family == "granite":
        model.config.logits_scaling = 10.0  # no power of two: to divide by it rounds
    ids = torch.arange(4)[None]
    own = model(ids).logits[0].float()
    ours = head_logits(model, model.model(ids).last_hidden_state[0])
    drift = ((own - ours).abs() / (own.abs().max() + ours.abs())).max()
    assert drift > 1e-3  # more than a float32 model is allowed
    check_head(model)


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [(torch.float32, 1.01), (torch.float32, 0.5), (torch.bfloat16, 2), (torch.bfloat16, 0.5)],
)
def test_a_model_that_scales_its_logits_is_refused(dtype, factor):
    model = tiny_model().to(dtype)
    forward = model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * factor
        return output

    model.forward = scaled
    with pytest.raises(ValueError, match="changes its logits"):
        check_head(model)


def test_the_worker_does_what_the_functions_do(tmp_path):
    model = planted_model()
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    write_saelens(planted_sae(), tmp_path / "sae")
    spec = {
        "id": "planted",
        "path": str(tmp_path / "model"),
        "revision": None,
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa",
        "trust_remote_code": False,
    }
    work = InterventionWork(
        model=spec,
        saes={"1": {"path": str(tmp_path / "sae"), "source": "planted", "release": "planted"}},
        features=[*map(str, FEATURES), "L1/2"],
        edit=asdict(Edit()),
        screen="attribution",
        batch_tokens=64,
        threads=1,
    )
    examples, names = planted_examples(5), [str(feature) for feature in FEATURES]
    shards = example_shards("exact", names, examples, contrast=True, size=2)
    assert [len(shard["examples"]) for shard in shards] == [2, 2, 1]
    assert work(shards[2]).equals(exact(model, examples[4:]))
    (screen,) = example_shards("screen", names, examples[:1])
    plain = gradient_screen(model.requires_grad_(False), [planted_sae()], FEATURES, examples[:1])
    assert work(screen).equals(plain)
    texts = neutral_examples(tiny_tokenizer())
    ratios = perplexity_ratios(
        model, [planted_sae()], FEATURES, texts, edit=Edit(), batch_tokens=64
    )
    assert work(neutral_shard(names)).equals(ratios)
    assert work(promoted_shard(["L1/2"], top=1))["token"].to_pylist() == [
        tiny_tokenizer().decode([GOLD])
    ]


def test_delta_on_the_answer_is_the_mean_over_its_tokens():
    model, (example, other) = planted_model(), planted_examples(2)
    marked = [replace(example, answer=(2, 4)), other]
    rows = exact(model, marked).to_pylist()
    for row in rows:
        if row["row_id"] == example.row_id:
            assert row["delta_answer"] == pytest.approx(np.mean(row["delta_by_token"][2:4]))
        else:
            assert row["delta_answer"] is None
    effects = effects_of(
        pa.Table.from_pylist(rows, schema=SAMPLES),
        {e.row_id: e.row_id for e in marked},
        split="S2",
        rule="amplify",
        position="read",
        coefficient=1.0,
        screen={},
        seed=0,
    ).to_pylist()
    assert [effect["n_answer"] for effect in effects] == [1] * len(effects)
    assert effects[0]["delta_answer"] == rows[0]["delta_answer"] != effects[0]["delta"]


def test_contrast_takes_the_nearest_length_with_another_text():
    responses = [[1] * 4, [1] * 4, [2] * 9, [3] * 5, [4] * 8]
    examples = make_examples(list("abcde"), [[7]] * 5, responses)
    assert [example.contrast_ids[0] for example in examples] == [3, 3, 4, 4, 2]
    shuffled = make_examples(list("edcba"), [[7]] * 5, responses[::-1])
    assert {e.row_id: asdict(e) for e in shuffled} == {e.row_id: asdict(e) for e in examples}


def test_contrast_without_another_response_is_none():
    assert make_examples(["a", "b"], [[7], [8]], [[OTHER], [OTHER]])[0].contrast_ids is None


def test_a_row_without_tokens_is_refused():
    with pytest.raises(ValueError, match="row b has no token"):
        make_examples(["a", "b"], [[7], [8]], [[1], []])


def test_a_control_along_the_feature_itself_has_the_features_delta():
    model, examples = planted_model(), planted_examples(3)
    sae, feature = planted_sae(), FEATURES[0]
    direction = sae.decoder_rows([feature.index])
    vectors = torch.cat([direction, 0 * direction, -direction])
    found = control_samples(
        model, sae, feature, examples, vectors, torch.zeros(3, dtype=torch.bool), edit=Edit(),
        batch_tokens=64,
    )  # fmt: skip
    own = exact(model, examples, features=[feature], contrast=False)
    ablated = exact(
        model, examples, features=[feature], contrast=False, edit=Edit(coefficient=-1.0)
    )
    assert found["row_id"].to_pylist() == [example.row_id for example in examples]
    columns = np.stack(found["delta"].to_numpy())
    assert columns[:, 0] == pytest.approx(own["delta"].to_numpy(), abs=1e-6)
    assert columns[:, 1] == pytest.approx(0, abs=1e-6)
    assert columns[:, 2] == pytest.approx(ablated["delta"].to_numpy(), abs=1e-6)
