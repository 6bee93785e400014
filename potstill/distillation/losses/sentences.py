"""Losses on sentence vectors, [batch, width]: pure functions, one number a row, in fp32.

The relational ones compare rows of a batch with each other, so they depend on which rows meet in it: their value on a
batch is not that of its halves, and gradient accumulation changes what they ask. They are means over the other rows, so
their size does not depend on the batch's. No gradient flows to a teacher.
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
    """The mean of each row's real tokens.

    Args:
        states: [batch, sequence, width].
        mask: [batch, sequence].

    Returns:
        [batch, width] in fp32; zeros for a row without a real token.

    Raises:
        SignalError: the mask is of another batch.
    """
    real = real_tokens(mask, states)
    return without_padding(states, real).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp(min=1)


def patient(student: Tensor, teacher: Tensor) -> Tensor:
    """Row-wise sum over the layers of |s / |s| - t / |t||^2, of the first token's states.

    PKD (Sun et al. 2019, "Patient Knowledge Distillation for BERT Model Compression"), whose layer map
    leaves out the last layers: the logits' loss speaks for them.

    Args:
        student: [batch, layers, width] states of the first token at the chosen layers.
        teacher: [batch, layers, width], the same of the teacher, layer by layer; no gradient flows to them.

    Returns:
        [batch] losses in fp32, from 0 to 4 a layer.

    Raises:
        ModelError: layer counts or widths differ.
        SignalError: the rows differ.
    """
    if student.dim() == 3 and teacher.dim() == 3 and student.shape[1] != teacher.shape[1]:
        raise ModelError(
            f"{student.shape[1]} layers of the student meet {teacher.shape[1]} of the teacher; "
            "the layer map needs one teacher layer for each student layer"
        )
    check_same_rows(student, teacher, "first tokens' states", 3)
    check_same_width(student, teacher, "first tokens' states")
    ours = functional.normalize(student.float(), dim=-1)
    theirs = functional.normalize(teacher.detach().float(), dim=-1)
    return (ours - theirs).square().sum(dim=(1, 2))


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Row-wise mean over the other rows of Huber(distance in the student - distance in the teacher).

    RKD-D (Park et al. 2019, "Relational Knowledge Distillation"): distances in units of the batch's
    mean distance, so that neither scale nor width matters. Needs batch^2 * width fp32 numbers of memory.

    Args:
        student: [batch, student width] sentence vectors.
        teacher: [batch, teacher width]; no gradient flows to them.

    Returns:
        [batch] losses in fp32; 0 for one row alone.

    Raises:
        SignalError: the rows differ.
    """
    check_same_rows(student, teacher, "sentence vectors", 2)
    ours, theirs = _distances(student.float()), _distances(teacher.detach().float())
    # The diagonal is 0 on both sides and costs nothing.
    return functional.smooth_l1_loss(ours, theirs, reduction="none").sum(dim=-1) / max(len(student) - 1, 1)


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Row-wise mean over pairs of other rows of Huber(cosine of their angle at the row - the same in the teacher).

    RKD-A (Park et al. 2019). Needs batch^2 * (batch + width) fp32 numbers of memory: for batches of
    up to some hundred rows.

    Args:
        student: [batch, student width] sentence vectors.
        teacher: [batch, teacher width]; no gradient flows to them.

    Returns:
        [batch] losses in fp32; 0 for fewer than three rows.

    Raises:
        SignalError: the rows differ.
    """
    check_same_rows(student, teacher, "sentence vectors", 2)
    ours, theirs = _angles(student.float()), _angles(teacher.detach().float())
    # Not counted: the corner itself, whose cosines are 0 on both sides, and a ray with itself.
    rows = len(student)
    pairs = max((rows - 1) * (rows - 2), 1)
    losses = functional.smooth_l1_loss(ours, theirs, reduction="none")
    return losses.masked_fill(torch.eye(rows, dtype=torch.bool, device=losses.device), 0.0).sum(dim=(1, 2)) / pairs


def contrastive(student: Tensor, teacher: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """Row-wise -log softmax of cos(student's row, teacher's row) / T among all of the batch's teacher rows, in nats.

    InfoNCE (van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding") between student
    and teacher as in CRD (Tian et al. 2020, "Contrastive Representation Distillation"), with the batch's other rows as
    negatives instead of a memory bank. T is a scale of similarity here: there is no T^2.

    Args:
        student: [batch, width] sentence vectors, projected where the models' widths differ.
        teacher: [batch, width]; no gradient flows to them.
        temperature: T > 0; 0.05 to 0.1 is usual.
        same: [batch] integers; rows with the same one are copies, never each other's negatives.

    Returns:
        [batch] losses in fp32; 0 for one row alone.

    Raises:
        ModelError: the widths differ.
        SignalError: the rows differ.
    """
    check_same_rows(student, teacher, "sentence vectors", 2)
    check_same_width(student, teacher, "sentence vectors")
    rows = torch.arange(len(student), device=student.device)
    ours = functional.normalize(student.float(), dim=-1)
    theirs = functional.normalize(teacher.detach().float(), dim=-1)
    with full_precision(student):
        scores = ours @ theirs.T / temperature
    if same is not None:
        if same.shape != rows.shape:
            raise SignalError(f"`same` is {list(same.shape)} for {len(rows)} rows; give one integer a row")
        scores = scores.masked_fill((same[:, None] == same[None, :]) & (rows[:, None] != rows[None, :]), -torch.inf)
    return functional.cross_entropy(scores, rows, reduction="none")


def _distances(vectors: Tensor) -> Tensor:
    """[batch, batch] distances in units of the mean over pairs of different vectors."""
    _, norms, apart = _differences(vectors)
    distances = torch.where(apart, norms, 0.0)
    mean = distances.sum() / apart.sum().clamp(min=1)
    return distances / torch.where(mean > 0, mean, 1.0)


def _angles(vectors: Tensor) -> Tensor:
    """[corner, batch, batch] cosines of the angle at the corner between the rays to two rows; 0 without a ray."""
    differences, norms, _ = _differences(vectors)
    rays = differences / norms.unsqueeze(-1)
    with full_precision(vectors):
        return rays @ rays.transpose(1, 2)


def _differences(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[i, j, width] vector j minus vector i; its norm, 1 where they are equal; and True where they are not.

    The root is taken of 1 instead of 0, whose gradient is infinite.
    """
    differences = vectors.unsqueeze(0) - vectors.unsqueeze(1)
    squares = differences.square().sum(dim=-1)
    apart = squares > 0
    return differences, torch.where(apart, squares, 1.0).sqrt(), apart
