"""Texts to token ids, by the tokenizer's batch path, with its special tokens checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from igds.errors import RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_BLOCK = 256
"""Texts encoded at once: what the tokenizer returns takes some 100 bytes a token."""


def encode_prompts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of prompts, with the special tokens that the tokenizer adds.

    Raises:
        RequestError: the tokenizer adds a BOS and a text brings one too, or it adds a token
            after the text, where the read position is.
    """
    before, after = added_tokens(tokenizer)
    if after:
        raise RequestError(
            f"the tokenizer adds {tokenizer.convert_ids_to_tokens(after)} after a prompt: the read "
            "position must be the prompt's own last token; switch that off in its "
            "tokenizer_config.json (add_eos_token: false)"
        )
    ids = encode_unchecked(tokenizer, texts)
    bos = tokenizer.bos_token_id
    if bos in before:
        for text, row in zip(texts, ids, strict=True):
            if row.count(bos) != 1:
                raise RequestError(
                    f"a prompt has {row.count(bos)} {tokenizer.bos_token} tokens, and exactly one "
                    f"is right: the tokenizer adds one itself, so take {tokenizer.bos_token} out "
                    f"of the template or the row; the prompt begins {text[:60]!r}"
                )
    return ids


def encode_unchecked(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts with what the tokenizer adds, be it a second BOS."""
    return _encode(tokenizer, texts, special=True)


def encode_responses(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of responses, with no special token added, not even an EOS."""
    return _encode(tokenizer, texts, special=False)


def token_span(
    tokenizer: PreTrainedTokenizerBase, text: str, span: tuple[int, int]
) -> tuple[int, int] | None:
    """Return (first, stop) of the tokens of a response that hold characters of a span.

    Args:
        tokenizer: as for `encode_responses`.
        text: the response.
        span: characters (start, stop), `stop` not included.

    Returns:
        Token places, `stop` not included; None when no token holds any of the characters.
    """
    offsets = _backend(tokenizer).encode(text, add_special_tokens=False).offsets
    inside = [at for at, (low, high) in enumerate(offsets) if low < span[1] and high > span[0]]
    return (inside[0], inside[-1] + 1) if inside else None


def training_lengths(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], responses: Sequence[str]
) -> list[int]:
    """Return the tokens of each prompt and its response together, whatever the tokenizer adds."""
    n_prompt = map(len, encode_unchecked(tokenizer, prompts))
    n_response = map(len, _encode(tokenizer, responses, special=False))
    return [sum(pair) for pair in zip(n_prompt, n_response, strict=True)]


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer adds before and after a text."""
    (bare,) = _encode(tokenizer, ["a"], special=False)
    (full,) = _encode(tokenizer, ["a"], special=True)
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool
) -> list[list[int]]:
    backend = _backend(tokenizer)
    ids: list[list[int]] = []
    for start in range(0, len(texts), _BLOCK):
        block = list(texts[start : start + _BLOCK])
        ids += [e.ids for e in backend.encode_batch_fast(block, add_special_tokens=special)]
    return ids


def _backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return the fast tokenizer itself, which neither cuts nor pads."""
    if not tokenizer.is_fast:
        raise RequestError(
            f"{type(tokenizer).__name__} of {tokenizer.name_or_path} has no fast version: save the "
            "model with a tokenizer.json"
        )
    backend = cast("PreTrainedTokenizerFast", tokenizer).backend_tokenizer
    # tokenizer.json may carry a truncation or padding of its own, which would move t*
    backend.no_truncation()
    backend.no_padding()
    return backend
