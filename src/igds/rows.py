"""A data row's status and its content-derived name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


class Status(StrEnum):
    """What became of one row of a source; every row that was read has exactly one."""

    OK = "ok"
    """Rendered, tokenized, can be scored."""
    MISSING_FIELD = "missing_field"
    """A mapped field that is needed is absent, null, or not text, number or boolean."""
    EMPTY_PROMPT = "empty_prompt"
    """Every field of the prompt, or the last turn before the response, is empty or white space."""
    BAD_MESSAGES = "bad_messages"
    """The conversation is not a list of turns, or a turn says something other than text."""
    NO_RESPONSE = "no_response"
    """The conversation does not end in an assistant turn with text, and the set needs one."""
    TEMPLATE_REFUSED = "template_refused"
    """The chat template refuses the conversation, as for roles out of order."""
    CONTROL_TOKEN = "control_token"
    """A turn of a chat prompt says one of the model's control tokens, as `<|im_start|>`."""
    TOO_LONG = "too_long"
    """The prompt (in the validation set, with its gold response) has more tokens than the model's
    context: its read position would be lost."""
    SPECIAL_TOKEN = "special_token"
    """The prompt holds the tokenizer's BOS, which the tokenizer adds itself."""
    OVERLAP = "overlap"
    """The row of the pool shares text with another set, see `data.overlap: drop`."""
    TORN_LINE = "torn_line"
    """The last line of a file, without its newline and not parseable."""
    BAD_JSON = "bad_json"
    """A line, or an item of a JSON array, that is not one JSON object."""
    BAD_UTF8 = "bad_utf8"
    """A row whose bytes are not UTF-8, or whose JSON names half a surrogate pair."""


class NoScore(StrEnum):
    """Why a row with status ok has no value by a method; stands in place of `ok` beside it."""

    NO_RESPONSE = "no_response"
    """The row has no response token."""
    NO_ROOM = "no_room"
    """The prompt leaves no room for a response token within `score.max_length`."""
    SPECIAL_TOKEN = "special_token"
    """The prompt holds the BOS that the tokenizer of the scoring model adds itself."""
    UNHELPFUL_PROMPT = "unhelpful_prompt"
    """The response is likelier without its prompt: IFD is over 1, superfilter's ratio not below."""
    NOT_REACHED = "not_reached"
    """The ranking ended before this row, see `score.zip.rows`."""


def canonical(fields: Mapping[str, Any]) -> bytes:
    """Return the canonical JSON of mapped fields: keys sorted, nulls dropped, 2.0 written as 2."""
    kept = {key: _plain(value) for key, value in fields.items() if value is not None}
    return _JSON.encode(kept).encode()


def content_hash(data: bytes) -> str:
    """Return 32 hex digits: the 128-bit BLAKE2b hash of some bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    """Return the value with integral floats as integers and nulls dropped, at every depth."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
