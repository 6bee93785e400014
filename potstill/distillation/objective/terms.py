"""The loss terms of params: layer map, projections and computation of each kind.

A term is divided once, by the rows or the real tokens of the whole optimizer step (`gold_labels.OptimizerStep`). Terms
that compare rows with each other (dist, rkd, contrastive) compare those of one batch of the step.

To add a kind, write its loss in `potstill.distillation.losses`, its section in `potstill.config.term_params`, and a
function here that is listed in `_LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from potstill.config.term_params import (
    AttentionTerm,
    ContrastiveTerm,
    DistTerm,
    KlTerm,
    LayerTerm,
    RelationsTerm,
    TermBase,
)
from potstill.distillation.losses.attention import (
    attention_kl,
    attention_mse,
    attention_probabilities,
    attention_scores,
)
from potstill.distillation.losses.hidden import Pair, Projections, hidden_cosine, hidden_mse
from potstill.distillation.losses.logits import (
    cross_entropy,
    dist_inter_class,
    dist_intra_class,
    kl_divergence,
    mean_squared_error,
)
from potstill.distillation.losses.relations import check_heads, self_attention_relations
from potstill.distillation.losses.sentences import contrastive, patient, rkd_angle, rkd_distance
from potstill.distillation.objective.gold_labels import OptimizerStep
from potstill.distillation.teachers.outputs import Needs, Outputs, vectors_of
from potstill.errors import ModelError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.pretrained.families import family_of
from potstill.pretrained.heads import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Park et al. 2019 weigh angles twice as much as distances.
RKD_ANGLE = 2.0
# Kinds of terms on probabilities that add up to 1 over the classes.
OF_CLASSES = ("kl", "ce", "dist")
ON_LOGITS = (*OF_CLASSES, "mse")
ON_ATTENTION = ("attention", "relations")
ON_VECTORS = ("pkd", "rkd", "contrastive")
PROJECTED = ("cosine", "hidden", "pkd", "contrastive")


class Shape(NamedTuple):
    """The properties of a model that decide whether a term fits it."""

    layers: int
    width: int
    heads: int
    plain_attention: bool
    kind: str

    @classmethod
    def of(cls, model: PreTrainedModel) -> Shape:
        """Read the shape of a model.

        Raises:
            ModelError: the class is not supported.
        """
        config = model.config
        family = family_of(config)
        return cls(
            layers=getattr(config, family.layers_key),
            width=getattr(config, family.hidden_key),
            heads=getattr(config, family.heads_key),
            plain_attention=family.plain_attention,
            kind=config.model_type,
        )


@dataclass(frozen=True)
class LossInputs:
    """The inputs of loss terms on one batch.

    Attributes:
        student: the student's outputs.
        teacher: the teacher's outputs, on the student's device.
        ids: [batch, sequence] token ids.
        mask: [batch, sequence], 0 on padding.
        labels: [batch, ...] gold labels in the task's form.
        step: the optimizer step that the batch belongs to.
    """

    student: Outputs
    teacher: Outputs
    ids: Tensor
    mask: Tensor
    labels: Tensor
    step: OptimizerStep

    @property
    def teacher_mask(self) -> Tensor:
        """[batch, teacher's sequence], 0 on padding; differs from `mask` if the teacher has its own tokens."""
        return self.mask if self.teacher.mask is None else self.teacher.mask


class Term(nn.Module):
    """A loss term of params between two models; its parameters are projections to the teacher's width.

    Attributes:
        kind: the term's kind in params.
        student_needs: what it needs of the student beyond logits.
        teacher_needs: what it needs of the teacher beyond logits.

    Raises:
        ModelError: layers do not exist, widths or heads do not match, or a model's class does not support the term.
    """

    def __init__(self, config: TermBase, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        super().__init__()
        self.config = config
        self.kind: str = config.kind  # type: ignore[attr-defined]
        self.pairs: tuple[Pair, ...] = ()
        self.projections: Projections | None = None
        self.heads = (1, 1)
        if isinstance(config, LayerTerm):
            self._fit(config, Shape.of(student), Shape.of(teacher))
        else:
            if (problem := misfit(self.kind, task_of(student))) is not None:
                raise ModelError(problem)
            if self.kind != "ce":
                _check_classes(self.kind, student, teacher)
        self.student_needs = self._needs(side=0)
        self.teacher_needs = self._needs(side=1)

    def _fit(self, config: LayerTerm, student: Shape, teacher: Shape) -> None:
        """Check the layer map against both models, and create projections."""
        pairs = [[student.layers, teacher.layers]] if config.layers is None else config.layers
        self.pairs = tuple((student_layer, teacher_layer) for student_layer, teacher_layer in pairs)
        first = 1 if self.kind in ON_ATTENTION else 0
        for side, (owner, shape) in enumerate((("student", student), ("teacher", teacher))):
            for pair in self.pairs:
                if not first <= pair[side] <= shape.layers:
                    raise ModelError(
                        f"the loss term {self.kind} names layer {pair[side]} of the {owner}, which has {first} to "
                        f"{shape.layers}; correct its layers [[student, teacher], ...]"
                    )
        if self.kind in PROJECTED:
            self.projections = Projections(self.pairs, student.width, teacher.width)
        if isinstance(config, RelationsTerm):
            check_heads(student.width, teacher.width, config.heads)
        if isinstance(config, AttentionTerm):
            _check_attention(config, student, teacher)
            self.heads = (student.heads, teacher.heads)

    def _needs(self, side: int) -> Needs:
        layers = frozenset(pair[side] for pair in self.pairs)
        if self.kind in ON_VECTORS:
            return Needs(vectors=layers)
        return Needs(attention=layers) if self.kind in ON_ATTENTION else Needs(hidden=layers)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Compute the term of a batch, a scalar in fp32, before its weight."""
        return _LOSSES[self.kind](self, inputs)

    def states(self, inputs: LossInputs, pair: Pair) -> tuple[Tensor, Tensor]:
        """Return the hidden states of a pair, the student's projected if the kind projects."""
        return self._projected(pair, inputs.student.hidden[pair[0]]), inputs.teacher.hidden[pair[1]]

    def vectors(self, inputs: LossInputs, pair: Pair, which: Literal["first", "mean"]) -> tuple[Tensor, Tensor]:
        """Return the sentence vectors of a pair, the student's projected if the kind projects.

        Projecting the mean of the states equals averaging the projected states.
        """
        student = getattr(vectors_of(inputs.student, pair[0], inputs.mask), which)
        teacher = getattr(vectors_of(inputs.teacher, pair[1], inputs.teacher_mask), which)
        return self._projected(pair, student), teacher

    def _projected(self, pair: Pair, states: Tensor) -> Tensor:
        return states if self.projections is None else self.projections(pair, states)

    def describe(self) -> str:
        """Describe the term in one line."""
        described_elsewhere = {"kind", "weight", "schedule", "fraction", "layers"}
        settings = self.config.model_dump(exclude=described_elsewhere).items()
        options = ", ".join(f"{key}={value}" for key, value in settings)
        layers = ", ".join(f"{student} -> {teacher}" for student, teacher in self.pairs)
        changes = {
            "constant": "",
            "decay": f", falling to 0 over the first {self.config.fraction:.0%} of the steps",
            "warmup": f", rising over the first {self.config.fraction:.0%} of the steps",
        }[self.config.schedule]
        projected = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"{self.config.weight:g} * {self.kind}"
            + (f"({options})" if options else "")
            + (f" on student -> teacher layers {layers}" if layers else "")
            + (f", with {projected:,} weights of projections" if projected else "")
            + changes
        )


def misfit(kind: str, task: TaskKind) -> str | None:
    """Explain why a task cannot have a loss term of a kind; None if it can."""
    if kind not in ON_LOGITS:
        return None
    if KINDS[task].form == "span":
        return (
            f"the loss term {kind} is on classes, but answers are spans; question answering always has a loss on "
            "start and end, to which terms on layers can be added"
        )
    if kind in OF_CLASSES and KINDS[task].form not in ("class", "entities"):
        return (
            f"the loss term {kind} needs probabilities that add up to 1 over the classes, which a {task} model does "
            "not have; use the term mse for its logits"
        )
    return None


def _check_classes(kind: str, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    student_classes = student.config.num_labels
    teacher_classes = teacher.config.num_labels
    if student_classes != teacher_classes:
        raise ModelError(
            f"the loss term {kind} compares logits, but the student has {student_classes} classes and the teacher "
            f"{teacher_classes}; give both the same labels"
        )


def _check_attention(config: AttentionTerm, student: Shape, teacher: Shape) -> None:
    for owner, shape in (("student", student), ("teacher", teacher)):
        if not shape.plain_attention:
            raise ModelError(
                f"the loss term attention cannot read the {owner}'s attention maps: {shape.kind} adds positions to "
                "them; use the term relations, which needs none"
            )
    if student.heads != teacher.heads and not config.average_heads:
        raise ModelError(
            f"the loss term attention compares head by head, but the student has {student.heads} and the teacher "
            f"{teacher.heads}; set its average_heads, or use the term relations"
        )


# --- the loss of each kind --------------------------------------------------------------------------------------------


def _kl(term: Term, inputs: LossInputs) -> Tensor:
    assert isinstance(term.config, KlTerm)
    temperature = term.config.temperature
    losses = kl_divergence(inputs.student.logits, inputs.teacher.logits_at(temperature), temperature)
    return losses.sum() / inputs.step.answers


def _ce(term: Term, inputs: LossInputs) -> Tensor:
    return cross_entropy(inputs.student.logits, inputs.labels).sum() / max(inputs.step.gold, 1)


def _mse(term: Term, inputs: LossInputs) -> Tensor:
    return mean_squared_error(inputs.student.logits, inputs.teacher.logits).sum() / inputs.step.answers


def _dist(term: Term, inputs: LossInputs) -> Tensor:
    assert isinstance(term.config, DistTerm)
    temperature = term.config.temperature
    logits = (inputs.student.logits, inputs.teacher.logits_at(temperature), temperature)
    over_rows = dist_intra_class(*logits).mean() * len(inputs.labels)
    return (dist_inter_class(*logits).sum() + over_rows) / inputs.step.answers


def _mean_over_pairs(term: Term, loss: Callable[[Pair], Tensor]) -> Tensor:
    """Average a loss, summed over the batch, over the term's pairs of layers."""
    return torch.stack([loss(pair).sum() for pair in term.pairs]).mean()


def _per_token(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Term, LossInputs], Tensor]:
    """Make a term of a loss on hidden states that returns [batch] sums over real tokens."""

    def term_loss(term: Term, inputs: LossInputs) -> Tensor:
        sums = _mean_over_pairs(term, lambda pair: loss(*term.states(inputs, pair), inputs.mask))
        return sums / inputs.step.tokens

    return term_loss


def _attention(term: Term, inputs: LossInputs) -> Tensor:
    config = term.config
    assert isinstance(config, AttentionTerm)

    def loss(pair: Pair) -> Tensor:
        student = attention_scores(*inputs.student.attention[pair[0]][:2], inputs.mask, term.heads[0])
        teacher = attention_scores(*inputs.teacher.attention[pair[1]][:2], inputs.mask, term.heads[1])
        if config.loss == "mse":
            return attention_mse(student, teacher, inputs.mask, average_heads=config.average_heads)
        student = attention_probabilities(student, inputs.mask)
        teacher = attention_probabilities(teacher, inputs.mask)
        return attention_kl(student, teacher, inputs.mask, average_heads=config.average_heads)

    return _mean_over_pairs(term, loss) / inputs.step.tokens


def _relations(term: Term, inputs: LossInputs) -> Tensor:
    assert isinstance(term.config, RelationsTerm)
    heads = term.config.heads

    def loss(pair: Pair) -> Tensor:
        student, teacher = inputs.student.attention[pair[0]], inputs.teacher.attention[pair[1]]
        losses = self_attention_relations(student, teacher, inputs.mask, heads)
        return torch.stack(list(losses.values()))

    return _mean_over_pairs(term, loss) / inputs.step.tokens


def _pkd(term: Term, inputs: LossInputs) -> Tensor:
    vectors = [term.vectors(inputs, pair, "first") for pair in term.pairs]
    student = torch.stack([pair[0] for pair in vectors], dim=1)
    teacher = torch.stack([pair[1] for pair in vectors], dim=1)
    return patient(student, teacher).sum() / len(term.pairs) / inputs.step.rows


def _rkd(term: Term, inputs: LossInputs) -> Tensor:
    def loss(pair: Pair) -> Tensor:
        vectors = term.vectors(inputs, pair, "mean")
        return rkd_distance(*vectors) + RKD_ANGLE * rkd_angle(*vectors)

    return _mean_over_pairs(term, loss) / inputs.step.rows


def _contrastive(term: Term, inputs: LossInputs) -> Tensor:
    assert isinstance(term.config, ContrastiveTerm)
    # Rows with the same tokens are not negatives of each other.
    same = torch.unique(inputs.ids, dim=0, return_inverse=True)[1]
    temperature = term.config.temperature
    sums = _mean_over_pairs(term, lambda pair: contrastive(*term.vectors(inputs, pair, "mean"), temperature, same))
    return sums / inputs.step.rows


_LOSSES: dict[str, Callable[[Term, LossInputs], Tensor]] = {
    "kl": _kl,
    "ce": _ce,
    "mse": _mse,
    "dist": _dist,
    "cosine": _per_token(hidden_cosine),
    "hidden": _per_token(hidden_mse),
    "attention": _attention,
    "relations": _relations,
    "pkd": _pkd,
    "rkd": _rkd,
    "contrastive": _contrastive,
}
