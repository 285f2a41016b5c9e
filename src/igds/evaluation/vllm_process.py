"""The process that generates by vLLM, as `OtherPython` starts it.

It runs in an environment with vllm and without igds, and imports nothing of igds. It reads first
`{model, sampling}`, the arguments of `vllm.LLM` and `vllm.SamplingParams`, then shards `{prompts,
seeds}`. It writes `{package}`, then the generated token ids [prompt][sample] of each shard.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import packages_distributions, version


def main() -> None:
    """Generate shard by shard."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    from vllm import LLM, SamplingParams  # pyright: ignore

    (descriptor,) = sys.argv[1:]
    given = json.loads(sys.stdin.readline())
    model = LLM(**given["model"])
    package = packages_distributions()["vllm"][0]  # that for CPUs has another name
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as output:
        print(json.dumps({"package": f"{package} {version(package)}"}), file=output, flush=True)
        for line in sys.stdin:
            shard = json.loads(line)
            prompts = [{"prompt_token_ids": ids} for ids in shard["prompts"]]
            sampling = [SamplingParams(seed=seed, **given["sampling"]) for seed in shard["seeds"]]
            model.reset_prefix_cache()  # a shard starts alike, whatever was done before it
            found = model.generate(prompts, sampling, use_tqdm=False)
            tokens = [[list(one.token_ids) for one in row.outputs] for row in found]
            print(json.dumps(tokens), file=output, flush=True)


if __name__ == "__main__":
    main()
