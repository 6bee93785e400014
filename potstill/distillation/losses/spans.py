"""Losses of span question answering: where an answer begins and ends is a choice among the tokens of the row.

Shapes: logits [batch, sequence] over tokens (start, or end); the choice is among real tokens alone, so that neither the
length of a batch nor what stands on padding changes a loss. One number a row, in fp32; no gradient flows to a teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from potstill.distillation.losses.tensors import real_tokens
from potstill.errors import SignalError


def span_kl(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Row-wise T^2 * KL(softmax(teacher / T) || softmax(student / T)) over the row's real tokens, in nats.

    Hinton et al. 2015 (see `losses.kl_divergence`) on the choice of a token; TextBrewer's way with SQuAD (Yang et al.
    2020, section 4).

    Args:
        student: [batch, sequence] start or end logits.
        teacher: [batch, sequence]; no gradient flows to them.
        mask: [batch, sequence], 0 on padding.
        temperature: T > 0.

    Returns:
        [batch] losses in fp32.

    Raises:
        SignalError: the shapes differ.
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise SignalError(
            f"the student's start or end logits are {list(student.shape)} and the teacher's {list(teacher.shape)}; "
            "both have to be [batch, sequence] of the same token ids"
        )
    real = real_tokens(mask, student)
    ours, theirs = (_log_choice(logits / temperature, real) for logits in (student.float(), teacher.detach().float()))
    terms = functional.kl_div(ours, theirs, reduction="none", log_target=True)
    return terms.masked_fill(~real, 0.0).sum(dim=-1) * temperature**2


def span_cross_entropy(logits: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Row-wise negative log-likelihood of the gold token among the row's real tokens, in nats; 0 where it is -1.

    Args:
        logits: [batch, sequence] start or end logits.
        positions: [batch] index of a token, or -1 where the row has no gold answer.
        mask: [batch, sequence], 0 on padding.

    Returns:
        [batch] losses in fp32.

    Raises:
        SignalError: a position lies on padding.
    """
    real = real_tokens(mask, logits)
    known = positions >= 0
    place = positions.clamp(min=0).unsqueeze(-1)
    if not bool((place < logits.shape[1]).all()) or not bool(real.gather(1, place)[known].all()):
        raise SignalError("a gold answer lies beyond its row's tokens; run the tokenize stage again")
    found = _log_choice(logits.float(), real).gather(1, place).squeeze(-1)
    return torch.where(known, -found, 0.0)


def _log_choice(logits: Tensor, real: Tensor) -> Tensor:
    """[batch, sequence] log probabilities over real tokens; on padding a finite number without a meaning.

    Filled before the softmax, so that no NaN or gradient comes from padding; finite, or 0 * infinity would.
    """
    return functional.log_softmax(logits.masked_fill(~real, torch.finfo(torch.float32).min / 4), dim=-1)
