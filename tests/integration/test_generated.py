"""Candidates decoded together say what each would say alone, by plain hooks and full forwards."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from tests.helpers import (
    FAMILIES,
    MORE_FAMILIES,
    PLANTED,
    planted_model,
    planted_rows,
    planted_sae,
    tiny_model,
    tiny_tokenizer,
)
from tests.tiny_project import tiny_sae

from igds.features import FeatureId
from igds.interventions.exact import run_prefix
from igds.interventions.examples import make_examples
from igds.interventions.generated import branches, generate_always, generate_read
from igds.interventions.outputs import Generation, generated_outputs
from igds.interventions.rules import Edit
from igds.interventions.samples import exact_samples
from igds.models.blocks import decoder_blocks
from igds.models.decode import decode, greedy, keyed_sampling

PROMPT = [1, *range(40, 60)]
STEPS = 8


def alone(model, prompt, layer, change, choose=greedy, samples=1, steps=STEPS):
    """Return each sample's tokens by one full forward a token, `change` as a plain hook."""

    def hook(_block, _inputs, output):
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    found = []
    for sample in range(samples):
        ids = list(prompt)
        for step in range(steps):
            handle = decoder_blocks(model)[layer].register_forward_hook(hook)
            with torch.no_grad():
                logits = model(torch.tensor([ids]), use_cache=False).logits[:, -1]
            handle.remove()
            rows = logits.repeat(sample + 1, 1)
            ids.append(int(choose(step, rows, torch.arange(sample + 1))[sample]))
        found.append(ids[len(prompt) :])
    return found


def add_at_read(vector, place):
    def change(output):
        changed = output.clone()
        changed[:, place] += vector
        return changed

    return change


