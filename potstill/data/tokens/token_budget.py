"""Handles batches that exceed the memory: one retry with half the tokens, then an error that names the setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from potstill.data.tokens.batches import Ints, cut_batches
from potstill.errors import TrainingError
from potstill.progress import say

Result = TypeVar("Result")
# Messages of torch's CPU allocator, whose error has no class of its own.
_CPU_MESSAGES = ("DefaultCPUAllocator", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of an accelerator or of the machine ran out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in _CPU_MESSAGES)
    )


class TokenBudget:
    """The padded tokens of a batch. The budget is halved once if a batch exceeds an accelerator's memory.

    A halved budget makes the batches of a step smaller. The rows, loss and gradients of the step stay the same, except
    for terms that compare the rows of a batch with each other.

    Args:
        tokens: of a batch.
        setting: the key of params that sets it.
        advice: what else to do when the key is lowered.
    """

    def __init__(self, tokens: int, setting: str, advice: str = " (and raise its accumulate as much)") -> None:
        self._whole = tokens
        self._setting = setting
        self._advice = advice
        self.halved = False

    @property
    def tokens(self) -> int:
        """The current budget of a batch."""
        return max(self._whole // 2, 1) if self.halved else self._whole

    def fit(self, batches: Sequence[Ints], lengths: Ints) -> list[Ints]:
        """Divide the batches that exceed a halved budget."""
        if not self.halved:
            return list(batches)
        return [part for rows in batches for part in cut_batches(rows, lengths, self.tokens)]

    def run(self, work: Callable[[], Result], undo: Callable[[], None]) -> Result:
        """Run some work, and once more with half the budget if an accelerator's memory runs out.

        Args:
            work: reads the budget each time.
            undo: reverts the first attempt.

        Raises:
            TrainingError: the memory runs out again, or it is the machine's memory.
        """
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self.halved or not isinstance(error, torch.OutOfMemoryError):
                raise TrainingError(
                    f"out of memory with batches of {self.tokens:,} tokens"
                    f"{', half of what params say' if self.halved else ''}; "
                    f"set {self._setting} to {max(self.tokens // 2, 16)} or less{self._advice}"
                ) from error
        # Outside of the handler: the failed attempt's frames, which hold its tensors, are freed by now.
        undo()
        self.halved = True
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"out of memory: batches of {self.tokens:,} tokens from here on, half of {self._setting}")
        return self.run(work, undo)
