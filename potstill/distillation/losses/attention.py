"""Losses on attention maps: pure functions, for each row the SUM over its real queries, in fp32.

Shapes: maps [batch, heads, queries, keys]; mask [batch, sequence], 0 on padding, for queries and keys alike. Only real
queries and real keys count. For the loss of a batch and for gradient accumulation see `hidden`. No gradient flows to a
teacher. `relations` needs no equal head counts and is the better choice where they differ.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from potstill.distillation.losses.tensors import full_precision, real_tokens, without_padding
from potstill.errors import ModelError, SignalError

# The least probability whose logarithm is taken.
FLOOR = 1e-30


def attention_scores(queries: Tensor, keys: Tensor, mask: Tensor, heads: int) -> Tensor:
    """The scores of a layer's attention before the softmax, q k^T / sqrt(head size), in fp32; 0 outside of real tokens.

    From what the layer projects, so that neither the attention's implementation nor its dropout matters. They are the
    model's own where it has plain attention (`families.Family.plain_attention`).

    Args:
        queries: [batch, sequence, width], all heads side by side.
        keys: the same.
        mask: [batch, sequence].
        heads: the model's heads.

    Returns:
        [batch, heads, sequence, sequence].

    Raises:
        SignalError: the mask is of another batch.
    """
    real = real_tokens(mask, queries)
    size = queries.shape[-1] // heads
    ours, theirs = (
        without_padding(part, real).reshape(*part.shape[:2], heads, size).transpose(1, 2) for part in (queries, keys)
    )
    with full_precision(queries):
        scores: Tensor = ours @ theirs.transpose(-1, -2) / math.sqrt(size)
    return scores


def attention_probabilities(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax of attention scores over the real keys.

    Args:
        scores: [batch, heads, sequence, sequence].
        mask: [batch, sequence].

    Returns:
        The same shape, in fp32.
    """
    padding = (mask == 0)[:, None, None, :]
    # Finite, not -inf: a row without a real key has no NaN.
    return torch.softmax(scores.float().masked_fill(padding, torch.finfo(torch.float32).min / 4), dim=-1)


def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor, *, average_heads: bool = False) -> Tensor:
    """Row-wise sum over the real queries of the mean over heads and real keys of (student - teacher)^2.

    TinyBERT's attention loss (Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding"), which
    takes scores before the softmax; without its mean over padding. Works on probabilities too: the values are small.

    Args:
        student: [batch, heads, sequence, sequence] attention scores or probabilities.
        teacher: the same of the teacher; no gradient flows to it.
        mask: [batch, sequence].
        average_heads: compare the mean over the heads, for models with different head counts.

    Returns:
        [batch] sums in fp32.

    Raises:
        ModelError: head counts differ and `average_heads` is not set.
        SignalError: rows, tokens or mask differ.
    """
    ours, theirs, real = _maps(student, teacher, mask, average_heads)
    keys = real.sum(dim=-1).clamp(min=1)
    return (ours - theirs).square().sum(dim=(2, 3)).mean(dim=1) / keys


def attention_kl(student: Tensor, teacher: Tensor, mask: Tensor, *, average_heads: bool = False) -> Tensor:
    """Row-wise sum over the real queries of the mean over heads of KL(teacher || student) over the real keys, in nats.

    MiniLM's attention transfer (Wang et al. 2020, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic
    Compression of Pre-Trained Transformers"). Probabilities are made to add up to 1 over the real keys.
    Take the student's maps with attention dropout off: transformers returns them after dropout, and a dropped key
    reads as a probability of 0.

    Args:
        student: [batch, heads, sequence, sequence] attention probabilities.
        teacher: the same of the teacher; no gradient flows to it.
        mask: [batch, sequence].
        average_heads: compare the mean over the heads, for models with different head counts.

    Returns:
        [batch] sums in fp32.

    Raises:
        ModelError: head counts differ and `average_heads` is not set.
        SignalError: rows, tokens or mask differ.
    """
    ours, theirs, _ = _maps(student, teacher, mask, average_heads)
    ours, theirs = _normalized(ours), _normalized(theirs)
    divergence = theirs * (theirs.clamp(min=FLOOR).log() - ours.clamp(min=FLOOR).log())
    return divergence.sum(dim=(2, 3)).mean(dim=1)


def _normalized(probabilities: Tensor) -> Tensor:
    """Probabilities that add up to 1 over the keys; all 0 where they were."""
    return probabilities / probabilities.sum(dim=-1, keepdim=True).clamp(min=FLOOR)


def _maps(student: Tensor, teacher: Tensor, mask: Tensor, average_heads: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Both maps checked, in fp32, 0 outside of real queries and keys; and [batch, sequence] True on real tokens."""
    for owner, maps in (("student", student), ("teacher", teacher)):
        if maps.dim() != 4 or maps.shape[2] != maps.shape[3]:
            raise SignalError(
                f"the {owner}'s attention maps are {list(maps.shape)}; they have to be [batch, heads, sequence, "
                "sequence]: load the model with attn_implementation eager and output_attentions"
            )
    if student.shape[0] != teacher.shape[0] or student.shape[2:] != teacher.shape[2:]:
        raise SignalError(
            f"the student's attention maps are {list(student.shape)} and the teacher's {list(teacher.shape)}; "
            "give both models the same rows and token ids"
        )
    if not average_heads and student.shape[1] != teacher.shape[1]:
        raise ModelError(
            f"the student has {student.shape[1]} attention heads and the teacher {teacher.shape[1]}; "
            "set average_heads, or use self-attention relations, which need no equal counts"
        )
    real = real_tokens(mask, student.transpose(1, 2))
    counted = real[:, None, :, None] & real[:, None, None, :]
    ours = torch.where(counted, student.float(), 0.0)
    theirs = torch.where(counted, teacher.detach().float(), 0.0)
    if average_heads:
        ours, theirs = ours.mean(dim=1, keepdim=True), theirs.mean(dim=1, keepdim=True)
    return ours, theirs, real
