"""Families that are tested once each: read, cut and edited as plain transformers does it.

And architectures that are refused, each with its reason.
"""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tests.helpers import FAMILIES, MORE_FAMILIES, blocks_of, save_tiny, tiny_tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from igds.config import schema
from igds.errors import RequestError
from igds.interventions.exact import branch_logprobs, branch_states, check_branches, run_prefix
from igds.interventions.promoted import final_norm
from igds.interventions.rules import Edit
from igds.interventions.work import InterventionWork
from igds.models.blocks import decoder_blocks
from igds.models.edit import branch_along
from igds.models.likelihood import check_head, target_logprobs
from igds.models.load import describe, load_blocks, load_causal, resolve_model
from igds.reading.residuals import pad_right, residuals_at_read

PROMPT, RESPONSE = [1, *range(40, 60)], [70, 71, 72, 70, 9, 10, 11, 120]
T_STAR = len(PROMPT) - 1
SIZES = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def resolve(folder):
    return resolve_model(schema.Model(id=str(folder)), "cpu", folder)


def first(output):
    return output[0] if isinstance(output, tuple) else output


def plain_forward(model, ids, mask=None, edits=(), at=T_STAR):
    """Block outputs [block, batch, seq, d_model] and logits, by hooks written for this test.

    `edits` has what is added to a block's output at the tokens `at`.
    """
    seen, edits = [], dict(edits)

    def hook(block):
        def run(_block, _inputs, output):
            hidden = first(output).clone()
            if block in edits:
                hidden[:, at] += edits[block]
            seen.append(hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return run

    hooks = [block.register_forward_hook(hook(n)) for n, block in enumerate(blocks_of(model))]
    with torch.no_grad():
        logits = model(ids, attention_mask=mask, use_cache=False).logits
    for handle in hooks:
        handle.remove()
    return torch.stack(seen), logits


@pytest.fixture(params=MORE_FAMILIES, scope="module")
def spec(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny(folder, request.param)
    return resolve(folder)


@pytest.fixture(scope="module")
def plain(spec):
    return AutoModelForCausalLM.from_pretrained(spec.path, dtype=torch.float32).eval()


def test_reading_and_cutting(spec, plain):
    shape = describe(spec)
    assert (shape.n_blocks, shape.d_model, shape.context, shape.vocab) == (4, 32, 128, 259)
    assert spec.attention == plain.config._attn_implementation
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 259, (n,), generator=generator).tolist() for n in (3, 11, 20, 20)]
    ids, mask = pad_right(rows)
    last = torch.tensor([len(row) - 1 for row in rows])
    expected = plain_forward(plain, ids, mask)[0][:, torch.arange(4), last]
    cut = load_blocks(spec, 3)
    assert len(decoder_blocks(cut)) == 3
    read = residuals_at_read(cut, rows, range(3), batch_tokens=10_000)
    alone = residuals_at_read(cut, rows, range(3), batch_tokens=1)
    for layer in range(3):
        assert torch.equal(read[layer], expected[layer])
        drift = (alone[layer] - expected[layer]).norm(dim=1)
        assert (drift <= 1e-5 * expected[layer].norm(dim=1)).all()


def test_branches_equal_one_forward_per_edit(spec, plain):
    model = load_causal(spec)
    check_head(model)
    check_branches(model)
    final_norm(model)
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor(RESPONSE)[:, None]
    for layer in (0, 2):
        prefix = run_prefix(model, PROMPT, [layer])
        found = branch_logprobs(model, prefix, layer, vectors, RESPONSE)
        for row, vector in enumerate([torch.zeros(32), *vectors]):
            ids = torch.tensor([PROMPT + RESPONSE])
            logits = plain_forward(plain, ids, edits={layer: vector})[1][0].double()
            expected = logits.log_softmax(-1)[len(PROMPT) - 1 : -1].gather(1, targets)[:, 0]
            assert (found[row] - expected).abs().max() < 1e-5
        assert (found[1:] - found[0]).abs().max() > 0.01


