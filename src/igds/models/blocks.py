"""Where the decoder blocks of a transformers model are, and what they return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def decoder(model: nn.Module) -> PreTrainedModel:
    """Return the text decoder without its head: what maps token ids to the last hidden state.

    Raises:
        ValueError: the model is no transformers model.
    """
    find = getattr(model, "get_decoder", None)
    if find is None:
        raise ValueError(f"{type(model).__name__} is not a transformers language model")
    return find()


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the decoder blocks in order; block L's output is `blocks.{L}.hook_resid_post`.

    Raises:
        ValueError: the model keeps its blocks in a place that igds does not know.
    """
    text = decoder(model)
    blocks = getattr(text, "layers", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(
            f"{type(model).__name__} has no list of decoder blocks at `layers`; igds reads models "
            "built like Llama, Qwen and Gemma"
        )
    return blocks


def block_output(output: Tensor | tuple[Any, ...]) -> Float[Tensor, "batch seq d_model"]:
    """Return the residual stream from what a block returned: a tensor, or a tuple led by it."""
    return output[0] if isinstance(output, tuple) else output
