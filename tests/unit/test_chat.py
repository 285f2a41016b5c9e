from __future__ import annotations

import pytest
from chat_templates import (
    CHATML,
    GEMMA,
    LLAMA,
    MISTRAL,
    REASONER,
    THINKING,
    chat_tokenizer,
    merging_tokenizer,
    prefix_space_tokenizer,
)
from transformers import PreTrainedTokenizerFast

from igds.config.inputs import Prompts
from igds.data.chat import ChatTemplate, chat_template
from igds.data.identity import rendering_hash
from igds.data.templates import parse_template
from igds.data.tokens import encode_chat_prompts, encode_responses, token_span
from igds.errors import RequestError

USER = {"role": "user", "content": "1+1? "}
TURNS = [USER, {"role": "assistant", "content": "2"}, {"role": "user", "content": "And 2+2?"}]
ANSWER = "Four:\n\n\\boxed{4}"


def ids_of(tokenizer: PreTrainedTokenizerFast, turns: list, **options: object) -> list[int]:
    return tokenizer.apply_chat_template(
        turns, tokenize=True, return_dict=False, date_string="26 Jul 2024", **options
    )


def encoded(chat: ChatTemplate, turns: list, answer: str) -> tuple[str, list[int], list[int]]:
    prompt = chat.prompt(turns)
    response = chat.response(turns, prompt, answer)
    (prompt_ids,) = encode_chat_prompts(chat.tokenizer, [prompt])
    (response_ids,) = encode_responses(chat.tokenizer, [response], [(prompt, prompt_ids)])
    return response, prompt_ids, response_ids


@pytest.mark.parametrize("bos", [True, False], ids=["adds BOS", "adds none"])
@pytest.mark.parametrize("template", [CHATML, LLAMA, GEMMA, MISTRAL], ids=["c", "l", "g", "m"])
@pytest.mark.parametrize("turns", [TURNS[:1], TURNS], ids=["one turn", "three turns"])
def test_tokens_are_those_of_the_tokenizer_on_the_conversation(
    template: str, bos: bool, turns: list
) -> None:
    tokenizer = chat_tokenizer(template, bos=bos)
    response, prompt_ids, response_ids = encoded(ChatTemplate(tokenizer=tokenizer), turns, ANSWER)
    assert prompt_ids == ids_of(tokenizer, turns, add_generation_prompt=True)
    assert prompt_ids.count(1) == (0 if template == CHATML else 1)
    whole = ids_of(tokenizer, [*turns, {"role": "assistant", "content": ANSWER}])
    assert whole[: len(prompt_ids) + len(response_ids)] == prompt_ids + response_ids
    assert response.strip() == ANSWER
    assert tokenizer.decode(response_ids) == response


def test_the_read_position_is_the_end_of_the_generation_prompt() -> None:
    for template, end in ((CHATML, "assistant\n"), (LLAMA, "assistant<|end|>\n\n")):
        assert ChatTemplate(tokenizer=chat_tokenizer(template)).prompt(TURNS).endswith(end)


def test_a_cue_begins_the_assistant_s_turn() -> None:
    tokenizer = chat_tokenizer(LLAMA)
    chat = ChatTemplate(tokenizer=tokenizer, cue="Answer:")
    response, prompt_ids, response_ids = encoded(chat, TURNS, "4")
    assert response == " 4"
    assert tokenizer.decode(prompt_ids).endswith("<|end|>\n\nAnswer:")
    whole = ids_of(tokenizer, [*TURNS, {"role": "assistant", "content": "Answer: 4"}])
    assert whole[:-1] == prompt_ids + response_ids
    assert encoded(chat, TURNS, "Answer: 4")[0] == " 4"
    assert encoded(chat, TURNS, "Answer:4")[0] == " Answer:4"
    assert encoded(chat, TURNS, "Answer:")[0] == ""


def test_the_stated_system_prompt_stands_in_place_of_the_row_s() -> None:
    tokenizer = chat_tokenizer(CHATML)
    own = [{"role": "system", "content": "Own."}, USER]
    plain = ChatTemplate(tokenizer=tokenizer)
    stated = ChatTemplate(tokenizer=tokenizer, system="Stated.")
    none = ChatTemplate(tokenizer=tokenizer, system="")
    assert stated.prompt(own) == stated.prompt([USER])
    assert plain.prompt(own).replace("Own.", "Stated.") == stated.prompt(own)
    assert none.prompt(own) == none.prompt([USER]) == plain.prompt([USER])


def test_the_thinking_switch_reaches_the_template() -> None:
    tokenizer = chat_tokenizer(THINKING)
    off, on = (ChatTemplate(tokenizer=tokenizer, thinking=value) for value in (False, True))
    assert off.prompt([USER]).endswith("assistant\n<think>\n\n</think>\n\n")
    assert on.prompt([USER]).endswith("assistant\n")
    assert encoded(off, [USER], "2")[0] == "2"
    # What the template writes before the answer is part of what the model is taught to say.
    assert encoded(on, [USER], "2")[0] == "<think>\n\n</think>\n\n2"
    with pytest.raises(RequestError, match=r"has the switch enable_thinking: state"):
        ChatTemplate(tokenizer=tokenizer)
    with pytest.raises(RequestError, match="no switch enable_thinking"):
        ChatTemplate(tokenizer=chat_tokenizer(CHATML), thinking=True)


