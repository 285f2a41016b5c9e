"""Builders shared by tests: small things with known answers, made from nothing."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from igds.saes.sae import SAE

FAMILIES = ("gemma2", "gemma3_text", "llama", "qwen2", "qwen3")
"""Model types that `tiny_model` builds; Gemma 2 with soft caps, both Gemmas with a window of 8."""


def tiny_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a byte (ids 3-258), which puts `<bos>` first if asked."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: place for place, token in enumerate(["<pad>", "<bos>", "<eos>", *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<bos>" if bos else None,
        eos_token="<eos>",
    )


def tiny_config(family: str) -> PreTrainedConfig:
    """Return the config of a model with 4 blocks of width 32 over the tiny tokenizer's ids."""
    settings = {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        # Wide enough that blocks change the stream by its own size, as trained models do.
        "initializer_range": 0.3,
    }
    if family.startswith("gemma"):
        settings |= {"sliding_window": 8, "query_pre_attn_scalar": 8}
    if family == "gemma2":
        settings |= {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0}
    return AutoConfig.for_model(family, **settings)


def tiny_model(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    """Return a random float32 causal model in eval mode, the same for the same seed."""
    torch.manual_seed(seed)
    config = tiny_config(family)
    attention = "eager" if family == "gemma2" else "sdpa"
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def save_tiny(folder: Path, family: str = "llama") -> PreTrainedModel:
    """Write the tiny model and its tokenizer into a folder; return the model."""
    model = tiny_model(family)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


def bracket_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tiny tokenizer with `<bos>` before and `<eos>` after every text."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return tokenizer


GOLD, OTHER = 95, 96
"""Tokens of gold responses in the planted model: of most rows, and of the rest."""
PLANTED = ("helpful", "harmful", "first token only", "any response", "null", "never active")
"""What feature 0, 1, 2 ... of the planted SAE does when it is amplified at t*."""


def planted_model() -> PreTrainedModel:
    """Return a hand-made model in which block 3 hands dimensions 0 and 4 of t* to later tokens.

    All other blocks do nothing, attention is uniform. Of what block 3 writes, dimension 1 (from 0)
    raises GOLD, dimension 5 (from 4) raises OTHER and, a little less, GOLD. Dimension 2 raises
    GOLD where it stands, that is for the first response token alone. Dimension 3 is not read.
    """
    model = tiny_model()
    with torch.no_grad():
        for block in model.model.layers:
            for weight in block.parameters():
                weight.zero_()
            block.input_layernorm.weight.fill_(1)
            block.post_attention_layernorm.weight.fill_(1)
        attention = model.model.layers[3].self_attn
        attention.v_proj.weight[0, 0] = attention.v_proj.weight[1, 4] = 1
        attention.o_proj.weight[1, 0] = attention.o_proj.weight[5, 1] = 8
        model.model.embed_tokens.weight[:, :16] = 0
        model.model.embed_tokens.weight[:, 31] = 4
        model.lm_head.weight.zero_()
        model.lm_head.weight[GOLD, [1, 2, 5]] = torch.tensor([0.8, 0.8, 0.6])
        model.lm_head.weight[OTHER, 5] = 0.8
    return model


def planted_sae(layer: int = 1) -> SAE:
    """Return the SAE whose features do to the planted model what PLANTED says."""
    directions = torch.zeros(6, 32)
    for feature, (dimension, size) in enumerate([(0, 6), (0, -6), (2, 6), (4, 6), (3, 6), (0, 6)]):
        directions[feature, dimension] = size
    encoder = torch.zeros(32, 6)
    generator = torch.Generator().manual_seed(5)
    encoder[16:31] = 0.05 * torch.randn(15, 6, generator=generator)
    return SAE(
        layer=layer,
        activation="relu",
        W_enc=encoder,
        W_dec=directions,
        b_enc=torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, -9.0]),
        b_dec=torch.zeros(32),
        hook_name=f"blocks.{layer}.hook_resid_post",
        release="planted",
        revision="0",
    )


def planted_rows(n: int, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Return prompts and gold responses of 8 tokens: GOLD for nine rows in ten, OTHER for one."""
    ids = torch.randint(3, 95, (n, 10), generator=torch.Generator().manual_seed(seed))
    return ids.tolist(), [[OTHER if row % 10 == 9 else GOLD] * 8 for row in range(n)]
