"""Losses on logits: pure functions that return one fp32 number a row.

Shapes: logits are [batch, classes]; labels are [batch], or [batch, classes] if a row can have several. The caller sums
over the rows and divides once, by the rows of the whole optimizer step, so that micro-batches add up to the loss of one
large batch. No gradient flows to the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from potstill.distillation.losses.tensors import check_same_logits
from potstill.errors import SignalError

# Added to squared norms, to bound the gradient of a correlation when a student's outputs are constant.
TINY_VARIANCE = 1e-8


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Row-wise T^2 * KL(softmax(teacher / T) || softmax(student / T)), in nats.

    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2.1. The factor T^2 keeps the size of
    the gradient independent of T, so that changing T does not re-weight the loss.

    Args:
        student: [batch, classes] logits.
        teacher: [batch, classes] logits; no gradient flows to them.
        temperature: T > 0.

    Returns:
        [batch] losses in fp32.

    Raises:
        SignalError: the shapes differ.
    """
    check_same_logits(student, teacher)
    log_student = functional.log_softmax(student.float() / temperature, dim=-1)
    log_teacher = functional.log_softmax(teacher.detach().float() / temperature, dim=-1)
    divergence = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return divergence.sum(dim=-1) * temperature**2


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Row-wise negative log-likelihood of the gold labels, in nats; 0 where the label is -1.

    Args:
        logits: [batch, classes].
        labels: [batch] index of the class, or -1 for a row without a gold label.

    Returns:
        [batch] losses in fp32.
    """
    return functional.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="none")


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Row-wise mean over the outputs of (student - teacher)^2, in squared units of a logit.

    For regression, and for matching the logits of classes (Ba & Caruana 2014, "Do Deep Nets Really Need to be Deep?").
    For logits centred on 0, half of it is the limit of `kl_divergence` at high T.

    Args:
        student: [batch, outputs].
        teacher: [batch, outputs]; no gradient flows to them.

    Returns:
        [batch] losses in fp32.

    Raises:
        SignalError: the shapes differ.
    """
    check_same_logits(student, teacher)
    return (student.float() - teacher.detach().float()).square().mean(dim=-1)


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Row-wise squared error of a regression's gold values; 0 for a row whose gold value is NaN.

    Args:
        outputs: [batch, 1] or [batch].
        labels: [batch] gold values, or NaN for a row without one.

    Returns:
        [batch] losses in fp32.

    Raises:
        SignalError: the model does not have one output a row.
    """
    if outputs.numel() != labels.numel() or labels.dim() != 1:
        raise SignalError(
            f"regression needs one output a row: outputs are {list(outputs.shape)} and gold values "
            f"{list(labels.shape)}; give the model one label"
        )
    known = ~labels.isnan()
    gold = torch.where(known, labels, 0.0).float()
    return torch.where(known, outputs.float().reshape(labels.shape) - gold, 0.0).square()


def soft_binary_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Row-wise T^2 * BCE(sigmoid(student / T), sigmoid(teacher / T)), in nats, mean over the labels.

    Hinton's loss (see `kl_divergence`) on each label of a multi-label task. The minimum is T^2 times the entropy of the
    teacher's probabilities, not 0.

    Args:
        student: [batch, labels] logits.
        teacher: [batch, labels] logits; no gradient flows to them.
        temperature: T > 0.

    Returns:
        [batch] losses in fp32.

    Raises:
        SignalError: the shapes differ.
    """
    check_same_logits(student, teacher)
    soft = (teacher.detach().float() / temperature).sigmoid()
    losses = functional.binary_cross_entropy_with_logits(student.float() / temperature, soft, reduction="none")
    return losses.mean(dim=-1) * temperature**2


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Row-wise negative log-likelihood of the gold labels of a multi-label task, in nats, mean over the known labels.

    Args:
        logits: [batch, labels].
        labels: [batch, labels], 1, 0, or -1 if not known; a row without known labels has loss 0.

    Returns:
        [batch] losses in fp32.

    Raises:
        SignalError: the shapes differ.
    """
    if logits.shape != labels.shape or logits.dim() != 2:
        raise SignalError(
            f"the logits are {list(logits.shape)} and the gold labels {list(labels.shape)}; "
            "both have to be [batch, labels] of the same rows and labels"
        )
    known = (labels >= 0).float()
    gold = labels.float().clamp(min=0)
    losses = functional.binary_cross_entropy_with_logits(logits.float(), gold, reduction="none")
    return (losses * known).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)


def dist_inter_class(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Row-wise 1 - Pearson correlation of the student's and the teacher's softened probabilities over the classes.

    DIST's inter-class relation (Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher"): the student has
    to rank and space the classes as the teacher does, but need not match its confidence. The authors' code multiplies
    by T^2. This is left out here, because a correlation does not shrink as T grows, so T^2 would re-weight the loss.
    With two classes the correlation is +1 or -1 and teaches almost nothing; use `dist_intra_class` there.

    Args:
        student: [batch, classes] logits.
        teacher: [batch, classes] logits; no gradient flows to them.
        temperature: T > 0.

    Returns:
        [batch] losses in fp32, from 0 to 2.

    Raises:
        SignalError: the shapes differ.
    """
    student_probabilities, teacher_probabilities = _softened(student, teacher, temperature)
    return 1 - _correlation(student_probabilities, teacher_probabilities)


def dist_intra_class(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Class-wise 1 - Pearson correlation of the student's and the teacher's softened probabilities over the rows.

    DIST's intra-class relation (Huang et al. 2022): within a class, the student has to rank and space the rows as the
    teacher does. The loss of a batch is the mean over the classes. It depends on which rows are in a batch: the losses
    of two halves do not add up to it, and a single row gives 1 without a gradient. On T^2 see `dist_inter_class`.

    Args:
        student: [batch, classes] logits.
        teacher: [batch, classes] logits; no gradient flows to them.
        temperature: T > 0.

    Returns:
        [classes] losses in fp32, from 0 to 2.

    Raises:
        SignalError: the shapes differ.
    """
    student_probabilities, teacher_probabilities = _softened(student, teacher, temperature)
    return 1 - _correlation(student_probabilities.T, teacher_probabilities.T)


def _softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """[batch, classes] probabilities of student and teacher at T, in fp32, the teacher's without a gradient."""
    check_same_logits(student, teacher)
    student_probabilities = functional.softmax(student.float() / temperature, dim=-1)
    return student_probabilities, functional.softmax(teacher.detach().float() / temperature, dim=-1)


def _correlation(left: Tensor, right: Tensor) -> Tensor:
    """Pearson correlation along the last dimension; 0 if either side is constant."""
    left = left - left.mean(dim=-1, keepdim=True)
    right = right - right.mean(dim=-1, keepdim=True)
    norms = (left.square().sum(dim=-1) + TINY_VARIANCE) * (right.square().sum(dim=-1) + TINY_VARIANCE)
    return (left * right).sum(dim=-1) / norms.sqrt()
