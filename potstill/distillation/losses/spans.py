"""Losses of extractive question answering: start and end of an answer are each a class among a row's tokens.

Shapes: logits are [batch, sequence], of start or of end. The softmax runs over real tokens only, so that neither the
length of a batch nor the logits of padding change a loss. Functions return one fp32 number a row; no gradient flows to
the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from potstill.distillation.losses.tensors import real_tokens
from potstill.errors import SignalError


def span_kl(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Row-wise T^2 * KL(softmax(teacher / T) || softmax(student / T)) over the row's real tokens, in nats.

    Hinton's loss (see `losses.logits.kl_divergence`) with tokens as classes, as TextBrewer does for SQuAD (Yang et al.
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
    log_student = _log_probabilities(student.float() / temperature, real)
    log_teacher = _log_probabilities(teacher.detach().float() / temperature, real)
    terms = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return terms.masked_fill(~real, 0.0).sum(dim=-1) * temperature**2


def span_cross_entropy(logits: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Row-wise negative log-likelihood of the gold token among the row's real tokens, in nats.

    Args:
        logits: [batch, sequence] start or end logits.
        positions: [batch] index of a token, or -1 for a row without a gold answer, whose loss is 0.
        mask: [batch, sequence], 0 on padding.

    Returns:
        [batch] losses in fp32.

    Raises:
        SignalError: a position lies on padding.
    """
    real = real_tokens(mask, logits)
    known = positions >= 0
    index = positions.clamp(min=0).unsqueeze(-1)
    if not bool((index < logits.shape[1]).all()) or not bool(real.gather(1, index)[known].all()):
        raise SignalError("a gold answer lies beyond its row's tokens; run the tokenize stage again")
    log_likelihood = _log_probabilities(logits.float(), real).gather(1, index).squeeze(-1)
    return torch.where(known, -log_likelihood, 0.0)


def _log_probabilities(logits: Tensor, real: Tensor) -> Tensor:
    """[batch, sequence] log probabilities over real tokens; meaningless but finite on padding.

    Padding is filled before the softmax, so that it contributes neither NaN nor a gradient. The filling is finite,
    because 0 * infinity is NaN.
    """
    return functional.log_softmax(logits.masked_fill(~real, torch.finfo(torch.float32).min / 4), dim=-1)