def test_where_no_prompt_begins_the_conversation_the_answer_stands_as_it_is() -> None:
    chat = ChatTemplate(tokenizer=chat_tokenizer(REASONER))
    assert not chat.is_consistent
    response, _, response_ids = encoded(chat, [USER], "1 and 1</think>2")
    assert response == "1 and 1</think>2"
    assert chat.tokenizer.decode(response_ids) == response
    # With a cue the template asks for no thoughts.
    cued = ChatTemplate(tokenizer=chat.tokenizer, cue="So")
    assert cued.is_consistent
    assert encoded(cued, [USER], "2")[0] == " 2"
    for template in (CHATML, LLAMA, GEMMA, MISTRAL):
        assert ChatTemplate(tokenizer=chat_tokenizer(template)).is_consistent


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        (GEMMA, [USER, USER]),
        (GEMMA, [{"role": "system", "content": "x"}, USER]),
        (CHATML + "{{ messages[1].content.x.y }}", [USER]),
        (CHATML + "{{ 'a' + messages | length if messages | length > 1 }}", [USER, USER]),
    ],
)
def test_what_the_template_refuses_is_a_value_error(template: str, turns: list) -> None:
    plain = ChatTemplate(tokenizer=chat_tokenizer(CHATML))
    plain.tokenizer.chat_template = template
    with pytest.raises(ValueError, match="."):
        plain.prompt(turns)


def test_a_template_that_cannot_follow_the_settings_is_refused() -> None:
    with pytest.raises(RequestError, match="plain question: System role not supported"):
        ChatTemplate(tokenizer=chat_tokenizer(GEMMA), system="Be brief.")
    with pytest.raises(RequestError, match="has no chat template"):
        chat_template(chat_tokenizer(""), Prompts(chat_template=True))
    assert chat_template(chat_tokenizer(""), Prompts()) is None


def test_prompts_do_not_change_with_the_day() -> None:
    chat = ChatTemplate(tokenizer=chat_tokenizer(LLAMA), system="x")
    assert chat.prompt([USER]).startswith("<bos>26 Jul 2024<|start|>")


def test_tokens_are_right_where_a_text_begins_otherwise_than_it_goes_on() -> None:
    tokenizer = prefix_space_tokenizer(CHATML)
    turns = [{"role": "user", "content": "2?"}]
    response, prompt_ids, response_ids = encoded(ChatTemplate(tokenizer=tokenizer), turns, "4, 5")
    whole = ids_of(tokenizer, [*turns, {"role": "assistant", "content": "4, 5"}])
    assert whole[: len(prompt_ids) + len(response_ids)] == prompt_ids + response_ids
    assert tokenizer.convert_ids_to_tokens(response_ids) == ["4", ",", "▁", "5"]
    assert len(encode_responses(tokenizer, [response])[0]) == 5  # by itself it begins with a space
    prompt = ChatTemplate(tokenizer=tokenizer).prompt(turns)
    assert token_span(tokenizer, response, (3, 4), (prompt, prompt_ids)) == (3, 4)


def test_a_prompt_keeps_its_last_token_when_a_response_would_take_it() -> None:
    tokenizer = merging_tokenizer(CHATML)
    prompt = "user\n"
    (prompt_ids,) = encode_chat_prompts(tokenizer, [prompt])
    after = (prompt, prompt_ids)
    joined, alone = encode_responses(tokenizer, ["x\n\ny", "\nx"], [after, after])
    assert tokenizer.convert_ids_to_tokens(joined) == ["x", "ĊĊ", "y"]
    assert tokenizer.convert_ids_to_tokens(alone) == ["Ċ", "x"]
    assert token_span(tokenizer, "\nx", (1, 2), after) == (1, 2)
    assert token_span(tokenizer, "x\n\ny", (3, 4), after) == (2, 3)


def test_the_rendering_hash_follows_every_chat_setting() -> None:
    template = parse_template("{text}", user_turn=True)
    tokenizer, thinking = chat_tokenizer(CHATML), chat_tokenizer(THINKING)
    chats = [
        None,
        ChatTemplate(tokenizer=tokenizer),
        ChatTemplate(tokenizer=tokenizer, system="x"),
        ChatTemplate(tokenizer=tokenizer, cue="x"),
        ChatTemplate(tokenizer=thinking, thinking=True),
        ChatTemplate(tokenizer=thinking, thinking=False),
    ]
    hashes = [rendering_hash(template, tokenizer, chat) for chat in chats]
    assert len(set(hashes)) == len(chats)
    assert rendering_hash(template, tokenizer, ChatTemplate(tokenizer=tokenizer)) == hashes[1]
