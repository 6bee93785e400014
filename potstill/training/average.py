"""An exponential moving average of the weights, which often scores better than the weights of any single step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's trainable weights (Polyak and Juditsky 1992; Tarvainen and Valpola 2017).

    The decay rises to its full value over the first steps, so that the average forgets the initial weights.

    Args:
        model: the model that is trained.
        decay: full value of the decay, below 1.

    Attributes:
        weights: name -> average after the last `update`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._updates = 0
        self._live = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.weights = {name: weight.detach().clone() for name, weight in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights to the average."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        current = [weight.detach() for weight in self._live.values()]
        torch._foreach_lerp_(list(self.weights.values()), current, 1 - decay)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Replace the model's weights with the average inside the block, and restore them afterwards."""
        saved = {name: weight.detach().clone() for name, weight in self._live.items()}
        self._set(self.weights)
        try:
            yield
        finally:
            self._set(saved)

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Continue from the average of a checkpoint, after that many updates."""
        self._updates = updates
        for name, average in self.weights.items():
            average.copy_(weights[name])

    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self._live.items():
            weight.copy_(values[name])
