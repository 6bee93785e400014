"""Losses on hidden states: pure functions that return, for each row, the sum over its real tokens, in fp32.

Shapes: states are [batch, sequence, width]; the mask is [batch, sequence], 0 on padding. Padding never counts, whatever
its states are. The caller divides the sums once, by the real tokens of the whole optimizer step, so that micro-batches
add up to exactly the loss of one large batch. No gradient flows to the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from potstill.distillation.losses.tensors import check_same_rows, check_same_width, real_tokens, without_padding
from potstill.errors import ModelError

# Indices of (student's hidden state, teacher's hidden state): 0 is the output of the embeddings, n of the n-th layer.
Pair = tuple[int, int]


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Row-wise sum over the real tokens of 1 - cos(student, teacher).

    DistilBERT's cosine loss (Sanh et al. 2019, "DistilBERT, a distilled version of BERT").

    Args:
        student: [batch, sequence, width] states.
        teacher: [batch, sequence, width] states; no gradient flows to them.
        mask: [batch, sequence], 0 on padding.

    Returns:
        [batch] sums in fp32, where a token adds 0 to 2.

    Raises:
        ModelError: the widths differ; project the student's states first.
        SignalError: the numbers of rows or tokens differ.
    """
    student_states, teacher_states, real = _states(student, teacher, mask)
    losses = 1 - functional.cosine_similarity(student_states, teacher_states, dim=-1)
    return losses.masked_fill(~real, 0.0).sum(dim=-1)


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Row-wise sum over the real tokens of the mean over the width of (student - teacher)^2.

    TinyBERT's hidden and embedding loss (Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language
    Understanding"); unlike there, padding does not count.

    Args:
        student: [batch, sequence, width] states, projected if the models' widths differ (`Projections`).
        teacher: [batch, sequence, width] states; no gradient flows to them.
        mask: [batch, sequence], 0 on padding.

    Returns:
        [batch] sums in fp32, in squared units of the states.

    Raises:
        ModelError: the widths differ; project the student's states first.
        SignalError: the numbers of rows or tokens differ.
    """
    student_states, teacher_states, _ = _states(student, teacher, mask)
    return (student_states - teacher_states).square().mean(dim=-1).sum(dim=-1)


class Projections(nn.Module):
    """Linear projections from the student's width to the teacher's, one for each pair of states; none for equal widths.

    TinyBERT's learnable transformation (Jiao et al. 2020, section 3.1). The optimizer updates projections, gradient
    clipping includes them and checkpoints contain them, but they are not part of the student and are discarded with
    the objective.

    Args:
        pairs: the layer map, a list of (student's hidden state, teacher's hidden state).
        student_width: width of the student's hidden states.
        teacher_width: width of the teacher's hidden states.

    Raises:
        ModelError: an entry occurs twice.
    """

    def __init__(self, pairs: Sequence[Pair], student_width: int, teacher_width: int) -> None:
        super().__init__()
        if len(set(pairs)) < len(pairs):
            raise ModelError(f"the layer map {list(pairs)} holds an entry twice; remove one")
        self.linears = nn.ModuleDict()
        if student_width != teacher_width:
            self.linears.update({_name(pair): nn.Linear(student_width, teacher_width) for pair in pairs})

    def forward(self, pair: Pair, states: Tensor) -> Tensor:
        """Project the student's states of a pair, [..., student width], to [..., teacher width]."""
        if not self.linears:
            return states
        linear = self.linears[_name(pair)]
        assert isinstance(linear, nn.Linear)
        projected: Tensor = linear(states.to(linear.weight.dtype))
        return projected


def _name(pair: Pair) -> str:
    return f"{pair[0]}_to_{pair[1]}"


def _states(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check both states; return them in fp32, 0 on padding, and the mask of real tokens [batch, sequence]."""
    check_same_rows(student, teacher, "hidden states", 3)
    check_same_width(student, teacher, "hidden states")
    real = real_tokens(mask, student)
    return without_padding(student, real), without_padding(teacher.detach(), real), real
