"""Sections `general`, `distill`, `finetune`, `control` and `proof`."""

from __future__ import annotations

import itertools
from typing import Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import Layers, LearningRate, Share, Strict
from potstill.config.student_params import LayersStudent, Prune, StudentKind
from potstill.config.term_params import CosineTerm, LayerTerm, RelationsTerm, Temperature, Term
from potstill.config.training_params import Mixup, Training

# Losses that compare states token by token: student and teacher have to split texts into the same tokens.
BY_TOKEN = ("cosine", "hidden", "attention", "relations")


class MaskedTerm(Strict):
    """The loss on the predictions of masked tokens, for a base that was saved with a masked language model's head.

    `kl` · T² · KL(teacher || student at T) + `ce` · CE with the masked tokens (DistilBERT).
    """

    kl: NonNegativeFloat = 1.0
    """Weight of the KL divergence from the base's predictions."""
    ce: NonNegativeFloat = 0.5
    """Weight of the cross-entropy with the masked tokens."""
    temperature: Temperature = 2.0
    """Temperature T that softens the predictions."""
    masked: float = Field(0.15, gt=0, le=0.5)
    """Share of the tokens to predict. Of these 80% are masked, 10% are replaced at random, and 10% stay."""

    @model_validator(mode="after")
    def _weigh_something(self) -> Self:
        if not self.kl + self.ce:
            raise ValueError("kl and ce are both 0; give one a weight, or set masked_lm to null")
        return self


class General(Training):
    """General distillation: before there is a task, layers of the base learn its states on raw texts.

    The texts are those of train and transfer, without labels. The student of `distill` then starts from the result.
    """

    layers: Layers | None = None
    """The base's layers that the student starts from, equal to distill.layers. null: no general distillation."""
    epochs: PositiveInt = 3
    """Passes over the texts."""
    learning_rate: LearningRate = 1e-4
    """Highest learning rate, reached at the end of the warm-up."""
    terms: list[Term] = [RelationsTerm(kind="relations"), CosineTerm(kind="cosine")]
    """Losses to minimise, as in distill.terms. Only losses between layers, since there is no task yet."""
    masked_lm: MaskedTerm | None = None
    """Add a loss on the predictions of masked tokens. null: none."""
    held_out: float = Field(0.02, gt=0, lt=1)
    """Share of the texts held out to choose the best weights by."""

    @model_validator(mode="after")
    def _compare_layers_only(self) -> Self:
        on_logits = [term.kind for term in self.terms if not isinstance(term, LayerTerm)]
        if on_logits:
            raise ValueError(
                f"the term {on_logits[0]} compares logits of a task, but general distillation has no task; use terms "
                "between layers, or masked_lm"
            )
        return self


class Mutual(Strict):
    """Students that teach each other (Zhang et al. 2018): T² · KL(mean of the others || student at T) is added.

    All learn on the same batches. The best one on dev is kept, and the scores of the others are reported.
    """

    students: list[Layers]
    """Layers of each student, in the teacher. There are at least two; one of them is distill.layers."""
    weight: PositiveFloat = 1.0
    """Weight of what the others teach, next to each student's own loss."""
    temperature: Temperature | None = None
    """Temperature T of what the others teach. null: distill.temperature."""
    teacher: bool = True
    """Whether the teacher teaches them too. false: their own loss is that on gold labels."""

    @model_validator(mode="after")
    def _take_two(self) -> Self:
        if len(self.students) < 2:
            raise ValueError(f"students is {self.students}, but it takes at least two to teach each other")
        return self


