"""The text decoder of a multimodal model: cut and read as the whole wrapper reads text."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers import tiny_config
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from igds.config import schema
from igds.interventions.exact import branch_logprobs, check_branches, run_prefix
from igds.models.blocks import decoder_blocks
from igds.models.capture import capture
from igds.models.likelihood import check_head
from igds.models.load import describe, load_blocks, load_causal, resolve_model

IDS = torch.arange(10, 30)[None]
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
TOKENS = {"image_token_id": 250, "video_token_id": 251, "vision_start_token_id": 252}


def text(family, **more):
    return tiny_config(family).to_dict() | more


def qwen_text():
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
    return {k: v for k, v in text("qwen3", rope_parameters=rope).items() if k != "model_type"}


WRAPPERS = {
    "gemma3": lambda: {
        "text_config": text("gemma3_text"),
        "vision_config": VISION | {"model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4,
    },
    "internvl": lambda: {
        "text_config": text("qwen2"),
        "vision_config": VISION | {"image_size": [28, 28], "patch_size": [14, 14]},
        "image_token_id": 250,
    },
    "llava": lambda: {
        "text_config": text("llama"),
        "vision_config": VISION | {"model_type": "clip_vision_model", "projection_dim": 16},
        "image_token_index": 250,
    },
    "mistral3": lambda: {
        "text_config": text("mistral"),
        "vision_config": VISION | {"model_type": "pixtral"},
        "image_token_index": 250,
    },
    "qwen2_vl": lambda: (
        TOKENS
        | {
            "text_config": qwen_text(),
            "vision_config": {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2},
        }
    ),
    "qwen2_5_vl": lambda: (
        TOKENS
        | {
            "text_config": qwen_text(),
            "vision_config": QWEN_VISION | {"out_hidden_size": 32, "fullatt_block_indexes": [0]},
        }
    ),
    "qwen3_vl": lambda: (
        TOKENS
        | {
            "text_config": qwen_text(),
            "vision_config": QWEN_VISION | {"out_hidden_size": 32, "deepstack_visual_indexes": [0]},
        }
    ),
}


@pytest.fixture(params=WRAPPERS, scope="module")
def wrapper(request, tmp_path_factory):
    """A folder with the whole model, and the model."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **WRAPPERS[request.param]())
    whole = AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(folder)
    return folder, whole


def resolve(folder):
    return resolve_model(schema.Model(id=str(folder)), "cpu", folder)


def test_first_blocks_equal_the_whole_wrapper_on_text(wrapper):
    folder, _ = wrapper
    spec = resolve(folder)
    assert (describe(spec).n_blocks, describe(spec).d_model) == (4, 32)
    cut = load_blocks(spec, 2)
    assert len(decoder_blocks(cut)) == 2
    assert not [name for name, _ in cut.named_parameters() if "vis" in name]
    with torch.no_grad():
        plain = AutoModel.from_pretrained(folder).eval()
        expected = plain(input_ids=IDS, output_hidden_states=True).hidden_states
    with capture(cut, [0, 1]) as kept:
        cut(input_ids=IDS)
    assert torch.equal(kept[0], expected[1])
    assert torch.equal(kept[1], expected[2])


def test_blocks_behind_the_cut_are_never_read(wrapper, tmp_path):
    folder, _ = wrapper
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    behind = [n for n in weights if ".layers.2." in n or ".layers.3." in n]
    assert behind
    kept = {name: weight for name, weight in weights.items() if name not in behind}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert len(decoder_blocks(load_blocks(resolve(tmp_path), 2))) == 2


def test_branches_equal_the_wrappers_own_logits(wrapper):
    folder, whole = wrapper
    model = load_causal(resolve(folder))
    check_head(model)
    check_branches(model)
    prompt, response = IDS[0, :12].tolist(), IDS[0, 12:].tolist()
    with torch.no_grad():
        logits = whole(input_ids=IDS).logits[0].double()
        assert torch.equal(model(input_ids=IDS).logits, whole(input_ids=IDS).logits)
    own = logits.log_softmax(-1)[11:-1].gather(1, IDS[0, 12:, None])[:, 0]
    found = branch_logprobs(model, run_prefix(model, prompt, [1]), 1, torch.ones(1, 32), response)
    assert (found[0] - own).abs().max() < 1e-5
    assert (found[1] - found[0]).abs().max() > 0.01
