"""Losses of knowledge distillation on logits: pure functions, one number a row, in fp32.

Shapes: logits [batch, classes]; labels [batch], or [batch, classes] where a row can have several. The caller takes the
mean, weighted or not, so that micro-batches add up to the whole batch's loss: sum over rows, divided once by the rows
of the whole optimizer step. No gradient flows to a teacher.

Losses on hidden states and sentence vectors are in `hidden`, on attention maps in `attention`, on MiniLM's relations
in `relations`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from potstill.distillation.losses.tensors import check_same_logits
from potstill.errors import SignalError

# Added to a squared norm under a root: bounds the gradient of a correlation where a student's outputs are constant.
TINY_VARIANCE = 1e-8


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
        labels: [batch] class index or -1.

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
    """Row-wise squared error of a regression's gold values; 0 where the value is NaN (a row without one).

    Args:
        outputs: [batch, 1] or [batch].
        labels: [batch] gold values, NaN where there is none.

    Returns:
        [batch] losses in fp32.

    Raises:
        SignalError: there is not one output a row.
    """
    if outputs.numel() != labels.numel() or labels.dim() != 1:
        raise SignalError(
            f"regression needs one output a row: outputs are {list(outputs.shape)} and gold values "
            f"{list(labels.shape)}; give the model one label"
        )
    known = ~labels.isnan()
    wanted = torch.where(known, labels, 0.0).float()
    return torch.where(known, outputs.float().reshape(labels.shape) - wanted, 0.0).square()


def soft_binary_cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Row-wise T^2 * BCE(sigmoid(student / T), sigmoid(teacher / T)), in nats, mean over the labels.

    For rows with several labels, each a yes or no of its own: Hinton's loss (see `kl_divergence`) on each label. The
    least value is T^2 times the entropy of the teacher's answers, not 0.

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
    """Row-wise negative log-likelihood of gold yes or no labels, in nats, mean over the row's known labels.

    Args:
        logits: [batch, labels].
        labels: [batch, labels], 1 or 0, and -1 where it is not known; a row without a known label costs 0.

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
    wanted = labels.float().clamp(min=0)
    losses = functional.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")
    return (losses * known).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)


def dist_inter_class(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Row-wise 1 - Pearson correlation of the student's and the teacher's softened probabilities over the classes.

    DIST's inter-class relation (Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher"): the
    student has to rank and space the classes as the teacher does, not to match its confidence. The authors' code
    multiplies by T^2, which is left out here: a correlation does not shrink as T grows, so T^2 would re-weight the
    loss. With two classes the correlation is +1 or -1 and teaches nearly nothing; use `dist_intra_class` there.

    Args:
        student: [batch, classes] logits.
        teacher: [batch, classes] logits; no gradient flows to them.
        temperature: T > 0.

    Returns:
        [batch] losses in fp32, from 0 to 2.

    Raises:
        SignalError: the shapes differ.
    """
    ours, theirs = _softened(student, teacher, temperature)
    return 1 - _correlation(ours, theirs)


def dist_intra_class(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Class-wise 1 - Pearson correlation of the student's and the teacher's softened probabilities over the rows.

    DIST's intra-class relation (Huang et al. 2022): within a class, the student has to rank and space the
    rows as the teacher does. Its loss is the mean over the classes. A relation between rows is a property of the
    batch: halves of a batch do not add up to it, and one row alone gives 1 without a gradient. On T^2 see
    `dist_inter_class`.

    Args:
        student: [batch, classes] logits.
        teacher: [batch, classes] logits; no gradient flows to them.
        temperature: T > 0.

    Returns:
        [classes] losses in fp32, from 0 to 2.

    Raises:
        SignalError: the shapes differ.
    """
    ours, theirs = _softened(student, teacher, temperature)
    return 1 - _correlation(ours.T, theirs.T)


def _softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """[batch, classes] probabilities of both at T, in fp32, the teacher's without a gradient."""
    check_same_logits(student, teacher)
    ours = functional.softmax(student.float() / temperature, dim=-1)
    return ours, functional.softmax(teacher.detach().float() / temperature, dim=-1)


def _correlation(left: Tensor, right: Tensor) -> Tensor:
    """Pearson's correlation along the last dimension; 0 where either side is constant."""
    left = left - left.mean(dim=-1, keepdim=True)
    right = right - right.mean(dim=-1, keepdim=True)
    norms = (left.square().sum(dim=-1) + TINY_VARIANCE) * (right.square().sum(dim=-1) + TINY_VARIANCE)
    return (left * right).sum(dim=-1) / norms.sqrt()
