"""Worker side of interventions: screen, exact deltas and promoted tokens of one shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import torch
from safetensors.torch import load_file

from igds.features import FeatureId
from igds.interventions.exact import check_branches
from igds.interventions.examples import Example
from igds.interventions.groups import Across, group_samples
from igds.interventions.neutral import neutral_examples, perplexity_ratios
from igds.interventions.outputs import Generation, generated_outputs, unedited_outputs
from igds.interventions.promoted import final_norm, promoted_tokens
from igds.interventions.rules import Edit, Screen
from igds.interventions.samples import control_samples, exact_samples
from igds.interventions.screen import gradient_screen
from igds.models.likelihood import check_head
from igds.models.load import ModelSpec, load_causal, load_tokenizer
from igds.reading.activations import columns_by_layer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORK = "igds.interventions.work:InterventionWork"
"""Import path for worker specs."""


class InterventionWork:
    """One loaded model that serves every step of the stage; each shard says which."""

    def __init__(
        self,
        *,
        model: Mapping[str, Any],
        saes: Mapping[str, Mapping[str, Any]],
        features: Sequence[str],
        edit: Mapping[str, Any],
        screen: Screen,
        batch_tokens: int,
        threads: int,
        promotes: bool = True,
    ) -> None:
        """Load the model with its head, and the features from their SAEs.

        Args:
            model: fields of a ModelSpec.
            saes: block, as text, -> fields of its `SAESpec`.
            features: all that any shard names, as `L14/11575`.
            edit: fields of the `Edit` that is made of each feature; a shard may say another
                `position`.
            screen: where the gradient screen takes gradients.
            batch_tokens: tokens a branch batch.
            threads: CPU threads of this worker.
            promotes: the last step will be that of promoted tokens.
        """
        torch.set_num_threads(threads)
        self._spec = ModelSpec(**model)
        self._model = load_causal(self._spec)
        check_head(self._model)
        check_branches(self._model)
        if promotes:
            final_norm(self._model)  # what the last step needs is refused before the first
        self._saes = columns_by_layer(saes, [FeatureId.parse(name) for name in features])
        self._edit = Edit(**edit)
        self._screen: Screen = screen
        self._batch_tokens = batch_tokens

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, loaded by the first step that writes text."""
        return load_tokenizer(self._spec)

    def __call__(self, shard: Mapping[str, Any]) -> pa.Table:
        """Return the table of the shard's step: as of `gradient_screen` or `exact_samples`."""
        features = [FeatureId.parse(name) for name in shard["features"]]
        if shard["step"] == "promoted":
            return promoted_tokens(
                self._model, self._tokenizer, self._saes, features, top=shard["top"]
            )
        edit = replace(self._edit, position=shard.get("position", self._edit.position))
        settled = {"edit": edit, "batch_tokens": self._batch_tokens}
        if shard["step"] == "neutral":
            texts = neutral_examples(self._tokenizer)
            return perplexity_ratios(self._model, self._saes, features, texts, **settled)
        examples = [Example(**example) for example in shard["examples"]]
        if shard["step"] == "generate":
            settings = Generation(**shard["generation"])
            language = (self._model, self._tokenizer)
            if not features:
                return unedited_outputs(*language, examples, settings)
            return generated_outputs(*language, self._saes, features, examples, edit, settings)
        if shard["step"] == "controls":
            (feature,) = features
            tensors = load_file(shard["vectors"])
            return control_samples(
                self._model,
                next(sae for sae in self._saes if sae.layer == feature.layer),
                feature,
                examples,
                tensors["vectors"],
                tensors["doses"],
                **settled,
            )
        common = (self._model, self._saes, features, examples)
        if shard["step"] == "group":
            return group_samples(*common, edit=edit, across=shard["across"], contrast=True)
        if shard["step"] == "screen":
            return gradient_screen(*common, screen=self._screen, **settled)
        return exact_samples(*common, contrast=shard["contrast"], **settled)


def example_shards(
    step: Literal["screen", "exact"],
    features: Sequence[str],
    examples: Sequence[Example],
    *,
    contrast: bool = False,
    size: int = 4,
) -> list[dict[str, Any]]:
    """Return shards of `size` examples each, for a screen or for exact deltas."""
    return [
        {
            "step": step,
            "features": list(features),
            "examples": [asdict(example) for example in examples[start : start + size]],
            "contrast": contrast,
        }
        for start in range(0, len(examples), size)
    ]


def group_shards(
    features: Sequence[str], examples: Sequence[Example], across: Across
) -> list[dict[str, Any]]:
    """Return shards for the exact deltas and contrasts of features edited together."""
    shards = example_shards("exact", features, examples, contrast=True)
    return [{**shard, "step": "group", "across": across} for shard in shards]


def control_shards(feature: str, vectors: str, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Return shards of examples for the controls of one feature.

    Args:
        feature: its name.
        vectors: safetensors file with the tensors `vectors`, [controls, d_model], and `doses`, true
            for controls that are doses.
        examples: the rows of S3.
    """
    shards = example_shards("exact", [feature], examples)
    return [{**shard, "step": "controls", "vectors": vectors} for shard in shards]


def generate_shards(
    features: Sequence[str], examples: Sequence[Example], generation: Generation
) -> list[dict[str, Any]]:
    """Return shards of one example each, for generated outputs; without features, unedited."""
    shards = example_shards("exact", features, examples, size=1)
    return [{**shard, "step": "generate", "generation": asdict(generation)} for shard in shards]


def neutral_shard(features: Sequence[str]) -> dict[str, Any]:
    """Return the one shard that measures what the edit of features does to neutral texts."""
    return {"step": "neutral", "features": list(features)}


def promoted_shard(features: Sequence[str], top: int = 10) -> dict[str, Any]:
    """Return the one shard that names the tokens which features promote."""
    return {"step": "promoted", "features": list(features), "top": top}
