"""The loss terms that params can ask for: each kind's layer map, projections, and what it computes on a batch.

A term divides once, by the rows or the real tokens of the whole optimizer step (`objective.Window`). Where rows of a
batch are compared with each other (dist, rkd, contrastive), they are those of one batch of the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from potstill.config.base import TaskKind
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
from potstill.distillation.objective.balancing import Schedule
from potstill.distillation.objective.gold_labels import Window
from potstill.distillation.teachers.outputs import Needs, Outputs, vectors_of
from potstill.errors import ModelError
from potstill.pretrained.families import family_of
from potstill.pretrained.heads import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Park et al. 2019 weigh angles twice as much as distances.
RKD_ANGLE = 2.0
# On probabilities that add up to 1 over the classes.
OF_CLASSES = ("kl", "ce", "dist")
ON_LOGITS = (*OF_CLASSES, "mse")
ON_ATTENTION = ("attention", "relations")
ON_VECTORS = ("pkd", "rkd", "contrastive")
PROJECTED = ("cosine", "hidden", "pkd", "contrastive")


class Shape(NamedTuple):
    """What a term has to know of a model."""

    layers: int
    width: int
    heads: int
    plain_attention: bool
    kind: str

    @classmethod
    def of(cls, model: PreTrainedModel) -> Shape:
        """The shape of a model of a known class.

        Raises:
            ModelError: see `families.family_of`.
        """
        family, config = family_of(model.config), model.config
        return cls(
            layers=getattr(config, family.layers_key),
            width=getattr(config, family.hidden_key),
            heads=getattr(config, family.heads_key),
            plain_attention=family.plain_attention,
            kind=config.model_type,
        )


@dataclass(frozen=True)
class Both:
    """Student and teacher on one batch.

    Attributes:
        student: its outputs.
        teacher: its outputs, on the student's device.
        ids: [batch, sequence] token ids.
        mask: [batch, sequence], 0 on padding.
        labels: [batch, ...] gold labels in the task's form.
        window: the optimizer step.
    """

    student: Outputs
    teacher: Outputs
    ids: Tensor
    mask: Tensor
    labels: Tensor
    window: Window

    @property
    def teacher_mask(self) -> Tensor:
        """[batch, sequence of the teacher], 0 on padding: another one where its tokens are others."""
        return self.mask if self.teacher.mask is None else self.teacher.mask


class Term(nn.Module):
    """One term of params between two models; its parameters are the projections from width to width.

    Attributes:
        kind: of params.
        schedule: its weight over the run.
        student_needs: what it asks of the student beside logits.
        teacher_needs: what it asks of the teacher beside logits.

    Raises:
        ModelError: layers that do not exist, widths or heads that do not fit, or a class that cannot give it.
    """

    def __init__(self, config: TermBase, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
        super().__init__()
        self.config = config
        self.kind: str = config.kind  # type: ignore[attr-defined]
        self.schedule = Schedule(config.weight, config.schedule, config.fraction)
        self.pairs: tuple[Pair, ...] = ()
        self.projections: Projections | None = None
        self.heads = (1, 1)
        if isinstance(config, LayerTerm):
            self._fit(config, Shape.of(student), Shape.of(teacher))
        else:
            _check_task(self.kind, student)
            if self.kind != "ce":
                _check_classes(self.kind, student, teacher)
        self.student_needs, self.teacher_needs = (self._needs(side) for side in (0, 1))

    def _fit(self, config: LayerTerm, student: Shape, teacher: Shape) -> None:
        """Resolve the layer map against both models."""
        pairs = [[student.layers, teacher.layers]] if config.layers is None else config.layers
        self.pairs = tuple((ours, theirs) for ours, theirs in pairs)
        first = 1 if self.kind in ON_ATTENTION else 0
        for side, (owner, shape) in enumerate((("student", student), ("teacher", teacher))):
            for pair in self.pairs:
                if not first <= pair[side] <= shape.layers:
                    raise ModelError(
                        f"the loss term {self.kind} names layer {pair[side]} of the {owner}, which has {first} to "
                        f"{shape.layers}; correct its layers [[student, teacher], ...]"
                    )
        if self.kind in PROJECTED:
            widths = ([shape.width] * (shape.layers + 1) for shape in (student, teacher))
            self.projections = Projections(self.pairs, *widths)
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

    def forward(self, both: Both) -> Tensor:
        """The term of a batch, a scalar in fp32, before its weight."""
        return _LOSSES[self.kind](self, both)

    def states(self, both: Both, pair: Pair) -> tuple[Tensor, Tensor]:
        """The hidden states of a pair, the student's in the teacher's width where the kind projects."""
        return self._projected(pair, both.student.hidden[pair[0]]), both.teacher.hidden[pair[1]]

    def vectors(self, both: Both, pair: Pair, which: Literal["first", "mean"]) -> tuple[Tensor, Tensor]:
        """The sentence vectors of a pair, likewise. A projection of the mean is the mean of the projections."""
        sides = ((both.student, pair[0], both.mask), (both.teacher, pair[1], both.teacher_mask))
        ours, theirs = (getattr(vectors_of(*side), which) for side in sides)
        return self._projected(pair, ours), theirs

    def _projected(self, pair: Pair, states: Tensor) -> Tensor:
        return states if self.projections is None else self.projections(pair, states)

    def describe(self) -> str:
        """The term as the user reads it once, in one line."""
        left_out = {"kind", "weight", "schedule", "fraction", "layers"}
        options = ", ".join(f"{key}={value}" for key, value in self.config.model_dump(exclude=left_out).items())
        where = ", ".join(f"{ours} -> {theirs}" for ours, theirs in self.pairs)
        changes = {
            "constant": "",
            "decay": f", falling to 0 over the first {self.config.fraction:.0%} of the steps",
            "warmup": f", rising over the first {self.config.fraction:.0%} of the steps",
        }[self.config.schedule]
        projected = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"{self.config.weight:g} * {self.kind}"
            + (f"({options})" if options else "")
            + (f" on student -> teacher layers {where}" if where else "")
            + (f", with {projected:,} weights of projections" if projected else "")
            + changes
        )


def misfit(kind: str, task: TaskKind) -> str | None:
    """Why a task cannot have a loss term of this kind; None where it can."""
    if kind not in ON_LOGITS:
        return None
    if task == "question_answering":
        return (
            f"the loss term {kind} is of classes, and answers are spans; the loss on start and end is there by itself, "
            "and terms on layers can be added to it"
        )
    if kind in OF_CLASSES and task not in ("single_label", "token_classification"):
        return (
            f"the loss term {kind} is of one class of several, which a {task} model does not give; "
            "use the term mse for its logits"
        )
    return None


def _check_task(kind: str, student: PreTrainedModel) -> None:
    if (found := misfit(kind, task_of(student))) is not None:
        raise ModelError(found)


def _check_classes(kind: str, student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    ours, theirs = student.config.num_labels, teacher.config.num_labels
    if ours != theirs:
        raise ModelError(
            f"the loss term {kind} compares logits, but the student has {ours} classes and the teacher {theirs}; "
            "give both the same labels"
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


# --- what each kind computes ------------------------------------------------------------------------------------------


def _kl(term: Term, both: Both) -> Tensor:
    assert isinstance(term.config, KlTerm)
    temperature = term.config.temperature
    rows = kl_divergence(both.student.logits, both.teacher.at(temperature), temperature)
    return rows.sum() / both.window.answers


def _ce(term: Term, both: Both) -> Tensor:
    return cross_entropy(both.student.logits, both.labels).sum() / max(both.window.gold, 1)


def _mse(term: Term, both: Both) -> Tensor:
    return mean_squared_error(both.student.logits, both.teacher.logits).sum() / both.window.answers


def _dist(term: Term, both: Both) -> Tensor:
    assert isinstance(term.config, DistTerm)
    temperature = term.config.temperature
    logits = (both.student.logits, both.teacher.at(temperature), temperature)
    over_rows = dist_intra_class(*logits).mean() * len(both.labels)
    return (dist_inter_class(*logits).sum() + over_rows) / both.window.answers


def _per_token(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Term, Both], Tensor]:
    """A loss on hidden states, [batch] sums over real tokens, as a term."""

    def term_of(term: Term, both: Both) -> Tensor:
        sums = [loss(*term.states(both, pair), both.mask).sum() for pair in term.pairs]
        return torch.stack(sums).mean() / both.window.tokens

    return term_of


def _attention(term: Term, both: Both) -> Tensor:
    assert isinstance(term.config, AttentionTerm)
    sums = []
    for ours, theirs in term.pairs:
        sides = ((both.student, ours, term.heads[0]), (both.teacher, theirs, term.heads[1]))
        maps = [attention_scores(*side.attention[layer][:2], both.mask, heads) for side, layer, heads in sides]
        loss = attention_mse
        if term.config.loss == "kl":
            maps, loss = [attention_probabilities(scores, both.mask) for scores in maps], attention_kl
        sums.append(loss(maps[0], maps[1], both.mask, average_heads=term.config.average_heads).sum())
    return torch.stack(sums).mean() / both.window.tokens


def _relations(term: Term, both: Both) -> Tensor:
    assert isinstance(term.config, RelationsTerm)
    sums = []
    for ours, theirs in term.pairs:
        sides = both.student.attention[ours], both.teacher.attention[theirs]
        found = self_attention_relations(*sides, both.mask, term.config.heads)
        sums.append(torch.stack(list(found.values())).sum())
    return torch.stack(sums).mean() / both.window.tokens


def _pkd(term: Term, both: Both) -> Tensor:
    vectors = [term.vectors(both, pair, "first") for pair in term.pairs]
    ours, theirs = (torch.stack([pair[side] for pair in vectors], dim=1) for side in (0, 1))
    return patient(ours, theirs).sum() / len(term.pairs) / both.window.rows


def _rkd(term: Term, both: Both) -> Tensor:
    sums = []
    for pair in term.pairs:
        vectors = term.vectors(both, pair, "mean")
        sums.append((rkd_distance(*vectors) + RKD_ANGLE * rkd_angle(*vectors)).sum())
    return torch.stack(sums).mean() / both.window.rows


def _contrastive(term: Term, both: Both) -> Tensor:
    assert isinstance(term.config, ContrastiveTerm)
    # Rows of the same tokens are no negatives of each other.
    same = torch.unique(both.ids, dim=0, return_inverse=True)[1]
    sums = []
    for pair in term.pairs:
        ours, theirs = term.vectors(both, pair, "mean")
        sums.append(contrastive(ours, theirs, term.config.temperature, same).sum())
    return torch.stack(sums).mean() / both.window.rows


_LOSSES: dict[str, Callable[[Term, Both], Tensor]] = {
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
