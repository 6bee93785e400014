"""Speed-ups of a training step over the defaults of torch and the C library; measured by benchmarks/training.py."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from potstill.training.packing import ATTENTION, register_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Parameters of glibc's mallopt(3): the size of free heap memory above which it is returned to the system, and the size
# of an allocation above which it is mapped separately.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep freed memory in this process, if the C library is glibc.

    A step allocates and frees activations and gradients of many megabytes. If they are returned to the system each
    time, the next step gets them with page faults, which take up to half of a step on a virtual machine.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


@contextmanager
def training_attention(model: PreTrainedModel, device: torch.device, *, packing: bool = False) -> Iterator[None]:
    """Select the attention implementation for training: packed attention, or plain matrix products on the CPU.

    On the CPU, the backward pass of torch's fused attention takes a third of a step on single sentences; two matrix
    products and a softmax take a tenth of that.
    """
    before = getattr(model.config, "_attn_implementation", None)
    if not packing and (device.type != "cpu" or before in (None, "eager")):
        yield
        return
    if packing:
        register_attention()
    with attention(model, ATTENTION if packing else "eager"):
        yield


@contextmanager
def attention(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Select the attention implementation for a block."""
    before = getattr(model.config, "_attn_implementation", None)
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
