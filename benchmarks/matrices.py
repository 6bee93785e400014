"""The FLOPs of a training step, and the rate at which this machine multiplies matrices of the model's own shapes.

Needs torch and numpy alone.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Integers = npt.NDArray[np.int64]
# Blocks of products whose median is the matrix rate, and the seconds of one.
_RATE_BLOCKS, _RATE_SECONDS = 5, 0.15

Shapes = list[tuple[int, int, int]]


def model_shapes(tokens: int, config: Any) -> Shapes:
    """(M, K, N) of the products of one encoder layer: four of hidden x hidden, up, and back."""
    hidden, wide = int(config.hidden_size), int(config.intermediate_size)
    return [(tokens, hidden, hidden)] * 4 + [(tokens, hidden, wide), (tokens, wide, hidden)]


def step_flops(config: Any, lengths: Integers) -> float:
    """FLOPs of a step's products over real tokens: 2 * M * N * K forward, twice that backward.

    Linear layers of the encoder, the two products of attention in each layer, pooler and output layer. Normalisations,
    activations, softmax, the embedding and the optimiser count as nothing.
    """
    tokens, rows, hidden = float(lengths.sum()), len(lengths), float(config.hidden_size)
    linear = sum(2.0 * m * k * n for m, k, n in model_shapes(1, config)) * tokens
    attention = 2 * 2.0 * hidden * float((lengths.astype(np.float64) ** 2).sum())
    head = 2.0 * rows * hidden * (hidden + int(config.num_labels))
    return 3 * (int(config.num_hidden_layers) * (linear + attention) + head)


def matrix_rate(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of torch.mm over the shapes, each with the share of the time that its share of the FLOPs takes."""
    flops = [2.0 * m * k * n for m, k, n in shapes]
    known = {shape: _product_rate(shape, dtype, device) for shape in set(shapes)}
    return sum(flops) / sum(work / known[shape] for work, shape in zip(flops, shapes, strict=True))


def _product_rate(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of one product: the median of several blocks of repetitions."""
    m, k, n = shape
    left, right = torch.randn(m, k).to(device, dtype), torch.randn(k, n).to(device, dtype)
    _repeat(left, right, 3)
    count = max(int(_RATE_SECONDS / (_repeat(left, right, 3) / 3)), 1)
    return 2.0 * m * k * n / statistics.median(_repeat(left, right, count) / count for _ in range(_RATE_BLOCKS))


def _repeat(left: torch.Tensor, right: torch.Tensor, count: int) -> float:
    """Seconds of `count` products."""
    if left.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        torch.mm(left, right)
    if left.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started
