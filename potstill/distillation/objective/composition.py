"""The objective of distillation: the loss on logits and the terms that params add to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from potstill.config.base import TaskKind
from potstill.config.distill_params import BY_TOKEN, Distill
from potstill.config.term_params import TermBase
from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.distillation.losses.tensors import SelfAttention, SentenceVectors
from potstill.distillation.objective.balancing import Balancer, Schedule
from potstill.distillation.objective.gold_labels import Objective, Terms, Window
from potstill.distillation.objective.supervision import HEAD_LOSSES, HeadLoss, gold_rows
from potstill.distillation.objective.terms import ON_VECTORS, Both, Term
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs, answers_of
from potstill.distillation.teachers.position_mapping import Places, across
from potstill.distillation.teachers.providers import FirstAble, LiveTeacher, LiveWhereMixed, OwnTokens, Source
from potstill.errors import ModelError, SignalError
from potstill.pretrained.heads import task_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from potstill.compute.precision import Precision


@dataclass(frozen=True)
class Blend:
    """alpha * T^2 * KL(teacher || student) + (1 - alpha) * CE (Hinton et al. 2015), row by row.

    For other tasks than one class of several, the task's own losses take the place of KL and CE. A row without a gold
    label carries the teacher's signal with weight 1, so that an unlabelled row teaches as much as a labelled one.

    Attributes:
        temperature: T.
        alpha: weight of the teacher on rows with a gold label.
        task: decides the two losses.
    """

    temperature: float
    alpha: float
    task: TaskKind = "single_label"

    @property
    def loss(self) -> HeadLoss:
        """The task's two losses."""
        return HEAD_LOSSES[self.task]

    @property
    def names(self) -> tuple[str, str]:
        """What its terms are called."""
        return self.loss.soft_term, self.loss.gold_term

    def __call__(self, both: Both) -> Terms:
        """The two weighted terms of a batch."""
        ours, theirs, loss = both.student.logits, both.teacher.at(self.temperature, self.task), self.loss
        gold = gold_rows(both.labels).float()
        soft = (1 - (1 - self.alpha) * gold) * loss.soft(ours, theirs, self.temperature)
        hard = (1 - self.alpha) * loss.gold(ours, both.labels)
        return {loss.soft_term: soft.sum() / both.window.answers, loss.gold_term: hard.sum() / both.window.answers}

    def describe(self) -> str:
        """The blend as the user reads it."""
        soft, gold = self.loss.formula(self.temperature), self.loss.gold_term.upper()
        return f"{self.alpha:g} * {soft} + {1 - self.alpha:g} * {gold}"


class OnLogits(Protocol):
    """The losses on logits, weighted: `Blend`, or what a task puts in its place."""

    @property
    def names(self) -> tuple[str, str]:
        """What its terms are called: on the teacher, and on gold labels."""

    def __call__(self, both: Both) -> Terms:
        """The weighted terms of a batch."""

    def describe(self) -> str:
        """One line for the user."""


class Distillation(Objective):
    """A blend on logits plus weighted terms, against one source of teacher outputs.

    Args:
        source: gives the teacher's outputs, whatever their origin; not a part of this module.
        blend: the loss on logits; None: the terms alone.
        terms: name -> term.

    Attributes:
        asks: what the terms together ask of the teacher beside logits.

    Raises:
        SignalError: the source cannot give what a term needs.
        ParamsError: without a blend, no term keeps a weight to the end of the run.
    """

    def __init__(self, source: Source, blend: OnLogits | None, terms: Mapping[str, Term] | None = None) -> None:
        super().__init__()
        self._source, self._blend = source, blend
        self.terms = nn.ModuleDict(dict(terms or {}))
        self._named: dict[str, Term] = dict(terms or {})
        self.asks = teacher_needs(self._named)
        for name, term in self._named.items():
            _check_source(name, term, source)
        schedules = {} if blend is None else {name: Schedule(1.0) for name in blend.names}
        self._balancer = Balancer(schedules | {name: term.schedule for name, term in self._named.items()})

    def needs(self, step: int, total: int) -> Needs:
        """What the terms that weigh something at this step ask of the student."""
        return _union(term.student_needs for term in self._active(step, total).values())

    def forward(self, outputs: Outputs, batch: Batch, window: Window) -> Terms:
        """The weighted terms of a batch."""
        active = self._active(window.step, window.total)
        device = outputs.logits.device
        teacher = self._source(batch, _union(term.teacher_needs for term in active.values()))
        ids, mask, labels = (
            torch.from_numpy(array).to(device) for array in (batch.input_ids, batch.attention_mask, batch.labels)
        )
        student, teacher = answers_of(outputs, batch), answers_of(_on(device, teacher), batch)
        both = Both(student, teacher, ids, mask, labels, window)
        found = {} if self._blend is None else self._blend(both)
        found |= {name: term(both) for name, term in active.items()}
        return self._balancer(found, window.step, window.total)

    def describe(self) -> list[str]:
        """One line for the blend and one for each term."""
        lines = [] if self._blend is None else [self._blend.describe()]
        return lines + [f"+ {term.describe()}" for term in self._named.values()]

    def _active(self, step: int, total: int) -> dict[str, Term]:
        return {name: term for name, term in self._named.items() if term.schedule.at(step, total) > 0}


