"""Data parallelism over the processes that `torchrun` starts: sharding of rows and summing of gradients.

The loss of a step is a sum over its rows, divided once by the size of the whole step (`objective.Window`). Gradients
are therefore added, not averaged, and the result is that of a single process up to rounding. torch's
DistributedDataParallel does not fit: it averages, and expects the same calls of every process at every step. Here a
process may have no rows of a step, and a term of the loss may be present in some steps only.
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

from potstill.errors import LostProcessError, ToolError

Ints = npt.NDArray[np.int64]
Value = TypeVar("Value")
# Weights whose gradients are reduced in one call: about 100 MB.
_BUCKET_WEIGHTS = 25_000_000


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: number of this process; process 0 evaluates and writes.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process evaluates and writes."""
        return self.rank == 0

    @property
    def is_single(self) -> bool:
        """Whether this is the only process."""
        return self.size == 1

    def shard(self, batches: Sequence[Ints]) -> list[Ints]:
        """Select this process's share of a step: whole batches in turn, then every `size`-th row of the rest.

        Each batch is sorted by length, so the shares of one batch have the same padded size.
        """
        whole = len(batches) - len(batches) % self.size
        parts = [rows[self.rank :: self.size] for rows in batches[whole:]]
        return [*batches[self.rank : whole : self.size], *(rows for rows in parts if len(rows))]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give every process the sum of all gradients; a weight without a gradient in any process keeps none."""
        if self.is_single:
            return
        weights = list(parameters)
        has_gradient = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.uint8)
        _meet(collective.all_reduce, has_gradient, op=collective.ReduceOp.MAX)
        reduced = [weight for weight, anywhere in zip(weights, has_gradient.tolist(), strict=True) if anywhere]
        for bucket in _buckets(reduced):
            gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in bucket]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            _meet(collective.all_reduce, flat)
            for weight, part in zip(bucket, torch.split(flat, [weight.numel() for weight in bucket]), strict=True):
                weight.grad = part.view_as(weight)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors with those of the first process."""
        if not self.is_single:
            for tensor in tensors:
                _meet(collective.broadcast, tensor.detach(), src=0)

    def run_on_first(self, function: Callable[[], Value]) -> Value:
        """Run a function in the first process only and return its result in all of them."""
        if self.is_single:
            return function()
        results: list[Any] = [function() if self.is_first else None]
        _meet(collective.broadcast_object_list, results, src=0)
        result: Value = results[0]
        return result

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes in order of rank."""
        if self.is_single:
            return [value]
        values: list[Any] = [None] * self.size
        _meet(collective.all_gather_object, values, value)
        return values


def current_world() -> World:
    """Return the processes that `torchrun` started, joined on the first call; without it a world of one process.

    Raises:
        LostProcessError: another process has ended. The methods of a world raise it too.
    """
    if not collective.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return World()
        # Objects and flags are exchanged on the CPU, gradients on their own device.
        _meet(collective.init_process_group, "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        atexit.register(_leave)
    return World(collective.get_rank(), collective.get_world_size())


def local_device() -> torch.device:
    """Return the GPU of this process: the one with the process's local rank.

    Raises:
        ToolError: there are fewer GPUs than processes.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise ToolError(
            f"{os.environ.get('LOCAL_WORLD_SIZE', local_rank + 1)} processes share this machine, and torch finds "
            f"{gpus} GPUs; set compute.processes to that number, or project.device to cpu"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _meet(operation: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Do something that all processes do together.

    Raises:
        LostProcessError: another process has ended; gloo and NCCL only say that a connection is closed.
    """
    try:
        operation(*arguments, **options)
    except RuntimeError as error:
        message = f"a process that shares the work was lost ({' '.join(str(error).split())[:200]})"
        raise LostProcessError(message) from error


def _leave() -> None:
    with suppress(RuntimeError):
        collective.destroy_process_group()


def _buckets(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for weight in weights:
        if bucket and size + weight.numel() > _BUCKET_WEIGHTS:
            yield bucket
            bucket = []
            size = 0
        bucket.append(weight)
        size += weight.numel()
    if bucket:
        yield bucket
