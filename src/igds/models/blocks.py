"""Where the decoder blocks of a transformers model are, and what they return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from igds.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LISTS = ("layers", "h")
"""Names of the list of blocks: of most decoders, and of GPT-2, GPT-J, Falcon and BLOOM."""


def decoder(model: nn.Module) -> PreTrainedModel:
    """Return the text decoder without its head: what maps token ids to the last hidden state.

    Raises:
        RequestError: the model is no transformers model.
    """
    find = getattr(model, "get_decoder", None)
    if find is None:
        raise RequestError(f"{type(model).__name__} is not the decoder of a transformers model")
    found = find()
    # A multimodal wrapper may hold a whole causal model, whose decoder is one step deeper.
    return found if found is model else decoder(found)


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the decoder blocks in order; block L's output is `blocks.{L}.hook_resid_post`.

    Raises:
        RequestError: the model keeps its blocks in a place that igds does not know.
    """
    text = decoder(model)
    for name in _LISTS:
        blocks = getattr(text, name, None)
        if isinstance(blocks, nn.ModuleList):
            return blocks
    raise RequestError(
        f"{type(text).__name__} has no list of decoder blocks at `{'` or `'.join(_LISTS)}`: igds "
        "reads decoders built like Llama, Gemma, GPT-NeoX or GPT-2"
    )


def block_output(output: Tensor | tuple[Any, ...]) -> Float[Tensor, "batch seq d_model"]:
    """Return the residual stream from what a block returned: a tensor, or a tuple led by it.

    Raises:
        RequestError: the block hands on something else, as several streams at once.
    """
    hidden = output[0] if isinstance(output, tuple) else output
    if not isinstance(hidden, Tensor) or hidden.ndim != 3:
        shape = list(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
        raise RequestError(
            f"a decoder block returned {shape} in place of one residual stream [batch, tokens, "
            "d_model]: SAEs cannot be applied to this architecture"
        )
    return hidden
