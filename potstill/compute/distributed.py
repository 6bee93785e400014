"""Several processes on one run, as `torchrun` starts them: who takes which rows, and how gradients meet.

A step's loss is a sum over its rows divided once by the size of the whole step (`OptimizerStep`), so the processes'
gradients are added, not averaged, and the result is that of one process, to rounding. torch's DistributedDataParallel
averages, and wants the same calls of every process at every step; here a process may have no rows of a step and a term
may come and go.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as collective
from torch import Tensor

from potstill.errors import ToolError

Ints = npt.NDArray[np.int64]
Found = TypeVar("Found")
# Weights whose gradients travel together: about 100 MB.
_BUCKET = 25_000_000


@dataclass(frozen=True)
class World:
    """The processes of a run and this one's place among them.

    Attributes:
        rank: 0 is the one that evaluates and writes.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that evaluates and writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.size == 1

    def deal(self, batches: Sequence[Ints]) -> list[Ints]:
        """This process's part of a step: whole batches as far as they go round, then every `size`-th row of the rest.

        A batch is sorted by length, so the parts of one are of the same padded size.
        """
        whole = len(batches) - len(batches) % self.size
        parts = [rows[self.rank :: self.size] for rows in batches[whole:]]
        return [*batches[self.rank : whole : self.size], *(rows for rows in parts if len(rows))]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give every process the sum of all gradients; a weight that none has a gradient for keeps none."""
        if self.alone:
            return
        listed = list(parameters)
        present = torch.tensor([weight.grad is not None for weight in listed], dtype=torch.uint8)
        collective.all_reduce(present, op=collective.ReduceOp.MAX)
        held = [weight for weight, anywhere in zip(listed, present.tolist(), strict=True) if anywhere]
        for bucket in _buckets(held):
            own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in bucket]
            flat = torch.cat([gradient.reshape(-1) for gradient in own])
            collective.all_reduce(flat)
            for weight, part in zip(bucket, torch.split(flat, [weight.numel() for weight in bucket]), strict=True):
                weight.grad = part.view_as(weight)

    def equalize(self, tensors: Iterable[Tensor]) -> None:
        """Fill the tensors with the first process's."""
        if not self.alone:
            for tensor in tensors:
                collective.broadcast(tensor.detach(), src=0)

    def from_first(self, function: Callable[[], Found]) -> Found:
        """What the function gives in the first process, where alone it runs."""
        if self.alone:
            return function()
        found: list[Any] = [function() if self.first else None]
        collective.broadcast_object_list(found, src=0)
        given: Found = found[0]
        return given

    def gather(self, value: Found) -> list[Found]:
        """Every process's value, in order of rank."""
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.size
        collective.all_gather_object(found, value)
        return found


def here() -> World:
    """The processes that `torchrun` started, joined on the first call; a world of one without it."""
    if not collective.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return World()
        # Objects and flags travel on the CPU, gradients where they are.
        collective.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
    return World(collective.get_rank(), collective.get_world_size())


def local_device() -> torch.device:
    """This process's own GPU: the one of its number on this machine.

    Raises:
        ToolError: there are fewer GPUs than processes.
    """
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ToolError(
            f"{os.environ.get('LOCAL_WORLD_SIZE', number + 1)} processes share this machine, and torch finds {there} "
            "GPUs; set project.processes to that number, or project.device to cpu"
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _leave() -> None:
    with suppress(RuntimeError):
        collective.destroy_process_group()


def _buckets(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for weight in weights:
        if bucket and size + weight.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(weight)
        size += weight.numel()
    if bucket:
        yield bucket
