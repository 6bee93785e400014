"""Losses of knowledge distillation: pure functions, each the mean over the batch's rows unless weighted.

Shapes: logits [batch, classes]; labels [batch].
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Row-wise T^2 * KL(softmax(teacher / T) || softmax(student / T)), in nats.

    T^2 keeps the gradient's size independent of T (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network",
    section 2.1), so that changing T does not re-weight the loss.

    Args:
        student: [batch, classes] logits.
        teacher: [batch, classes] logits; no gradient flows to them.
        temperature: T > 0.

    Returns:
        [batch] losses in fp32.
    """
    log_student = functional.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher.detach().float() / temperature, dim=-1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return divergence.sum(dim=-1) * temperature**2


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Row-wise negative log-likelihood of the gold labels, in nats; 0 where the label is -1.

    Args:
        logits: [batch, classes].
        labels: [batch] class index or -1.

    Returns:
        [batch] losses in fp32.
    """
    return functional.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="none")
