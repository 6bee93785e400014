"""The objective of distillation: the loss on logits, and the terms that params add to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from potstill.config.distill_params import BY_TOKEN, Distill
from potstill.config.term_params import TermBase
from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.distillation.losses.tensors import SelfAttention, SentenceVectors
from potstill.distillation.objective.balancing import lasts_to_the_end, weight_at
from potstill.distillation.objective.gold_labels import Objective, OptimizerStep, Terms
from potstill.distillation.objective.terms import ON_VECTORS, LossInputs, Term
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs, answers_of
from potstill.distillation.teachers.position_mapping import PositionMapping, mapped_source
from potstill.distillation.teachers.providers import (
    FallbackSource,
    LiveTeacher,
    MixupSource,
    Source,
    TeacherTokensSource,
)
from potstill.errors import ModelError, ParamsError, SignalError
from potstill.kinds.losses.head_loss import HeadLoss, gold_rows
from potstill.kinds.losses.task_losses import HEAD_LOSSES
from potstill.kinds.task_names import TaskKind
from potstill.pretrained.heads import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.compute.precision import Precision


@dataclass(frozen=True)
class Blend:
    """alpha * T^2 * KL(teacher || student) + (1 - alpha) * CE (Hinton et al. 2015), row by row.

    For tasks other than single-label classification, the task's own losses take the place of KL and CE. On a row
    without a gold label the teacher has weight 1, so that unlabelled rows teach as much as labelled ones.

    Attributes:
        temperature: T.
        alpha: weight of the teacher on rows with a gold label.
        task: determines the two losses.
    """

    temperature: float
    alpha: float
    task: TaskKind = "single_label"

    @property
    def loss(self) -> HeadLoss:
        """The two losses of the task."""
        return HEAD_LOSSES[self.task]

    def __call__(self, inputs: LossInputs) -> Terms:
        """Compute the two weighted terms of a batch."""
        loss = self.loss
        student = inputs.student.logits
        teacher = inputs.teacher.logits_at(self.temperature, self.task)
        gold = gold_rows(inputs.labels).float()
        soft = (1 - (1 - self.alpha) * gold) * loss.soft(student, teacher, self.temperature)
        hard = (1 - self.alpha) * loss.gold(student, inputs.labels)
        answers = inputs.step.answers
        return {loss.soft_term: soft.sum() / answers, loss.gold_term: hard.sum() / answers}

    def describe(self) -> str:
        """Describe the two terms in one line."""
        soft, gold = self.loss.formula(self.temperature), self.loss.gold_term.upper()
        return f"{self.alpha:g} * {soft} + {1 - self.alpha:g} * {gold}"


class LogitsLoss(Protocol):
    """Weighted losses on logits, such as `Blend`."""

    def __call__(self, inputs: LossInputs) -> Terms:
        """Compute the weighted terms of a batch."""

    def describe(self) -> str:
        """Describe the losses in one line."""


class Distillation(Objective):
    """A loss on logits plus weighted terms, against one source of teacher outputs.

    Args:
        source: provides the teacher's outputs, stored or live; not a submodule.
        blend: the loss on logits; None for the terms alone.
        terms: name -> term.

    Raises:
        SignalError: the source cannot provide what a term needs.
        ParamsError: without a blend, no term has a weight above 0 at every step.
    """

    def __init__(self, source: Source, blend: LogitsLoss | None, terms: Mapping[str, Term] | None = None) -> None:
        super().__init__()
        self._source = source
        self._blend = blend
        # Registered as a module for its parameters; the dict keeps the type of its items.
        self.terms = nn.ModuleDict(dict(terms or {}))
        self._terms: dict[str, Term] = dict(terms or {})
        self.teacher_needs = teacher_needs(self._terms)
        for name, term in self._terms.items():
            _check_source(name, term, source)
        if blend is None and not any(lasts_to_the_end(term.config) for term in self._terms.values()):
            raise ParamsError(
                f"none of the loss terms ({', '.join(self._terms) or 'there are none'}) keeps a weight above 0 to the "
                "end of the run; give one a constant weight"
            )

    def needs(self, step: int, total: int) -> Needs:
        """Return what the terms with a weight above 0 at this step need of the student."""
        return _union(term.student_needs for term in self._active(step, total).values())

    def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
        """Compute the weighted terms of a batch."""
        active = self._active(step.index, step.total)
        device = outputs.logits.device
        teacher = self._source(batch, _union(term.teacher_needs for term in active.values()))
        inputs = LossInputs(
            student=answers_of(outputs, batch),
            teacher=answers_of(_on(device, teacher), batch),
            ids=torch.from_numpy(batch.input_ids).to(device),
            mask=torch.from_numpy(batch.attention_mask).to(device),
            labels=torch.from_numpy(batch.labels).to(device),
            step=step,
        )
        terms = {} if self._blend is None else self._blend(inputs)
        for name, term in active.items():
            terms[name] = term(inputs).float() * weight_at(term.config, step.index, step.total)
        return terms

    def describe(self) -> list[str]:
        """Describe the blend and each term in one line."""
        lines = [] if self._blend is None else [self._blend.describe()]
        return lines + [f"+ {term.describe()}" for term in self._terms.values()]

    def _active(self, step: int, total: int) -> dict[str, Term]:
        return {name: term for name, term in self._terms.items() if weight_at(term.config, step, total) > 0}


def make_terms(
    configs: Sequence[TermBase], student: PreTrainedModel, teacher: PreTrainedModel, seed: int
) -> dict[str, Term]:
    """Build the terms of params between two models, without touching torch's global random state.

    Args:
        configs: entries of `distill.terms`.
        student: the student.
        teacher: the teacher.
        seed: seed of the projections' initial weights.

    Returns:
        Name -> term; the name is the kind, with a number if the name is already in use.

    Raises:
        ModelError: see `Term`.
    """
    terms: dict[str, Term] = {}
    loss = HEAD_LOSSES[task_of(student)]
    # The blend uses two names, such as kl and ce.
    uses = {loss.soft_term: 1, loss.gold_term: 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for config in configs:
            term = Term(config, student, teacher)
            uses[term.kind] = uses.get(term.kind, 0) + 1
            terms[term.kind if uses[term.kind] == 1 else f"{term.kind}_{uses[term.kind]}"] = term
    return terms


def distillation(
    params: Distill,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    stored: Source,
    *,
    device: torch.device,
    precision: Precision,
    seed: int,
    teacher_rows: TokenDataset | None = None,
    mapping: PositionMapping | None = None,
) -> Distillation:
    """Build the objective that a `distill` section describes.

    Args:
        params: temperature, alpha and terms.
        student: the student.
        teacher: the teacher, which runs only if a term needs outputs that are not stored.
        stored: the teacher's stored outputs, at least its logits.
        device: device of the run.
        precision: number format of the run.
        seed: seed of the projections' initial weights.
        teacher_rows: the teacher's token ids of the student's rows, in the same order; None if both have the same.
        mapping: mapping of the student's positions to the teacher's; only for tasks that answer at positions of a
            text and with `teacher_rows`.

    Raises:
        ModelError: see `Term`; also if a term compares token by token, but the models have different tokens.
        SignalError: neither store nor teacher can provide what a term needs.
    """
    if teacher_rows is not None:
        _check_comparable(params, [] if mapping is None else ON_VECTORS)
    terms = make_terms(params.terms, student, teacher, seed)
    covered = stored.supports(teacher_needs(terms))
    source = stored if covered else FallbackSource((stored, LiveTeacher(teacher, device, precision)))
    if mapping is not None and teacher_rows is not None:
        source = mapped_source(source, teacher_rows, mapping)
    elif teacher_rows is not None:
        source = TeacherTokensSource(source, teacher_rows)
    if params.mixup is not None:
        source = MixupSource(source, LiveTeacher(teacher, device, precision))
    return Distillation(source, Blend(params.temperature, params.alpha, task_of(student)), terms)


def teacher_needs(terms: Mapping[str, Term]) -> Needs:
    """Return what terms together need of a teacher beyond logits."""
    return _union(term.teacher_needs for term in terms.values())


def _union(needs: Iterable[Needs]) -> Needs:
    return reduce(or_, needs, LOGITS)


def _check_comparable(params: Distill, row_terms: Sequence[str]) -> None:
    """Refuse mixup and terms that cannot compare a student and a teacher with different tokenizers."""
    if params.mixup is not None:
        raise ModelError(
            "mixup blends rows token by token, but student and teacher have different tokenizers and split texts "
            "differently; set distill.mixup to null"
        )
    kinds: list[str] = [config.kind for config in params.terms]
    by_row = next((kind for kind in kinds if kind in row_terms), None)
    if by_row is not None:
        raise ModelError(
            f"the loss term {by_row} compares row by row, but student and teacher have different tokenizers and cut "
            "long texts into different windows; remove it from distill.terms"
        )
    by_token = next((kind for kind in kinds if kind in BY_TOKEN), None)
    if by_token is not None:
        raise ModelError(
            f"the loss term {by_token} compares token by token, but student and teacher have different tokenizers and "
            "split texts differently; remove it from distill.terms, or take terms on logits or on whole texts (kl, "
            "ce, mse, dist, pkd, rkd, contrastive)"
        )


def _check_source(name: str, term: Term, source: Source) -> None:
    if not source.supports(term.teacher_needs):
        needs = term.teacher_needs
        kinds = {"queries, keys and values": needs.attention, "hidden states": needs.hidden, "vectors": needs.vectors}
        missing = next(kind for kind, layers in kinds.items() if layers)
        raise SignalError(
            f"the loss term {name} needs the teacher's {missing}, which {source.name} cannot give; "
            "store them (signals.hidden, .attention, .vectors), train with a live teacher, or remove the term from "
            "distill.terms"
        )


def _on(device: torch.device, outputs: Outputs) -> Outputs:
    """Move outputs to a device."""
    return Outputs(
        outputs.logits.to(device),
        {number: states.to(device) for number, states in outputs.hidden.items()},
        {number: SelfAttention(*(part.to(device) for part in parts)) for number, parts in outputs.attention.items()},
        {number: SentenceVectors(*(part.to(device) for part in parts)) for number, parts in outputs.vectors.items()},
        None if outputs.mask is None else outputs.mask.to(device),
        None if outputs.ensemble is None else outputs.ensemble.to(device),
    )
