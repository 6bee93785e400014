"""Losses on hidden states: pure functions, for each row the SUM over its real tokens, in fp32.

Shapes: states [batch, sequence, width]; mask [batch, sequence], 0 on padding. Padding counts nowhere, whatever its
states hold. The loss is the sums divided by the real tokens of the whole optimizer step, once: micro-batches then add
up to exactly the loss of the whole. No gradient flows to a teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from potstill.distillation.losses.tensors import check_same_rows, check_same_width, real_tokens, without_padding
from potstill.errors import ModelError

# (student's hidden state, teacher's hidden state) by index: 0 is the embeddings' output, n the n-th layer's.
Pair = tuple[int, int]


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Row-wise sum over the real tokens of 1 - cos(student, teacher).

    DistilBERT's cosine loss (Sanh et al. 2019, "DistilBERT, a distilled version of BERT").

    Args:
        student: [batch, sequence, width] states.
        teacher: [batch, sequence, width] states; no gradient flows to them.
        mask: [batch, sequence].

    Returns:
        [batch] sums in fp32, from 0 to 2 a token.

    Raises:
        ModelError: the widths differ; project the student's states first.
        SignalError: rows, tokens or mask differ.
    """
    ours, theirs, real = _states(student, teacher, mask)
    losses = 1 - functional.cosine_similarity(ours, theirs, dim=-1)
    return losses.masked_fill(~real, 0.0).sum(dim=-1)


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Row-wise sum over the real tokens of the mean over the width of (student - teacher)^2.

    TinyBERT's hidden and embedding loss (Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language
    Understanding"), without its mean over padding.

    Args:
        student: [batch, sequence, width] states, projected where the models' widths differ (`Projections`).
        teacher: [batch, sequence, width] states; no gradient flows to them.
        mask: [batch, sequence].

    Returns:
        [batch] sums in fp32, in squared units of the states.

    Raises:
        ModelError: the widths differ; project the student's states first.
        SignalError: rows, tokens or mask differ.
    """
    ours, theirs, _ = _states(student, teacher, mask)
    return (ours - theirs).square().mean(dim=-1).sum(dim=-1)


class Projections(nn.Module):
    """From the student's widths to the teacher's: one Linear for each pair of layers whose widths differ.

    They are trained and thrown away: not part of the student's `state_dict`, but part of what the optimizer updates,
    the clipping measures and a checkpoint holds.

    Args:
        pairs: the layer map; each entry is (student's hidden state, teacher's hidden state).
        student_widths: width of each of the student's hidden states, [layers + 1].
        teacher_widths: width of each of the teacher's hidden states, [layers + 1].

    Raises:
        ModelError: an entry names a hidden state that a model does not have, or occurs twice.
    """

    def __init__(self, pairs: Sequence[Pair], student_widths: Sequence[int], teacher_widths: Sequence[int]) -> None:
        super().__init__()
        self.pairs = tuple(pairs)
        if len(set(self.pairs)) < len(self.pairs):
            raise ModelError(f"the layer map {list(self.pairs)} holds an entry twice; remove one")
        self.linears = nn.ModuleDict()
        for pair in self.pairs:
            for owner, index, widths in zip(
                ("student", "teacher"), pair, (student_widths, teacher_widths), strict=True
            ):
                if not 0 <= index < len(widths):
                    raise ModelError(
                        f"the layer map names hidden state {index} of the {owner}, which has 0 (embeddings) to "
                        f"{len(widths) - 1}; choose one of these"
                    )
            ours, theirs = student_widths[pair[0]], teacher_widths[pair[1]]
            if ours != theirs:
                self.linears[_name(pair)] = nn.Linear(ours, theirs)

    def forward(self, pair: Pair, states: Tensor) -> Tensor:
        """The student's states of a pair in the teacher's width: [..., student width] -> [..., teacher width].

        Raises:
            ModelError: the pair is not in the layer map.
        """
        if pair not in self.pairs:
            raise ModelError(f"the pair {pair} is not in the layer map {list(self.pairs)}; add it there")
        if _name(pair) not in self.linears:
            return states
        linear = self.linears[_name(pair)]
        assert isinstance(linear, nn.Linear)
        projected: Tensor = linear(states.to(linear.weight.dtype))
        return projected


def _name(pair: Pair) -> str:
    return f"{pair[0]}_to_{pair[1]}"


def _states(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both states checked, in fp32, zero on padding; and [batch, sequence] True on real tokens."""
    check_same_rows(student, teacher, "hidden states", 3)
    check_same_width(student, teacher, "hidden states")
    real = real_tokens(mask, student)
    return without_padding(student, real), without_padding(teacher.detach(), real), real