def some_vectors(n, seed=0):
    return 3 * torch.randn(n, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prompt", [PROMPT, [7]])
@pytest.mark.parametrize("family", FAMILIES)
def test_edits_at_t_star_of_several_blocks_decode_as_each_alone(family, prompt):
    model, edits = tiny_model(family), {0: some_vectors(2), 2: some_vectors(3, seed=1)}
    prefix = run_prefix(model, prompt, [0, 2])
    cache, logits = branches(model, prefix, edits, samples=1, room=STEPS)
    assert logits.shape[0] == 6
    assert all(layer.keys.shape[0] == 6 for layer in cache.layers)
    found = generate_read(
        model, prefix, edits, choose=greedy, samples=1, max_new_tokens=STEPS, stop_ids=[]
    )
    expected = [alone(model, prompt, 0, lambda output: output)]
    for layer, vectors in edits.items():
        for vector in vectors:
            expected.append(alone(model, prompt, layer, add_at_read(vector, len(prompt) - 1)))
    assert found == expected
    assert len({str(output) for output in found}) > 1


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_sampling_noise_is_keyed_and_not_of_the_batch(family):
    model, edits = tiny_model(family), {1: some_vectors(2)}
    prefix = run_prefix(model, PROMPT, [1])

    def sampled(edits, samples):
        owner = list(range(samples)) * (1 + sum(map(len, edits.values())))
        return generate_read(
            model, prefix, edits, choose=keyed_sampling(5, "row", owner, 0.7), samples=samples,
            max_new_tokens=STEPS, stop_ids=[],
        )  # fmt: skip

    found = sampled(edits, 3)
    for row, vector in enumerate([torch.zeros(32), *edits[1]]):
        choose = keyed_sampling(5, "row", range(3), 0.7)
        assert found[row] == alone(
            model, PROMPT, 1, add_at_read(vector, len(PROMPT) - 1), choose, samples=3
        )
    assert [row[:2] for row in found] == sampled(edits, 2)
    assert sampled({1: edits[1][1:]}, 3)[1] == found[2]
    assert found[0][0] != found[0][1]


def test_no_edit_is_the_unedited_arm():
    model = tiny_model()
    prefix = run_prefix(model, PROMPT, [1])
    found = generate_read(
        model, prefix, {1: torch.zeros(2, 32)}, choose=greedy, samples=1, max_new_tokens=STEPS,
        stop_ids=[],
    )  # fmt: skip
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("rule", ["amplify", "clamp", "ablate"])
def test_an_edit_at_every_token_recomputes_the_activation(rule):
    model, sae = planted_model(), planted_sae()
    prompt = planted_rows(1)[0][0]
    indices, coefficient = list(range(len(PLANTED))), 1.5 if rule == "amplify" else 1.0
    maxima = {f"L1/{index}": 2.5 for index in indices}

    def edited(index):
        def change(output):
            changed = output.clone()
            acts = sae.encode(output[0, len(prompt) - 1 :])[:, index]
            steps = {"amplify": coefficient * acts, "clamp": 2.5 - acts, "ablate": -acts}
            changed[0, len(prompt) - 1 :] += steps[rule][:, None] * sae.W_dec[index]
            return changed

        return change

    edit = Edit(rule=rule, coefficient=coefficient, maxima=maxima)
    prefix = run_prefix(model, prompt, [sae.layer])
    found = generate_always(
        model, prefix, sae, indices, edit, choose=greedy, samples=1, max_new_tokens=STEPS,
        stop_ids=[],
    )  # fmt: skip
    assert found[0] == alone(model, prompt, sae.layer, lambda output: output)
    for place, index in enumerate(indices):
        assert found[1 + place] == alone(model, prompt, sae.layer, edited(index))
    assert len({str(output) for output in found}) > 1


def test_clamp_at_t_star_changes_what_a_silent_feature_says():
    model, tokenizer, silent = planted_model(), tiny_tokenizer(bos=False), FEATURES[-1]
    edit = Edit(rule="clamp", maxima={str(silent): 9.0})
    found = generated_outputs(
        model, tokenizer, [planted_sae()], [silent], examples(), edit, generation()
    )
    read = [row for row in found.to_pylist() if row["position"] == "read"]
    assert any(row["text"] != row["original"] for row in read)


def test_a_row_ends_at_its_stop_token():
    model = tiny_model()
    prefix = run_prefix(model, PROMPT, [1])
    edits = {1: some_vectors(3)}
    options = {"choose": greedy, "samples": 1, "max_new_tokens": STEPS}
    free = generate_read(model, prefix, edits, stop_ids=[], **options)
    stop = free[0][0][3]
    cut = generate_read(model, prefix, edits, stop_ids=[stop], **options)
    for (whole,), (ended,) in zip(free, cut, strict=True):
        end = whole.index(stop) if stop in whole else len(whole)
        assert ended == whole[:end]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("position", ["read", "generated"])
def test_rows_that_end_leave_the_batch_and_the_others_go_on_as_before(family, position):
    model, sae = tiny_model(family), tiny_sae(1)
    prefix, indices = run_prefix(model, PROMPT, [1]), list(range(6))
    options = {"choose": greedy, "samples": 1, "max_new_tokens": 2 * STEPS}

    def outputs(stop_ids):
        if position == "generated":
            edit = Edit(coefficient=4.0)
            return generate_always(model, prefix, sae, indices, edit, stop_ids=stop_ids, **options)
        return generate_read(model, prefix, {1: some_vectors(6)}, stop_ids=stop_ids, **options)

    with counted_rows(model) as sizes:
        free = outputs([])
    assert sizes[-1] == 7
    said = [set(row[:-1]) for (row,) in free]
    stops = [next(t for t in sorted(set.union(*said)) if 2 <= sum(t in row for row in said) < 7)]
    with counted_rows(model) as sizes:
        cut = outputs(stops)
    for (whole,), (ended,) in zip(free, cut, strict=True):
        end = next((at for at, token in enumerate(whole) if token in stops), len(whole))
        assert ended == whole[:end]
    assert sizes[-1] < 7


def test_the_unedited_row_goes_on_when_all_edited_ones_have_ended():
    model, sae = tiny_model(), tiny_sae(1)
    prefix, edit = run_prefix(model, PROMPT, [1]), Edit(coefficient=4.0)
    options = {"choose": greedy, "samples": 1, "max_new_tokens": 2 * STEPS}
    plain, *edited = generate_always(
        model, prefix, sae, list(range(6)), edit, stop_ids=[], **options
    )
    others = {token for (row,) in edited for token in row[:2]} - set(plain[0])
    keep = [place for place, (row,) in enumerate(edited) if set(row[:2]) & others]
    assert len(keep) > 2
    found = generate_always(model, prefix, sae, keep, edit, stop_ids=sorted(others), **options)
    assert found[0] == plain
    assert all(len(row) < 2 for (row,) in found[1:])


@contextmanager
def counted_rows(model):
    """Give the number of rows of each call of the last block."""
    sizes = []
    handle = decoder_blocks(model)[-1].register_forward_pre_hook(
        lambda _block, inputs: sizes.append(len(inputs[0]))
    )
    yield sizes
    handle.remove()


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_more_families_decode_as_each_alone(family):
    model, vectors = tiny_model(family), some_vectors(2)
    prefix = run_prefix(model, PROMPT, [1])
    found = generate_read(
        model, prefix, {1: vectors}, choose=greedy, samples=1, max_new_tokens=STEPS, stop_ids=[]
    )
    change = [lambda output: output]
    change += [add_at_read(vector, len(PROMPT) - 1) for vector in vectors]
    assert found == [alone(model, PROMPT, 1, one) for one in change]


def test_an_edit_that_misses_a_step_is_noticed():
    model = tiny_model()
    prefix = run_prefix(model, PROMPT, [1])
    cache, logits = branches(model, prefix, {1: some_vectors(1)}, samples=1, room=STEPS)
    nothing = lambda _rows: nullcontext([])  # noqa: E731
    with pytest.raises(AssertionError, match="edit of 2 rows was called for"):
        decode(
            model, cache, logits, choose=greedy, max_new_tokens=STEPS, stop_ids=[], during=nothing
        )


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama", "qwen2", "qwen3"])
def test_edited_outputs_are_those_of_generate_with_a_plain_hook(family):
    model, vectors = tiny_model(family), some_vectors(3)
    prefix, ids = run_prefix(model, PROMPT, [1]), torch.tensor([PROMPT])
    found = generate_read(
        model, prefix, {1: vectors}, choose=greedy, samples=1, max_new_tokens=3 * STEPS,
        stop_ids=[2],
    )  # fmt: skip
    for (ours,), vector in zip(found[1:], vectors, strict=True):
        add = add_at_read(vector, len(PROMPT) - 1)
        handle = decoder_blocks(model)[1].register_forward_hook(
            lambda _b, _i, output, add=add: add(output) if output.shape[1] > 1 else None
        )
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=3 * STEPS
        )[0, len(PROMPT) :].tolist()
        handle.remove()
        assert ours == (whole[: whole.index(2)] if 2 in whole else whole)