def make_terms(
    configs: Sequence[TermBase], student: PreTrainedModel, teacher: PreTrainedModel, seed: int
) -> dict[str, Term]:
    """The terms of params between two models, by name: the kind, numbered where it is there already.

    Args:
        configs: entries of `distill.terms`.
        student: the student.
        teacher: the teacher.
        seed: of the projections' first weights; torch's own random state stays as it is.

    Raises:
        ModelError: see `Term`.
    """
    terms: dict[str, Term] = {}
    # The blend's terms, as kl and ce.
    loss = HEAD_LOSSES[task_of(student)]
    taken = {loss.soft_term: 1, loss.gold_term: 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for config in configs:
            term = Term(config, student, teacher)
            taken[term.kind] = taken.get(term.kind, 0) + 1
            terms[term.kind if taken[term.kind] == 1 else f"{term.kind}_{taken[term.kind]}"] = term
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
    places: Places | None = None,
) -> Distillation:
    """The objective that a `distill` section describes.

    Args:
        params: temperature, alpha and terms.
        student: the student.
        teacher: runs, on the device, only where a term needs what is not stored.
        stored: the teacher's logits, all that the blend asks for, and what else is stored of its layers.
        device: of the run.
        precision: of the run.
        seed: see `make_terms`.
        teacher_rows: the teacher's token ids of the student's rows, in the same order; None: both have the same.
        places: where answers are places in a text, where those to the student's rows are among the teacher's.

    Raises:
        ModelError: see `Term`; also a term that compares token by token where the tokens are not the same.
        SignalError: neither source can give what a term needs.
    """
    if teacher_rows is not None:
        _check_no_tokens_meet(params, [] if places is None else ON_VECTORS)
    terms = make_terms(params.terms, student, teacher, seed)
    covered = stored.supports(teacher_needs(terms))
    source = stored if covered else FirstAble((stored, LiveTeacher(teacher, device, precision)))
    if teacher_rows is not None:
        source = OwnTokens(source, teacher_rows) if places is None else across(source, teacher_rows, places)
    if params.mixup is not None:
        source = LiveWhereMixed(source, LiveTeacher(teacher, device, precision))
    return Distillation(source, Blend(params.temperature, params.alpha, task_of(student)), terms)


def teacher_needs(terms: Mapping[str, Term]) -> Needs:
    """What all terms together ask of a teacher beside logits."""
    return _union(term.teacher_needs for term in terms.values())


def _union(needs: Iterable[Needs]) -> Needs:
    return reduce(or_, needs, LOGITS)


def _check_no_tokens_meet(params: Distill, others: Sequence[str]) -> None:
    if params.mixup is not None:
        raise ModelError(
            "mixup blends rows token by token, but student and teacher have tokenizers of their own and split texts "
            "differently; set distill.mixup to null"
        )
    kinds: list[str] = [config.kind for config in params.terms]
    by_row = next((kind for kind in kinds if kind in others), None)
    if by_row is not None:
        raise ModelError(
            f"the loss term {by_row} compares row by row, but student and teacher have tokenizers of their own and "
            "read long texts in other windows; remove it from distill.terms"
        )
    by_token = next((kind for kind in kinds if kind in BY_TOKEN), None)
    if by_token is not None:
        raise ModelError(
            f"the loss term {by_token} compares token by token, but student and teacher have tokenizers of their own "
            "and split texts differently; remove it from distill.terms, or take terms on logits or on whole texts (kl, "
            "ce, mse, dist, pkd, rkd, contrastive)"
        )


def _check_source(name: str, term: Term, source: Source) -> None:
    if not source.supports(term.teacher_needs):
        needs = term.teacher_needs
        what = "queries, keys and values" if needs.attention else "hidden states" if needs.hidden else "vectors"
        raise SignalError(
            f"the loss term {name} needs the teacher's {what}, which {source.name} cannot give; "
            "store them (signals.hidden, .attention, .vectors), train with a live teacher, or remove the term from "
            "distill.terms"
        )


def _on(device: torch.device, outputs: Outputs) -> Outputs:
    """The same outputs on a device."""
    return Outputs(
        outputs.logits.to(device),
        {number: states.to(device) for number, states in outputs.hidden.items()},
        {number: SelfAttention(*(part.to(device) for part in parts)) for number, parts in outputs.attention.items()},
        {number: SentenceVectors(*(part.to(device) for part in parts)) for number, parts in outputs.vectors.items()},
        None if outputs.mask is None else outputs.mask.to(device),
        None if outputs.ensemble is None else outputs.ensemble.to(device),
    )
