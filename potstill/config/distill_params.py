"""Sections `general`, `distill`, `finetune`, `control` and `proof`."""

from __future__ import annotations

import itertools
from typing import Annotated, Self

from pydantic import Field, model_validator

from potstill.config.base import Positive, Share, Strict
from potstill.config.student_params import LayersStudent, Prune, StudentKind
from potstill.config.term_params import CosineTerm, LayerTerm, RelationsTerm, Temperature, Term
from potstill.config.training_params import Mixup, Training


class MaskedTerm(Strict):
    """The loss on a masked language model's answers where a token is masked, for a base that has such a head.

    `kl` * T^2 * KL(teacher || student at T) + `ce` * CE with the token that was there (DistilBERT).
    """

    kl: Annotated[float, Field(ge=0)] = 1.0
    ce: Annotated[float, Field(ge=0)] = 0.5
    temperature: Temperature = 2.0
    # As in `pretrain`.
    masked: Annotated[float, Field(gt=0, le=0.5)] = 0.15

    @model_validator(mode="after")
    def _weigh_something(self) -> Self:
        if not self.kl + self.ce:
            raise ValueError("kl and ce are both 0; give one a weight, or set masked_lm to null")
        return self


class General(Training):
    """General distillation, before any task: layers of the base learn its states on the texts of train and transfer.

    No label is used, and no text of dev or test. The student of `distill` then starts from the result.
    """

    # The base's layers the student starts from, as in `distill`; null: no general distillation.
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    epochs: Positive = 3
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    # As `distill.terms`; those on layers, since there is no task yet.
    terms: list[Term] = [RelationsTerm(kind="relations"), CosineTerm(kind="cosine")]
    masked_lm: MaskedTerm | None = None
    # Share of the texts held out to select the weights by.
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.02

    @model_validator(mode="after")
    def _compare_layers_only(self) -> Self:
        on_logits = [term.kind for term in self.terms if not isinstance(term, LayerTerm)]
        if on_logits:
            raise ValueError(
                f"the term {on_logits[0]} compares answers to a task, and general distillation has none; "
                "take terms on layers, or masked_lm"
            )
        return self


# They compare state with state, token by token: student and teacher have to split texts alike.
BY_TOKEN = ("cosine", "hidden", "attention", "relations")
Layers = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Mutual(Strict):
    """Students that teach each other: T^2 * KL(mean of the others || student at T) beside each one's own loss."""

    # Teacher layers of each student; one of them is distill.layers. The best on dev is kept.
    students: list[Layers]
    weight: Annotated[float, Field(gt=0)] = 1.0
    # null: distill.temperature.
    temperature: Temperature | None = None
    # Whether the teacher teaches them too; else each one's own loss is the gold labels'.
    teacher: bool = True

    @model_validator(mode="after")
    def _take_two(self) -> Self:
        if len(self.students) < 2:
            raise ValueError(f"students is {self.students}: it takes two students or more to teach each other")
        return self


class Distill(Training):
    """Distillation: alpha * T^2 * KL(teacher || student at T) + (1 - alpha) * CE on rows with a gold label, + terms."""

    # Layers the student starts from, in order, counted from 0: the teacher's, or the checkpoint's.
    layers: Layers
    student: StudentKind = LayersStudent(kind="layers")
    prune: Prune | None = None
    temperature: Temperature = 2.0
    # Weight of the teacher; rows without a gold label always carry 1.
    alpha: Share = 0.9
    # Losses that are added to it; those on layers run the teacher live.
    terms: list[Term] = []
    transfer: bool = True
    # A further pass on blends of the rows, which runs the teacher live; null: none.
    mixup: Mixup | None = None
    # Teacher layers of students in between, each distilled from the one before; the last one teaches the student.
    assistants: list[Layers] = []
    mutual: Mutual | None = None

    @model_validator(mode="after")
    def _nest_assistants(self) -> Self:
        chain = [*self.assistants, self.layers] if self.assistants else []
        for before, after in itertools.pairwise(chain):
            missing = [layer for layer in after if layer not in before]
            if missing:
                owner = "layers" if after is self.layers else "assistants"
                raise ValueError(
                    f"{owner} names layer {missing[0]} in {after}, but the assistant before it has only the teacher's "
                    f"layers {before}"
                )
        self._refuse_other_students("assistants", wanted=bool(self.assistants))
        if self.assistants and any(isinstance(term, LayerTerm) and term.layers is not None for term in self.terms):
            raise ValueError(
                "terms name layers, which are others from one assistant to the next; leave out their layers (the last "
                "with the last) or the assistants"
            )
        return self

    @model_validator(mode="after")
    def _fit_mutual(self) -> Self:
        if self.mutual is None:
            return self
        self._refuse_other_students("mutual", wanted=True)
        if self.assistants:
            raise ValueError("assistants and mutual exclude each other; set one of them")
        changed = [key for key in ("adversarial", "mixup") if getattr(self, key) is not None]
        changed += [key for key in ("compile", "packing") if getattr(self, key) is True]
        if changed:
            raise ValueError(
                f"mutual runs several students on a batch, which {changed[0]} cannot; set {changed[0]} to "
                f"{'null' if changed[0] in ('adversarial', 'mixup') else 'auto'}, or mutual to null"
            )
        if self.layers not in self.mutual.students:
            raise ValueError(
                f"mutual.students is {self.mutual.students} without layers ({self.layers}), which the control is "
                "made of; add them or set layers to one of the students'"
            )
        if not self.mutual.teacher and self.terms:
            raise ValueError("terms compare with the teacher; set mutual.teacher to true or terms to []")
        return self

    def _refuse_other_students(self, key: str, *, wanted: bool) -> None:
        if wanted and self.student.kind not in ("layers", "distilbert"):
            raise ValueError(
                f"{key} takes students of a teacher's layers, but student is of kind {self.student.kind}; set it to "
                "{kind: layers}"
            )

    @model_validator(mode="after")
    def _static_has_no_layers(self) -> Self:
        if self.student.kind != "static":
            return self
        layered = next((f"terms ({term.kind})" for term in self.terms if isinstance(term, LayerTerm)), None)
        asked = {"prune": self.prune, "lora": self.lora, "packing": self.packing is True or None}
        found = layered or next((key for key, value in asked.items() if value is not None), None)
        if found is not None:
            raise ValueError(f"{found} is of a student's layers, but one of kind static has none; take it back")
        return self

    @model_validator(mode="after")
    def _compile_what_no_term_looks_into(self) -> Self:
        layered = next((term for term in self.terms if isinstance(term, LayerTerm)), None)
        if self.compile is True and (self.mixup is not None or layered is not None):
            other = "mixup changes" if layered is None else f"the loss term {layered.kind} looks into"
            raise ValueError(f"compile is true, but {other} the model's passes; set compile to auto or false")
        return self


class Finetune(Training):
    """Short fine-tuning of the distilled student on gold labels; kept only if dev improves."""


class Control(Training):
    """The controls: the pretrained base's layers, and the teacher's, on gold labels for as long as that helps."""


class Proof(Strict):
    """Whether the teacher helps: student and controls over several training seeds, compared on the test split."""

    # The first is project.seed, whose student is served; each further one trains a student and both controls anew.
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
