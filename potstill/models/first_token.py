"""The last layer computed for the first token alone, where a model's head reads no other.

A classifier reads one token of the last layer. That token needs the keys and values of all others, but no other query,
projection or feed-forward network, which are five sixths of a layer's work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from potstill.pretrained.families import FAMILIES, layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# End of the names of classes whose heads can read the first token alone.
_HEAD = "ForSequenceClassification"
# transformers' implementations of attention that get the mask of every query, whose first is that of the first token.
_ATTENTION = ("eager", "sdpa")


@contextmanager
def first_token_only(model: PreTrainedModel) -> Iterator[None]:
    """Let the last layer compute the first token alone inside the block, if the model's head reads no other.

    Logits and gradients are the same up to rounding. The last hidden state is [batch, 1, width]. A model runs as it is
    where its head reads other tokens, its layers have another form than BERT's or DistilBERT's, or its batches are
    packed.

    Args:
        model: any model.
    """
    forward = _forward_of(model)
    if forward is None or "forward" in vars(layer := layers_of(model)[-1]):  # the latter in a block inside a block
        yield
        return
    vars(layer)["forward"] = partial(forward, layer)
    try:
        yield
    finally:
        del vars(layer)["forward"]


def _forward_of(model: PreTrainedModel) -> Callable[..., Tensor] | None:
    """Return the function that replaces `forward` of the last layer; None if the model has to run as it is."""
    if (
        not type(model).__name__.endswith(_HEAD)
        or getattr(model.config, "_attn_implementation", None) not in _ATTENTION
    ):
        return None
    family = FAMILIES.get(model.config.model_type)
    return _FORWARDS.get(family.query) if family is not None else None


def _bert_layer(layer: Any, states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """Compute [batch, 1, width] from the layer's input [batch, sequence, width], as BertLayer does."""
    inner = layer.attention.self
    first = states[:, :1]
    context = _attend(inner, inner.query(first), inner.key(states), inner.value(states), attention_mask)
    attended = layer.attention.output(context, first)
    output: Tensor = layer.output(layer.intermediate(attended), attended)
    return output


def _distilbert_layer(layer: Any, states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """Compute [batch, 1, width] from the layer's input [batch, sequence, width], as DistilBERT's layer does."""
    inner = layer.attention
    first = states[:, :1]
    context = _attend(inner, inner.q_lin(first), inner.k_lin(states), inner.v_lin(states), attention_mask)
    attended = layer.sa_layer_norm(inner.out_lin(context) + first)
    output: Tensor = layer.output_layer_norm(layer.ffn(attended) + attended)
    return output


# Path of a family's query -> forward pass of its layers; the path tells the forms of layers apart.
_FORWARDS: dict[str | None, Callable[..., Tensor]] = {
    "attention.self.query": _bert_layer,
    "attention.q_lin": _distilbert_layer,
}


def _attend(attention: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attend with one query: [batch, 1, width] from a query of that shape, and keys and values of all tokens."""
    size: Any = attention.attention_head_size
    scaling: Any = attention.scaling
    dropout: Any = attention.dropout

    def by_head(tensor: Tensor) -> Tensor:
        return tensor.view(*tensor.shape[:-1], -1, size).transpose(1, 2)

    context = scaled_dot_product_attention(
        by_head(query),
        by_head(key),
        by_head(value),
        attn_mask=None if mask is None else mask[:, :, :1],
        dropout_p=dropout.p if attention.training else 0.0,
        scale=scaling,
    )
    return context.transpose(1, 2).flatten(-2)
