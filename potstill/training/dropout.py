"""Dropout of a model during training."""

from __future__ import annotations

from torch import nn

# Part of the name of attributes with a dropout probability, such as ModernBERT's `attention_dropout`.
_NUMBERS = "dropout"
# Part of the name of modules that are an Identity if the config sets dropout to 0, such as ModernBERT's `out_drop`.
_OMITTED = "drop"


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set the probability of all dropout in a model, in place; its config stays the same.

    Classes of transformers implement dropout as a module `nn.Dropout`, as a number that is passed to the attention
    function, or, if the config sets it to 0, as an `nn.Identity`.

    Args:
        model: the model.
        probability: dropout probability from 0 to 1.
    """
    for module in list(model.modules()):
        if isinstance(module, nn.Dropout):
            module.p = probability
        for name, value in vars(module).items():
            if _NUMBERS in name and type(value) in (int, float):  # a bool is a switch
                setattr(module, name, probability)
        for name, child in module.named_children():
            if _OMITTED in name and isinstance(child, nn.Identity):
                setattr(module, name, nn.Dropout(probability))