def generation(**changes):
    settings = {
        "positions": ["read", "generated"],
        "max_new_tokens": STEPS,
        "samples": 1,
        "temperature": 0.0,
        "seed": 0,
        "batch_tokens": 4096,
    }
    return Generation(**settings | changes)


def examples():
    prompts, responses = planted_rows(3)
    return make_examples(["a", "b", "c"], prompts, responses)


EDIT = Edit(coefficient=2.0)
FEATURES = [FeatureId(1, index) for index in range(len(PLANTED))]


def test_unedited_outputs_are_those_of_transformers():
    model, tokenizer = planted_model(), tiny_tokenizer(bos=False)
    found = generated_outputs(
        model, tokenizer, [planted_sae()], FEATURES, examples(), EDIT, generation()
    ).to_pylist()
    for example in examples():
        ids = torch.tensor([example.prompt_ids])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=STEPS
        )[0, ids.shape[1] :]
        own = {row["original"] for row in found if row["row_id"] == example.row_id}
        assert own == {tokenizer.decode(whole, skip_special_tokens=True)}
    keys = {(row["row_id"], row["position"], row["feature"], row["sample"]) for row in found}
    assert len(keys) == len(found) == 3 * 2 * len(FEATURES)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_outputs_do_not_depend_on_the_batch(temperature):
    model, tokenizer = planted_model(), tiny_tokenizer(bos=False)
    samples = 1 if temperature == 0 else 3
    whole, parts = (
        generated_outputs(
            model, tokenizer, [planted_sae()], FEATURES, examples(), EDIT,
            generation(temperature=temperature, samples=samples, batch_tokens=size),
        )
        for size in (100_000, 1)
    )  # fmt: skip
    # A divergence is rounded otherwise in other batches.
    assert whole.drop_columns("kl").equals(parts.drop_columns("kl"))
    assert whole["kl"].to_pylist() == pytest.approx(parts["kl"].to_pylist(), abs=1e-6)
    assert len(set(whole["text"].to_pylist())) > 3


