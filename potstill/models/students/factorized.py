"""Token embeddings as a product of two smaller tables (Lan et al. 2020, "ALBERT: A Lite BERT", section 3.1).

A table (tokens, width) of rank r is the product of (tokens, r) and (r, width). A student learns the two factors and is
saved with their product, as an ordinary model; its ONNX export has the factors again, which are a fraction of the
table's size. Every token keeps its own vector, whereas a smaller vocabulary drops rare tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from potstill.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Added to the count of each token, so that tokens that were never seen still have a weight.
SMOOTHING = 5.0
# Singular values below this share of the largest are fp32 rounding errors.
ROUNDING = 1e-5


class FactorizedEmbedding(nn.Module):
    """An embedding table [tokens, width] as the product of two factors.

    Args:
        factors: [tokens, rank].
        basis: [rank, width].
    """

    def __init__(self, factors: Tensor, basis: Tensor) -> None:
        super().__init__()
        self.factors = nn.Parameter(factors)
        self.basis = nn.Parameter(basis)

    def forward(self, ids: Tensor) -> Tensor:
        """Look up token ids [...]: vectors [..., width]."""
        return nn.functional.embedding(ids, self.factors) @ self.basis


def factorize(model: PreTrainedModel, rank: int, counts: npt.NDArray[np.int64] | None = None) -> None:
    """Replace a model's token embeddings by their best approximation of a rank, in place.

    Best in weighted least squares, each token weighted by how often it occurs. A table that already has that rank
    stays the same up to rounding.

    Args:
        model: a model whose token embeddings are not tied to its head.
        rank: less than the width of the embeddings.
        counts: [tokens or fewer] how often each token occurs; None weighs all tokens alike.

    Raises:
        ModelError: the rank is not less than the width.
    """
    table = model.get_input_embeddings().weight.detach()
    tokens, width = table.shape
    if rank >= width:
        raise ModelError(
            f"tokenize.vocabulary.rank is {rank}, but the student's token embeddings are {width} wide; set it lower, "
            "or to null"
        )
    weights = np.full(tokens, SMOOTHING)
    if counts is not None:
        weights[: len(counts)] += counts[:tokens]
    exact = table.double().cpu().numpy()
    # The principal directions of the table, in float64 because squaring halves the number of exact digits.
    _, directions = np.linalg.eigh(exact.T @ (exact * weights[:, None]))
    basis = np.ascontiguousarray(directions[:, ::-1][:, :rank].T)
    factors = torch.from_numpy(exact @ basis.T).to(table)
    model.set_input_embeddings(FactorizedEmbedding(factors, torch.from_numpy(basis).to(table)))


def has_rank(model: PreTrainedModel, rank: int) -> bool:
    """Whether a model's token embeddings have at most a rank, up to rounding, and are wider than it."""
    table = model.get_input_embeddings().weight.detach()
    if rank >= table.shape[1]:
        return False
    exact = table.double().cpu().numpy()
    squares = np.linalg.eigvalsh(exact.T @ exact)
    return bool(squares[: table.shape[1] - rank].max() <= ROUNDING**2 * squares[-1])


def merge(model: PreTrainedModel) -> None:
    """Replace factorized token embeddings by one table, their product; leave other models unchanged."""
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, FactorizedEmbedding):
        return
    product = embedding.factors.detach() @ embedding.basis.detach()
    merged = nn.Embedding(product.shape[0], product.shape[1], padding_idx=model.config.pad_token_id)
    merged.weight = nn.Parameter(product.contiguous())
    model.set_input_embeddings(merged)