class Distill(Training):
    """Distillation: alpha · T² · KL(teacher || student at T) + (1 - alpha) · CE on rows with a gold label, plus terms.

    Other tasks than single labels have losses of their own in its place.
    """

    layers: Layers
    """Layers that the student starts from, in order and counted from 0: the teacher's, or those of ingest.student."""
    student: StudentKind = LayersStudent(kind="layers")
    """What the student is made of."""
    prune: Prune | None = None
    """Make the student narrower before it learns. null: keep its widths."""
    temperature: Temperature = 2.0
    """Temperature T that softens the logits."""
    alpha: Share = 0.9
    """Weight of the teacher; gold labels have 1 - alpha. Rows without a gold label have weight 1."""
    terms: list[Term] = []
    """Further losses, added to that on logits. Losses between layers run the teacher live, unless signals stores what
    they need."""
    transfer: bool = True
    """Whether the student learns from the transfer rows too."""
    mixup: Mixup | None = None
    """Add a pass on blends of rows to each step. null: none."""
    assistants: list[Layers] = []
    """Layers of students in between (Mirzadeh et al. 2020), counted in the teacher. Each is distilled from the one
    before, and the last one teaches the student. A list takes its layers from the list before."""
    mutual: Mutual | None = None
    """Several students that teach each other. null: one student."""

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
        self._refuse_other_students("assistants", enabled=bool(self.assistants))
        if self.assistants and any(isinstance(term, LayerTerm) and term.layers is not None for term in self.terms):
            raise ValueError(
                "terms name layers, but each assistant has different ones; remove the layers of the terms (the last "
                "layers are compared then) or the assistants"
            )
        return self

    @model_validator(mode="after")
    def _fit_mutual(self) -> Self:
        if self.mutual is None:
            return self
        self._refuse_other_students("mutual", enabled=True)
        if self.assistants:
            raise ValueError("assistants and mutual exclude each other; set only one of them")
        changed = [key for key in ("adversarial", "mixup") if getattr(self, key) is not None]
        changed += [key for key in ("compile", "packing") if getattr(self, key) is True]
        if changed:
            raise ValueError(
                f"mutual trains several students on a batch, which {changed[0]} does not support; set {changed[0]} to "
                f"{'null' if changed[0] in ('adversarial', 'mixup') else 'auto'}, or mutual to null"
            )
        if self.layers not in self.mutual.students:
            raise ValueError(
                f"mutual.students is {self.mutual.students} without layers ({self.layers}), from which the control is "
                "made; add these to students, or set layers to those of one student"
            )
        if not self.mutual.teacher and self.terms:
            raise ValueError(
                "terms compare with the teacher, but mutual.teacher is false; set it to true, or terms to []"
            )
        return self

    def _refuse_other_students(self, key: str, *, enabled: bool) -> None:
        if enabled and self.student.kind not in ("layers", "distilbert"):
            raise ValueError(
                f"{key} takes students made of a teacher's layers, but student.kind is {self.student.kind}; set "
                "student to {kind: layers}"
            )

    @model_validator(mode="after")
    def _static_has_no_layers(self) -> Self:
        if self.student.kind != "static":
            return self
        needs_layers = [f"terms ({term.kind})" for term in self.terms if isinstance(term, LayerTerm)]
        needs_layers += [key for key in ("prune", "lora", "freeze_layers") if getattr(self, key)]
        needs_layers += ["packing"] if self.packing is True else []
        if needs_layers:
            raise ValueError(f"{needs_layers[0]} needs a student with layers, but student.kind is static; remove it")
        return self

    @model_validator(mode="after")
    def _compile_without_layer_terms(self) -> Self:
        layered = next((term for term in self.terms if isinstance(term, LayerTerm)), None)
        if self.compile is True and (self.mixup is not None or layered is not None):
            reason = "mixup changes" if layered is None else f"the term {layered.kind} reads layers in"
            raise ValueError(f"compile is true, but {reason} the model's forward pass; set compile to auto or false")
        return self


class Finetune(Training):
    """Short fine-tuning of the distilled student on gold labels; the result is kept only if dev improves."""

    epochs: NonNegativeInt
    """Passes over the labelled training rows. 0: the distilled weights stay as they are."""


class Control(Training):
    """Training of the controls on gold labels alone: the pretrained base's layers, and the teacher's."""

    initialised: bool = True
    """Whether the second control is trained too. It starts from the teacher's layers, so it shows what copying them
    alone gives. The first one, from the pretrained base, is always trained."""


class Proof(Strict):
    """Comparison of student and controls on the test split over several training seeds: does the teacher help?"""

    seeds: int = Field(1, ge=1, le=100)
    """Training seeds. The first is project.seed, whose student is served; for each further one a student and its
    controls are trained."""
