"""Held-out likelihoods and generated responses against plain loops, one row at a time."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import torch
from tests.helpers import tiny_model, tiny_tokenizer
from transformers import PreTrainedModel

from igds.evaluation.generation import Decoding, KeyedNoise, generated_responses
from igds.reading.responses import Continuation, read_continuations

PROMPTS = ["a\nB:", "a much longer prompt than the other\nB:", "ccc\nB:", "d:"]
RESPONSES = [" x", " yes, and more of it", " 12", " q r"]


def ids(texts: list[str], *, special: bool) -> list[list[int]]:
    return [tiny_tokenizer()(text, add_special_tokens=special).input_ids for text in texts]


def decoding(**given: Any) -> Decoding:
    plain = {"samples": 1, "temperature": 0.0, "top_p": 1.0, "max_new_tokens": 8, "stop": []}
    return Decoding(**{**plain, "seed": 3, "batch_tokens": 4096, **given})


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("batch_tokens", [1, 90, 4096])
def test_likelihoods_equal_one_plain_forward_a_row(family: str, batch_tokens: int) -> None:
    model = tiny_model(family)
    prompts, responses = ids(PROMPTS, special=True), ids(RESPONSES, special=False)
    rows = zip(prompts, responses, strict=True)
    pairs = [Continuation(context=prompt, response=response) for prompt, response in rows]
    found, _ = read_continuations(model, pairs, batch_tokens)
    assert found is not None
    for prompt, response, values in zip(prompts, responses, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *response]])).logits[0].float()
        logprobs = logits.log_softmax(-1)[len(prompt) - 1 : -1]
        expected = logprobs[torch.arange(len(response)), torch.tensor(response)]
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-5)


def plain_outputs(model: PreTrainedModel, prompt: list[int], steps: int) -> list[int]:
    """Return the greedy continuation by whole forwards, no cache and no padding."""
    tokens = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] == 2:
            break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("batch_tokens", [1, 120, 4096])
def test_greedy_responses_equal_a_plain_loop_without_padding(
    model: PreTrainedModel, batch_tokens: int
) -> None:
    prompts, tokenizer = ids(PROMPTS, special=True), tiny_tokenizer()
    settings = decoding(batch_tokens=batch_tokens)
    found = generated_responses(model, tokenizer, prompts, PROMPTS, settings)
    for prompt, (output,) in zip(prompts, found, strict=True):
        expected = plain_outputs(model, prompt, 8)
        ended = expected[-1] == 2
        plain = expected[:-1] if ended else expected
        assert output.text == tokenizer.decode(plain, skip_special_tokens=True)
        assert (output.tokens, output.finished) == (len(plain), ended)


def test_the_models_own_generation_settings_are_left_out_and_put_back() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    prompts = ids(PROMPTS, special=True)
    plain = generated_responses(model, tokenizer, prompts, PROMPTS, decoding())
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.min_new_tokens = 8
    assert generated_responses(model, tokenizer, prompts, PROMPTS, decoding()) == plain
    assert model.generation_config.repetition_penalty == 5.0


def test_samples_do_not_depend_on_the_batch_or_on_other_rows(model: PreTrainedModel) -> None:
    prompts, tokenizer = ids(PROMPTS, special=True), tiny_tokenizer()
    given = {"samples": 3, "temperature": 1.0, "top_p": 0.9}
    whole = generated_responses(model, tokenizer, prompts, PROMPTS, decoding(**given))
    alone = [
        generated_responses(model, tokenizer, [row], [key], decoding(**given, batch_tokens=1))[0]
        for row, key in zip(prompts, PROMPTS, strict=True)
    ]
    assert alone == whole
    assert len({output.text for output in whole[0]}) == 3
    other = generated_responses(model, tokenizer, prompts, PROMPTS, decoding(**given, seed=4))
    assert other != whole


def test_noise_samples_from_the_distribution_and_never_outside_top_p() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 4000
    noise = KeyedNoise([f"row{row}" for row in range(n)], 1, decoding(temperature=0.5, top_p=0.9))
    logits = (probabilities.log() * 0.5).expand(n, 4)  # at temperature 0.5 these probabilities
    chosen = noise(torch.zeros(n, 1, dtype=torch.long), logits).argmax(1)
    shares = torch.bincount(chosen, minlength=4) / n
    expected = torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95
    assert shares[3] == 0
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.03)


def test_a_stop_text_ends_a_response_and_is_left_out(model: PreTrainedModel) -> None:
    prompts, tokenizer = ids(PROMPTS[:1], special=True), tiny_tokenizer()
    long = {"max_new_tokens": 60, "temperature": 1.0}
    ((whole,),) = generated_responses(model, tokenizer, prompts, ["k"], decoding(**long))
    stop = next(character for character in whole.text[5:] if character.isascii())
    settings = decoding(**long, stop=["nowhere", stop])
    ((cut,),) = generated_responses(model, tokenizer, prompts, ["k"], settings)
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finished and cut.tokens < whole.tokens


def test_an_index_without_answers_has_no_answer_likelihood() -> None:
    from igds.evaluation.tables import likelihood_items
    from igds.evaluation.work import LIKELIHOODS

    rows = [
        {"row_id": "a", "logprob": -1.0, "tokens": 5, "logprob_answer": -2.0, "answer_tokens": 1},
        {"row_id": "b", "logprob": -3.0, "tokens": 4, "logprob_answer": None},
    ]
    found = pa.Table.from_pylist(rows, schema=LIKELIHOODS)
    items = likelihood_items("tuned", found, {"a": "p", "b": "p"}).to_pylist()
    assert [(i["item"], i["metric"], i["value"], i["tokens"]) for i in items] == [
        ("a", "logprob", -1.0, 5),
        ("b", "logprob", -3.0, 4),
        ("a", "logprob_answer", -2.0, 1),
    ]
