from __future__ import annotations

import pytest
from helpers import bracket_tokenizer, tiny_tokenizer

from igds.data.identity import rendering_hash
from igds.data.templates import parse_template
from igds.data.tokens import (
    added_tokens,
    encode_prompts,
    encode_responses,
    token_span,
    training_lengths,
)
from igds.errors import RequestError

TEXTS = ["ab", "c\u2028d", "", "Lösung:"]


@pytest.mark.parametrize("bos", [True, False])
def test_same_ids_as_the_tokenizer_itself(bos: bool) -> None:
    tokenizer = tiny_tokenizer(bos=bos)
    assert encode_prompts(tokenizer, TEXTS) == [tokenizer(t)["input_ids"] for t in TEXTS]
    assert encode_responses(tokenizer, TEXTS) == [
        tokenizer(t, add_special_tokens=False)["input_ids"] for t in TEXTS
    ]


def test_span_of_characters_as_tokens() -> None:
    tokenizer, text = tiny_tokenizer(), " So \\boxed{72}."
    start = text.index("72")
    first, stop = token_span(tokenizer, text, (start, start + 2))
    (ids,) = encode_responses(tokenizer, [text])
    assert tokenizer.decode(ids[first:stop]) == "72"
    assert token_span(tokenizer, text, (start, start)) is None


def test_more_texts_than_a_block() -> None:
    texts = [str(number) for number in range(600)]
    tokenizer = tiny_tokenizer()
    assert encode_prompts(tokenizer, texts) == tokenizer(texts)["input_ids"]


def test_truncation_and_padding_of_the_tokenizer_file_are_ignored() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert [len(ids) for ids in encode_prompts(tokenizer, ["abcdef", "a"])] == [7, 2]


def test_doubled_bos_is_refused() -> None:
    with pytest.raises(RequestError, match="brings a <bos> of its own.*take <bos> out"):
        encode_prompts(tiny_tokenizer(), ["fine", "<bos>Solve"])


def test_bos_from_the_template_alone_is_right() -> None:
    (ids,) = encode_prompts(tiny_tokenizer(bos=False), ["<bos>a"])
    assert len(ids) > 1


def test_a_token_after_the_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="after a prompt.*add_eos_token"):
        encode_prompts(bracket_tokenizer(), ["a"])


def test_added_tokens() -> None:
    assert added_tokens(tiny_tokenizer()) == ([1], [])
    assert added_tokens(tiny_tokenizer(bos=False)) == ([], [])
    assert added_tokens(bracket_tokenizer()) == ([1], [2])


def test_training_lengths_count_what_the_tokenizer_adds() -> None:
    assert training_lengths(bracket_tokenizer(), ["ab", "a"], [" c", ""]) == [6, 3]


def test_rendering_hash_follows_template_and_special_tokens() -> None:
    one, two = parse_template("{a}\nA:"), parse_template("{a}\nB:")
    hashes = {
        rendering_hash(one, tiny_tokenizer()),
        rendering_hash(two, tiny_tokenizer()),
        rendering_hash(one, tiny_tokenizer(bos=False)),
    }
    assert len(hashes) == 3
    assert rendering_hash(one, tiny_tokenizer()) in hashes