def test_a_feature_that_is_silent_at_t_star_changes_nothing_there():
    model, tokenizer, sae = planted_model(), tiny_tokenizer(bos=False), planted_sae()
    silent = FEATURES[-1]
    found = generated_outputs(model, tokenizer, [sae], [silent], examples(), EDIT, generation())
    read = [row for row in found.to_pylist() if row["position"] == "read"]
    assert len(read) == 3
    assert all(row["text"] == row["original"] for row in read)
    assert {row["activation"] for row in found.to_pylist()} == {0.0}


def test_outputs_say_how_far_the_edit_goes_at_t_star_and_how_far_the_next_token_moves():
    model, tokenizer, sae = planted_model(), tiny_tokenizer(bos=False), planted_sae()
    found = generated_outputs(
        model, tokenizer, [sae], FEATURES, examples(), EDIT, generation()
    ).to_pylist()
    divergences = []
    for example in examples():
        ids, place = torch.tensor([example.prompt_ids]), len(example.prompt_ids) - 1
        with torch.no_grad():
            whole = model(ids, output_hidden_states=True)
        state = whole.hidden_states[sae.layer + 1][0, -1]
        acts, plain = sae.encode(state[None])[0], whole.logits[0, -1].double().log_softmax(0)
        for feature in FEATURES:
            vector = EDIT.coefficient * acts[feature.index] * sae.W_dec[feature.index]
            change = add_at_read(vector, place)
            handle = decoder_blocks(model)[sae.layer].register_forward_hook(
                lambda _b, _i, output, change=change: change(output)
            )
            with torch.no_grad():
                edited = model(ids).logits[0, -1].double().log_softmax(0)
            handle.remove()
            divergences.append(float((plain.exp() * (plain - edited)).sum()))
            keys = {"row_id": example.row_id, "feature": str(feature)}
            own = [row for row in found if keys.items() <= row.items()]
            assert {row["position"] for row in own} == {"read", "generated"}
            for row in own:
                assert row["push"] == pytest.approx(float(vector.norm() / state.norm()), rel=1e-5)
                assert row["kl"] == pytest.approx(divergences[-1], abs=1e-5)
    assert max(divergences) > 1e-3 and min(divergences) == pytest.approx(0, abs=1e-12)


def test_outputs_say_how_active_the_feature_was():
    model, tokenizer, sae = planted_model(), tiny_tokenizer(bos=False), planted_sae()
    found = generated_outputs(model, tokenizer, [sae], FEATURES, examples(), EDIT, generation())
    given = (model, [sae], FEATURES, examples())
    exact = exact_samples(*given, edit=EDIT, batch_tokens=512, contrast=False)
    keys = ("feature", "row_id", "activation")
    expected = {tuple(row[key] for key in keys) for row in exact.select(keys).to_pylist()}
    assert {tuple(row[key] for key in keys) for row in found.to_pylist()} == expected
    assert len({act > 0 for *_, act in expected}) == 2
