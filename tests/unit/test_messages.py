from __future__ import annotations

import json
from typing import Any

import pytest

from igds.data.messages import read_turns, says_something, split_turns

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"},
]
SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "1+1?"},
    {"from": "gpt", "value": "2"},
]


@pytest.mark.parametrize(
    "value",
    [
        TURNS,
        SHAREGPT,
        {"messages": TURNS, "tools": None},
        {"conversations": SHAREGPT},
        json.dumps(TURNS),
        json.dumps({"messages": TURNS}),
        [{**turn, "name": "x", "weight": 0, "tool_calls": None} for turn in TURNS],
        [{**turn, "role": None, "content": None} for turn in SHAREGPT],
        [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in TURNS],
    ],
)
def test_every_form_gives_the_same_turns(value: Any) -> None:
    assert read_turns(value) == TURNS


def test_parts_are_joined_and_other_roles_kept() -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    turns = [{"role": "developer", "content": parts}, {"from": "observation", "value": ""}]
    assert read_turns(turns) == [
        {"role": "developer", "content": "a b"},
        {"role": "tool", "content": ""},
    ]


@pytest.mark.parametrize(
    "value",
    [
        None, 3, "", "not JSON", "[" * 100_000, "[]", [], {}, {"messages": "text"}, ["text"],
        [TURNS],
        [{"role": "user"}], [{"content": "x"}], [{"role": 1, "content": "x"}],
        [{"role": "user", "content": 3}], [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}],
        [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image"}]}],
        [{"role": "user", "content": [{"type": "text", "text": None}]}],
        [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}],
        [{"role": "assistant", "content": "2", "reasoning_content": "1 and 1 make 2"}],
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_no_conversation_of_text(value: Any) -> None:
    assert read_turns(value) is None


def test_the_answer_is_the_last_assistant_turn() -> None:
    assert split_turns(TURNS) == (TURNS[:2], "2")
    assert split_turns(TURNS[:2]) == (TURNS[:2], None)
    assert split_turns([*TURNS, TURNS[1], {"role": "assistant", "content": " \n"}]) == (
        [*TURNS, TURNS[1]],
        "",
    )


def test_a_prompt_must_say_something_at_its_end() -> None:
    assert says_something(TURNS[:2])
    assert not says_something([])
    assert not says_something(TURNS[:1])
    assert not says_something([TURNS[1], {"role": "user", "content": " "}])
