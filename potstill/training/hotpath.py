"""What makes a training step fast where the defaults do not: measured in benchmarks/training.py."""

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

# glibc's mallopt(3): sizes up to which memory is taken from the heap, and above which free heap goes back.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, where the C library is glibc.

    A step allocates and frees activations and gradients of many megabytes; given back to the system each time, they
    come back as page faults, which cost up to half of a step on a virtual machine.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _NEVER)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


@contextmanager
def training_attention(model: PreTrainedModel, device: torch.device, *, packing: bool = False) -> Iterator[None]:
    """Plain matrix products for attention while a model trains on the CPU; with packing, attention within rows.

    The backward pass of torch's fused CPU attention takes a third of a step at a sentence's length; two products and a
    softmax take a tenth of that.
    """
    before = getattr(model.config, "_attn_implementation", None)
    if not packing and (device.type != "cpu" or before in (None, "eager")):
        yield
        return
    if packing:
        register_attention()
    model.set_attn_implementation(ATTENTION if packing else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
