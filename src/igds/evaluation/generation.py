"""Generated responses, prompts of different lengths in one batch, noise that does not know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, TopPLogitsWarper

from igds.models.decode import gumbel_noise, stop_ids
from igds.reading.batches import plan_batches

if TYPE_CHECKING:
    from torch import FloatTensor, LongTensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """How responses are generated; plain JSON values."""

    samples: int
    """Responses a prompt."""
    temperature: float
    """0 is greedy."""
    top_p: float
    """Smallest share of probability to sample from, over 0 to 1."""
    max_new_tokens: int
    stop: Sequence[str]
    """Texts that end a response beside the EOS; left out of it."""
    seed: int
    batch_tokens: int
    """Tokens of prompt and response that a batch holds, all rows together."""


@dataclass(frozen=True, slots=True)
class Output:
    """One generated response."""

    text: str
    tokens: int
    """Tokens generated, without the EOS; with a text that ended it."""
    finished: bool
    """Whether it ended by itself, not at `max_new_tokens`."""


class KeyedNoise(LogitsProcessor):
    """Turns the likeliest token into a sample, by Gumbel noise keyed by (seed, row, step)."""

    def __init__(self, keys: Sequence[str], prompt: int, settings: Decoding) -> None:
        """Keep the name of each row of the batch, and the padded length of its prompts."""
        self._keys, self._prompt, self._settings = keys, prompt, settings
        self._top_p = TopPLogitsWarper(settings.top_p) if settings.top_p < 1 else None

    def __call__(
        self, input_ids: Int[Tensor, "rows seq"], scores: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        """Return logits over temperature plus noise; tokens outside top-p stay impossible."""
        scores = scores.float() / self._settings.temperature
        if self._top_p is not None:
            scores = self._top_p(cast("LongTensor", input_ids), cast("FloatTensor", scores))
        step = input_ids.shape[1] - self._prompt
        keys = [f"{key}/{step}" for key in self._keys]
        noise = gumbel_noise(self._settings.seed, "evaluate", keys, scores.shape[1])
        return scores + noise.to(scores.device)


def generated_responses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    settings: Decoding,
) -> list[list[Output]]:
    """Return the responses [prompt][sample].

    Sampling ignores the model's own generation settings; a row's noise depends on its key alone, so
    two models that are compared get the same.

    Args:
        model: a causal model in eval mode.
        tokenizer: its own.
        prompts: token ids.
        keys: a name of each prompt.
        settings: how.
    """
    found: dict[int, list[Output]] = {}
    sizes = [(len(ids) + settings.max_new_tokens) * settings.samples for ids in prompts]
    for batch in plan_batches(sizes, settings.batch_tokens):
        rows = [place for place in batch for _ in range(settings.samples)]
        names = [f"{keys[place]}/{sample}" for place in batch for sample in range(settings.samples)]
        outputs = _decoded(model, tokenizer, [prompts[place] for place in rows], names, settings)
        for number, place in enumerate(batch):
            start = number * settings.samples
            found[place] = outputs[start : start + settings.samples]
    return [found[place] for place in range(len(prompts))]


def _decoded(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    names: Sequence[str],
    settings: Decoding,
) -> list[Output]:
    """Return the response of each row of one batch."""
    width = max(map(len, prompts))
    ids = torch.tensor([[*[0] * (width - len(row)), *row] for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    ends = stop_ids(model.generation_config, tokenizer)
    noise = [KeyedNoise(names, width, settings)] if settings.temperature > 0 else []
    own = model.generation_config
    # Whatever it names, as a repetition penalty, would be merged into the settings given.
    model.generation_config = GenerationConfig()
    generate: Any = model.generate
    try:
        sequences = generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=settings.max_new_tokens,
                eos_token_id=ends,
                pad_token_id=ends[0] if ends else 0,
                stop_strings=list(settings.stop) or None,
            ),
            logits_processor=LogitsProcessorList(noise),
            tokenizer=tokenizer,
        )
    finally:
        model.generation_config = own
    assert isinstance(sequences, Tensor), "generate returns ids unless it is asked for more"
    return [output_of(tokenizer, row, ends, settings) for row in sequences[:, width:].tolist()]


def output_of(
    tokenizer: PreTrainedTokenizerBase, tokens: list[int], ends: Sequence[int], settings: Decoding
) -> Output:
    """Return the response up to what ended it.

    Args:
        tokenizer: of the model.
        tokens: ids that it generated, what ended them among them.
        ends: ids that end a response.
        settings: its texts that do, and the most tokens.
    """
    end = next((at for at, token in enumerate(tokens) if token in ends), len(tokens))
    finished = end < len(tokens)
    text = tokenizer.decode(tokens[:end], skip_special_tokens=True)
    assert isinstance(text, str), "one row gives one text"
    places = [text.find(stop) for stop in settings.stop if stop in text]
    return Output(text[: min(places)] if places else text, end, finished or bool(places))
