"""An exponential moving average of the weights, which often scores better than any single step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Moving average of a model's trainable weights (Polyak and Juditsky 1992; as EMA in Tarvainen and Valpola 2017).

    The decay rises from 0.1 to its full value over the first steps, so that the average forgets where it started.

    Attributes:
        weights: name -> average, as of the last `update`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self._updates = decay, 0
        self._live = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.weights = {name: weight.detach().clone() for name, weight in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of the step that just ended."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(list(self.weights.values()), [w.detach() for w in self._live.values()], 1 - decay)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """Have the model hold the average inside the block, and its own weights again behind it."""
        own = {name: weight.detach().clone() for name, weight in self._live.items()}
        self._fill(self.weights)
        try:
            yield
        finally:
            self._fill(own)

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint's average."""
        self._updates = updates
        for name, average in self.weights.items():
            average.copy_(weights[name])

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self._live.items():
            weight.copy_(values[name])
