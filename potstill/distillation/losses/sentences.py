"""Losses on sentence vectors [batch, width]: pure functions that return one fp32 number a row.

The relational losses compare rows of a batch with each other. They therefore depend on which rows are in a batch, and
gradient accumulation changes their value. They are means over the other rows, so that their size does not depend on
the size of the batch. No gradient flows to the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from potstill.distillation.losses.tensors import (
    check_same_rows,
    check_same_width,
    full_precision,
    real_tokens,
    without_padding,
)
from potstill.errors import ModelError, SignalError


def mean_vectors(states: Tensor, mask: Tensor) -> Tensor:
    """Average the states of each row's real tokens.

    Args:
        states: [batch, sequence, width].
        mask: [batch, sequence], 0 on padding.

    Returns:
        [batch, width] in fp32; zeros for a row without a real token.

    Raises:
        SignalError: the mask has another shape than the batch.
    """
    real = real_tokens(mask, states)
    return without_padding(states, real).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)


def patient(student: Tensor, teacher: Tensor) -> Tensor:
    """Row-wise sum over the layers of |s / |s| - t / |t||^2, where s and t are states of the first token.

    PKD (Sun et al. 2019, "Patient Knowledge Distillation for BERT Model Compression"). Its layer map leaves out the
    last layers, which the loss on logits covers.

    Args:
        student: [batch, layers, width] states of the first token in the chosen layers.
        teacher: [batch, layers, width] the teacher's states in the matching layers; no gradient flows to them.

    Returns:
        [batch] losses in fp32, where a layer adds 0 to 4.

    Raises:
        ModelError: the numbers of layers or the widths differ.
        SignalError: the numbers of rows differ.
    """
    if student.dim() == 3 and teacher.dim() == 3 and student.shape[1] != teacher.shape[1]:
        raise ModelError(
            f"{student.shape[1]} layers of the student meet {teacher.shape[1]} of the teacher; "
            "the layer map needs one teacher layer for each student layer"
        )
    check_same_rows(student, teacher, "first tokens' states", 3)
    check_same_width(student, teacher, "first tokens' states")
    student_states = functional.normalize(student.float(), dim=-1)
    teacher_states = functional.normalize(teacher.detach().float(), dim=-1)
    return (student_states - teacher_states).square().sum(dim=(1, 2))


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Row-wise mean over the other rows of Huber(distance in the student - distance in the teacher).

    RKD-D (Park et al. 2019, "Relational Knowledge Distillation"). Distances are in units of the batch's mean distance,
    so that neither scale nor width matters. Takes the memory of batch^2 * width fp32 numbers.

    Args:
        student: [batch, student width] sentence vectors.
        teacher: [batch, teacher width]; no gradient flows to them.

    Returns:
        [batch] losses in fp32; 0 for a batch of one row.

    Raises:
        SignalError: the numbers of rows differ.
    """
    check_same_rows(student, teacher, "sentence vectors", 2)
    student_distances = _distances(student.float())
    teacher_distances = _distances(teacher.detach().float())
    # The diagonal is 0 on both sides and adds nothing.
    return functional.smooth_l1_loss(student_distances, teacher_distances, reduction="none").sum(dim=-1) / max(
        len(student) - 1, 1
    )


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Row-wise mean over pairs of other rows of Huber(student's - teacher's cosine of their angle at the row).

    RKD-A (Park et al. 2019). Takes the memory of batch^2 * (batch + width) fp32 numbers, which limits it to batches of
    a few hundred rows.

    Args:
        student: [batch, student width] sentence vectors.
        teacher: [batch, teacher width]; no gradient flows to them.

    Returns:
        [batch] losses in fp32; 0 for fewer than three rows.

    Raises:
        SignalError: the numbers of rows differ.
    """
    check_same_rows(student, teacher, "sentence vectors", 2)
    student_angles = _angles(student.float())
    teacher_angles = _angles(teacher.detach().float())
    # Pairs with the row itself have cosine 0 on both sides; pairs of a row with itself are masked out.
    rows = len(student)
    pairs = max((rows - 1) * (rows - 2), 1)
    losses = functional.smooth_l1_loss(student_angles, teacher_angles, reduction="none")
    return losses.masked_fill(torch.eye(rows, dtype=torch.bool, device=losses.device), 0.0).sum(dim=(1, 2)) / pairs


def contrastive(student: Tensor, teacher: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """Row-wise -log softmax of cos(student's row, teacher's row) / T among all of the batch's teacher rows, in nats.

    InfoNCE (van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding") between student
    and teacher as in CRD (Tian et al. 2020, "Contrastive Representation Distillation"), with the batch's other rows as
    negatives instead of a memory bank. T scales similarities here, so there is no factor T^2.

    Args:
        student: [batch, width] sentence vectors, projected if the models' widths differ.
        teacher: [batch, width]; no gradient flows to them.
        temperature: T > 0; usually 0.05 to 0.1.
        same: [batch] integers; rows with the same integer are copies of a text and not each other's negatives.

    Returns:
        [batch] losses in fp32; 0 for a batch of one row.

    Raises:
        ModelError: the widths differ.
        SignalError: the numbers of rows differ.
    """
    check_same_rows(student, teacher, "sentence vectors", 2)
    check_same_width(student, teacher, "sentence vectors")
    rows = torch.arange(len(student), device=student.device)
    student_vectors = functional.normalize(student.float(), dim=-1)
    teacher_vectors = functional.normalize(teacher.detach().float(), dim=-1)
    with full_precision(student):
        scores = student_vectors @ teacher_vectors.T / temperature
    if same is not None:
        if same.shape != rows.shape:
            raise SignalError(f"`same` is {list(same.shape)} for {len(rows)} rows; give one integer a row")
        scores = scores.masked_fill((same[:, None] == same[None, :]) & (rows[:, None] != rows[None, :]), -torch.inf)
    return functional.cross_entropy(scores, rows, reduction="none")


def _distances(vectors: Tensor) -> Tensor:
    """[batch, batch] distances, in units of their mean over pairs of different vectors."""
    _, norms, distinct = _differences(vectors)
    distances = torch.where(distinct, norms, 0.0)
    mean = distances.sum() / distinct.sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _angles(vectors: Tensor) -> Tensor:
    """[batch, batch, batch] cosines of the angle at a row between two others; 0 if one of them equals the row."""
    differences, norms, _ = _differences(vectors)
    rays = differences / norms.unsqueeze(-1)
    with full_precision(vectors):
        return rays @ rays.transpose(1, 2)


def _differences(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Differences of all pairs of vectors.

    The norm of two equal vectors is set to 1, because the gradient of the square root is infinite at 0.

    Returns:
        [i, j, width] vector j minus vector i, [i, j] its norm, and [i, j] whether the vectors differ.
    """
    differences = vectors.unsqueeze(0) - vectors.unsqueeze(1)
    squares = differences.square().sum(dim=-1)
    distinct = squares > 0
    return differences, torch.where(distinct, squares, 1.0).sqrt(), distinct
