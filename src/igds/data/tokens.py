"""Texts to token ids, by the tokenizer's batch path, with its special tokens checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from igds.errors import RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Prompt = tuple[str, Sequence[int]]
"""A rendered prompt and its token ids."""

_BLOCK = 256
"""Texts encoded at once: what the tokenizer returns takes some 100 bytes a token."""


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, chat: bool = False
) -> list[list[int]]:
    """Return the token ids of prompts, with the special tokens that the tokenizer adds.

    Args:
        tokenizer: the model's own.
        texts: the prompts.
        chat: a chat template rendered them: they are taken as `encode_chat_prompts` does.

    Raises:
        RequestError: the tokenizer adds a BOS and a text brings one too, or it adds a token
            after the text, where the read position is.
    """
    if chat:
        return encode_chat_prompts(tokenizer, texts)
    found: list[list[int]] = []
    for text, ids in zip(texts, encode_rows(tokenizer, texts), strict=True):
        if ids is None:
            raise RequestError(
                f"a prompt brings a {tokenizer.bos_token} of its own, and the tokenizer adds one: "
                f"take {tokenizer.bos_token} out of the template or the row; the prompt begins "
                f"{text[:60]!r}"
            )
        found.append(ids)
    return found


def encode_rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int] | None]:
    """Return the token ids of each prompt; None where it brings a BOS beside the tokenizer's own.

    Raises:
        RequestError: the tokenizer adds a token after the text, where the read position is.
    """
    before, after = added_tokens(tokenizer)
    if after:
        raise RequestError(
            f"the tokenizer adds {tokenizer.convert_ids_to_tokens(after)} after a prompt: the read "
            "position must be the prompt's own last token; switch that off in its "
            "tokenizer_config.json (add_eos_token: false)"
        )
    bos = tokenizer.bos_token_id
    ids = encode_unchecked(tokenizer, texts)
    return [row if bos not in before or row.count(bos) == 1 else None for row in ids]


def encode_unchecked(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of texts with what the tokenizer adds, be it a second BOS."""
    return _encode(tokenizer, texts, special=True)


def encode_chat_prompts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[list[int]]:
    """Return the token ids of chat prompts as they stand: the chat template brings its own BOS."""
    return _encode(tokenizer, texts, special=False)


def check_texts(name: str, texts: Sequence[str]) -> None:
    """Refuse what is no list of texts.

    Raises:
        ValueError: it is one text, or it is empty.
    """
    if isinstance(texts, str):
        raise ValueError(f"{name} is one text: give a list of texts")
    if not len(texts):
        raise ValueError(f"{name} is empty: give at least one text")


def encode_responses(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], after: Sequence[Prompt] = ()
) -> list[list[int]]:
    """Return the token ids of responses, with no special token added, not even an EOS.

    Args:
        tokenizer: the model's own.
        texts: the responses.
        after: the chat prompt of each, which it continues: some tokenizers write the start of a
            text otherwise than its middle. Where prompt and response would share a token, the
            prompt keeps its own and the response is encoded by itself.
    """
    if not after:
        return _encode(tokenizer, texts, special=False)
    joined = [prompt + text for (prompt, _), text in zip(after, texts, strict=True)]
    ids = _encode(tokenizer, joined, special=False)
    for place, (_, head) in enumerate(after):
        if ids[place][: len(head)] == list(head):
            ids[place] = ids[place][len(head) :]
        else:
            (ids[place],) = _encode(tokenizer, [texts[place]], special=False)
    return ids


def token_span(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    span: tuple[int, int],
    after: Prompt = ("", ()),
) -> tuple[int, int] | None:
    """Return (first, stop) of the tokens of a response that hold characters of a span.

    Args:
        tokenizer: as for `encode_responses`.
        text: the response.
        span: characters (start, stop), `stop` not included.
        after: its chat prompt, if there is one.

    Returns:
        Token places, `stop` not included; None when no token holds any of the characters.
    """
    prompt, head = after
    encoding = _backend(tokenizer).encode(prompt + text, add_special_tokens=False)
    if encoding.ids[: len(head)] != list(head):
        return token_span(tokenizer, text, span)
    low, high = (len(prompt) + end for end in span)
    offsets = encoding.offsets[len(head) :]
    inside = [at for at, (start, stop) in enumerate(offsets) if start < high and stop > low]
    return (inside[0], inside[-1] + 1) if inside else None


def training_lengths(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    chat: bool = False,
) -> list[int]:
    """Return the tokens of each prompt and its response together, whatever the tokenizer adds.

    Nothing is added to chat prompts, see `encode_chat_prompts`.
    """
    n_prompt = map(len, _encode(tokenizer, prompts, special=not chat))
    n_response = map(len, _encode(tokenizer, responses, special=False))
    return [sum(pair) for pair in zip(n_prompt, n_response, strict=True)]


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer adds before and after a text."""
    (bare,) = _encode(tokenizer, ["a"], special=False)
    (full,) = _encode(tokenizer, ["a"], special=True)
    start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


def added_bos(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return the BOS that a tokenizer puts before a text by itself, None without one."""
    adds = tokenizer.bos_token_id in added_tokens(tokenizer)[0]
    return str(tokenizer.bos_token) if adds else None


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