def test_branches_edited_at_every_token_equal_one_forward_per_edit(spec, plain):
    model, targets = load_causal(spec), torch.tensor(RESPONSE)[:, None]
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    change = branch_along(lambda states: vectors[:, None].expand(-1, len(states), -1))
    prefix = run_prefix(model, PROMPT, [2])
    for start in (0, len(PROMPT) - 1):
        hidden = branch_states(model, prefix, {2: change}, 2, RESPONSE, whole=start == 0)
        found = target_logprobs(model, hidden, targets[:, 0])
        for row, vector in enumerate([torch.zeros(32), *vectors]):
            ids, at = torch.tensor([PROMPT + RESPONSE]), slice(start, None)
            logits = plain_forward(plain, ids, edits={2: vector}, at=at)[1][0].double()
            expected = logits.log_softmax(-1)[len(PROMPT) - 1 : -1].gather(1, targets)[:, 0]
            assert (found[row] - expected).abs().max() < 1e-5


def save(folder, family, auto=AutoModelForCausalLM, **settings):
    torch.manual_seed(0)
    sizes = {name: size for name, size in (SIZES | settings).items() if size is not None}
    model = auto.from_config(AutoConfig.for_model(family, **sizes)).eval()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("family", "auto", "settings", "message"),
    [
        ("mamba", AutoModel, {"max_position_embeddings": None}, "names no max_position_embeddings"),
        ("bert", AutoModel, {}, "BertModel has no list of decoder blocks"),
        ("modernbert", AutoModel, {"cls_token_id": 1}, "see those after it"),
        ("bart", AutoModel, {"d_model": 32, "decoder_layers": 2}, "has an encoder"),
        ("hy_v4", AutoModel, {}, r"returned \[1, 2, 4, 32\] in place of one residual stream"),
    ],
)
def test_models_that_cannot_be_read_are_refused(family, auto, settings, message, tmp_path):
    save(tmp_path, family, auto, **settings)
    with pytest.raises(RequestError, match=message):
        spec = resolve(tmp_path)
        describe(spec)
        load_blocks(spec)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "plain attention"),
        ("gpt_bigcode", {}, "more rows than its input"),
        (
            "gemma4_text",
            {
                "layer_types": ["full_attention", "full_attention"],
                "num_kv_shared_layers": 1,
                "hidden_size_per_layer_input": 4,
                "vocab_size_per_layer_input": 259,
                "head_dim": 8,
            },
            "plain attention",
        ),
    ],
)
def test_models_that_are_read_but_not_edited(family, settings, message, tmp_path):
    plain = save(tmp_path, family, **settings)
    rows = [[5, 6, 7], [9, 10, 11, 12, 13]]
    read = residuals_at_read(load_blocks(resolve(tmp_path)), rows, [0], batch_tokens=1)
    for place, row in enumerate(rows):
        with torch.no_grad():
            states = plain(torch.tensor([row]), output_hidden_states=True).hidden_states
        assert torch.equal(read[0][place], states[1][0, -1])
    with pytest.raises(RequestError, match=message):
        check_branches(load_causal(resolve(tmp_path)))


def test_a_final_norm_of_another_name_is_refused_before_the_first_step(tmp_path):
    save(tmp_path, "biogpt")
    with pytest.raises(RequestError, match="BioGptForCausalLM has no final norm named norm, "):
        InterventionWork(
            model=asdict(resolve(tmp_path)),
            saes={},
            features=[],
            edit=asdict(Edit()),
            screen="attribution",
            batch_tokens=64,
            threads=1,
        )


def test_the_page_lists_what_is_tested():
    lines = (Path(__file__).parents[2] / "docs" / "models.md").read_text().splitlines()
    for start, families in (("| in depth |", FAMILIES), ("| once each |", MORE_FAMILIES)):
        (line,) = [line for line in lines if line.startswith(start)]
        listed = [name.split()[0] for name in line.strip("| ").split("|")[1].split(",")]
        assert listed == list(families)
