"""The dropout of a model while it trains."""

from __future__ import annotations

from torch import nn

# Attributes that hold a layer's dropout as a number, such as ModernBERT's `attention_dropout`, have this in their name.
_FLOATS = "dropout"
# Where a class leaves the module out because its config says 0, such as ModernBERT's `out_drop`.
_LEFT_OUT = "drop"


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set every dropout of a model, in whatever form a class of transformers keeps it.

    A module `nn.Dropout`, a number that the attention function is given, or an `nn.Identity` in the place of a module
    that the config had left out. The config stays as it is.

    Args:
        model: changed in place.
        probability: from 0 to 1.
    """
    for module in list(model.modules()):
        if isinstance(module, nn.Dropout):
            module.p = probability
        for name, value in vars(module).items():
            if _FLOATS in name and isinstance(value, float):
                setattr(module, name, probability)
        for name, child in module.named_children():
            if _LEFT_OUT in name and isinstance(child, nn.Identity):
                setattr(module, name, nn.Dropout(probability))
