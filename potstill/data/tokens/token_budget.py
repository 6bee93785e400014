"""When memory does not hold a batch: one retry with half the tokens, then one sentence that names the setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from potstill.data.tokens.batches import Ints, cut
from potstill.errors import TrainingError
from potstill.progress import say

Found = TypeVar("Found")
# What torch's CPU allocator says; it has no class of its own.
_ON_CPU = ("DefaultCPUAllocator", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of an accelerator or of the machine."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in _ON_CPU)
    )


class TokenBudget:
    """The padded tokens of a batch, halved once when an accelerator's memory does not hold one.

    Only the batches of a step get smaller: its rows, its loss and its gradients stay the same, but for terms that
    compare the rows of a batch with each other.

    Args:
        tokens: of a batch.
        setting: the key of params that says so.
        beside: what else to do where it is lowered.
    """

    def __init__(self, tokens: int, setting: str, beside: str = " (and raise its accumulate as much)") -> None:
        self._whole, self._setting, self._beside = tokens, setting, beside
        self.halved = False

    @property
    def tokens(self) -> int:
        """Of a batch, as it is now."""
        return max(self._whole // 2, 1) if self.halved else self._whole

    def fit(self, batches: Sequence[Ints], lengths: Ints) -> list[Ints]:
        """The batches, cut where they are above a halved budget."""
        if not self.halved:
            return list(batches)
        return [part for rows in batches for part in cut(rows, lengths, self.tokens)]

    def within(self, work: Callable[[], Found], undo: Callable[[], None]) -> Found:
        """Do some work, and once more with half the budget where an accelerator's memory runs out.

        Args:
            work: looks at the budget each time.
            undo: takes back what a first attempt may have left.

        Raises:
            TrainingError: it runs out again, or the machine's own memory does.
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
                    f"set {self._setting} to {max(self.tokens // 2, 16)} or less{self._beside}"
                ) from error
        # Behind the handler: the failed attempt's frames, which hold its tensors, are gone.
        undo()
        self.halved = True
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"out of memory: batches of {self.tokens:,} tokens from here on, half of {self._setting}")
        return self.within(work, undo)
