"""Token embeddings as a product of two smaller tables (Lan et al. 2020, "ALBERT: A Lite BERT", section 3.1).

A table (tokens, width) of rank r is (tokens, r) times (r, width). A student learns the two factors, and is saved with
their product: a normal model, whose export has the factors again, a fraction of the table. Every token keeps a vector
of its own, where a smaller vocabulary drops the rare ones.
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

# Of each token, beside how often it was seen: one that was never seen still counts.
SMOOTHING = 5.0
# Of the largest direction: what fp32 leaves in those that are none.
ROUNDING = 1e-5


class FactorizedEmbedding(nn.Module):
    """Token ids [...] to vectors [..., width], by way of [..., rank].

    Args:
        factors: [tokens, rank].
        basis: [rank, width].
    """

    def __init__(self, factors: Tensor, basis: Tensor) -> None:
        super().__init__()
        self.factors, self.basis = nn.Parameter(factors), nn.Parameter(basis)

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors."""
        return nn.functional.embedding(ids, self.factors) @ self.basis


def factorize(model: PreTrainedModel, rank: int, counts: npt.NDArray[np.int64] | None = None) -> None:
    """Replace a model's token embeddings by the nearest of that rank, in place.

    Nearest in squares, each token weighted by how often it is seen; a table that has that rank stays what it is, to
    rounding.

    Args:
        model: has token embeddings that no head shares.
        rank: below the embeddings' width.
        counts: [tokens or fewer] how often each token is seen; None: all alike.

    Raises:
        ModelError: the rank is not below the width.
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
    # The directions with most of the table in them; in float64, as squares halve the digits.
    _, directions = np.linalg.eigh(exact.T @ (exact * weights[:, None]))
    basis = np.ascontiguousarray(directions[:, ::-1][:, :rank].T)
    factors, rows = (torch.from_numpy(part).to(table) for part in (exact @ basis.T, basis))
    model.set_input_embeddings(FactorizedEmbedding(factors, rows))


def has_rank(model: PreTrainedModel, rank: int) -> bool:
    """Whether a model's table of token embeddings is of that rank or a lower one, to rounding, and wider."""
    table = model.get_input_embeddings().weight.detach()
    if rank >= table.shape[1]:
        return False
    exact = table.double().cpu().numpy()
    squares = np.linalg.eigvalsh(exact.T @ exact)
    return bool(squares[: table.shape[1] - rank].max() <= ROUNDING**2 * squares[-1])


def merge(model: PreTrainedModel) -> None:
    """Put the product of factorized token embeddings in their place; other models stay as they are."""
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, FactorizedEmbedding):
        return
    product = embedding.factors.detach() @ embedding.basis.detach()
    whole = nn.Embedding(product.shape[0], product.shape[1], padding_idx=model.config.pad_token_id)
    whole.weight = nn.Parameter(product.contiguous())
    model.set_input_embeddings(whole)
