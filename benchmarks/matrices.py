"""The FLOPs of a training step, and the rate at which this machine multiplies matrices of the model's shapes.

Needs only torch and numpy.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Integers = npt.NDArray[np.int64]
# The matrix rate is the median of this many blocks of products, each of about this many seconds.
_RATE_BLOCKS = 5
_RATE_SECONDS = 0.15

Shapes = list[tuple[int, int, int]]


def model_shapes(tokens: int, config: Any) -> Shapes:
    """Return (M, K, N) of the products of one encoder layer: four of hidden x hidden, and two of the feed-forward."""
    hidden = int(config.hidden_size)
    intermediate = int(config.intermediate_size)
    return [(tokens, hidden, hidden)] * 4 + [(tokens, hidden, intermediate), (tokens, intermediate, hidden)]


def step_flops(config: Any, lengths: Integers) -> float:
    """Count the FLOPs of a step's products over real tokens: 2 * M * N * K forward, twice that backward.

    Counted are the linear layers of the encoder, the two products of attention in each layer, pooler and output layer;
    not counted are normalisations, activations, softmax, the embedding and the optimiser.
    """
    tokens = float(lengths.sum())
    rows = len(lengths)
    hidden = float(config.hidden_size)
    linear = sum(2.0 * m * k * n for m, k, n in model_shapes(1, config)) * tokens
    attention = 2 * 2.0 * hidden * float((lengths.astype(np.float64) ** 2).sum())
    head = 2.0 * rows * hidden * (hidden + int(config.num_labels))
    return 3 * (int(config.num_hidden_layers) * (linear + attention) + head)


def matrix_rate(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> float:
    """Measure FLOP/s of torch.mm over the shapes: all their FLOPs, divided by the time that they take together."""
    flops = [2.0 * m * k * n for m, k, n in shapes]
    rates = {shape: _product_rate(shape, dtype, device) for shape in set(shapes)}
    return sum(flops) / sum(work / rates[shape] for work, shape in zip(flops, shapes, strict=True))


def _product_rate(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    """Measure FLOP/s of one product: the median of several blocks of repetitions."""
    m, k, n = shape
    left = torch.randn(m, k).to(device, dtype)
    right = torch.randn(k, n).to(device, dtype)
    _repeat(left, right, 3)
    count = max(int(_RATE_SECONDS / (_repeat(left, right, 3) / 3)), 1)
    return 2.0 * m * k * n / statistics.median(_repeat(left, right, count) / count for _ in range(_RATE_BLOCKS))


def _repeat(left: torch.Tensor, right: torch.Tensor, count: int) -> float:
    """Return the seconds of `count` products."""
    if left.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        torch.mm(left, right)
    if left.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
