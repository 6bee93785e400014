"""All sections together, and the combinations that are impossible."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from potstill.config.base import OF_PLACES, Project, Strict
from potstill.config.distill_params import BY_TOKEN, Control, Distill, Finetune, General, Proof
from potstill.config.evaluation_params import Evaluate, Export
from potstill.config.ingest_params import Ingest, ScratchSource
from potstill.config.prepare_params import LabelOrder, LabelSign, Prepare
from potstill.config.promotion_params import GATE_TASKS, Gate, Promote, Schedule, Smoke
from potstill.config.search_params import Search
from potstill.config.serving_params import Serve, Watch
from potstill.config.teacher_params import Pretrain, Signals, Teacher
from potstill.config.tokenize_params import Tokenize
from potstill.config.validate_params import Validate


class Params(Strict):
    """The whole of `params.yaml`."""

    project: Project
    ingest: Ingest
    prepare: Prepare
    validate_: Annotated[Validate, Field(alias="validate")]
    pretrain: Pretrain = Pretrain()
    tokenize: Tokenize
    teacher: Teacher
    signals: Signals = Signals()
    general: General = General()
    distill: Distill
    finetune: Finetune
    control: Control
    proof: Proof = Proof()
    export: Export = Export()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    promote: Promote = Promote()
    search: Search = Search()
    serve: Serve = Serve()
    watch: Watch = Watch()
    smoke: Smoke = Smoke()
    schedule: Schedule = Schedule()

    def section(self, name: str) -> Strict:
        """The section a stage of that name receives."""
        return getattr(self, "validate_" if name == "validate" else name)  # type: ignore[no-any-return]

    @model_validator(mode="after")
    def _tables_name_sources(self) -> Self:
        for table in self.prepare.tables:
            if table.source not in self.ingest.data:
                known = ", ".join(self.ingest.data)
                raise ValueError(f"prepare.tables: source {table.source!r} is not under ingest.data ({known})")
        augment = self.prepare.augment
        if augment is not None and augment.replacements and self.ingest.generator is None:
            raise ValueError(
                f"prepare.augment.replacements is {augment.replacements}, but no model makes them; name a masked "
                "language model as ingest.generator"
            )
        if self.prepare.labels is not None and len(set(map(str, self.prepare.labels))) != len(self.prepare.labels):
            raise ValueError(f"prepare.labels: {self.prepare.labels} names a label twice")
        self._check_limits_of_the_task()
        if isinstance(self.prepare.label, LabelSign) and self.prepare.label.negative == self.prepare.label.positive:
            raise ValueError("prepare.label: negative and positive are the same label")
        if isinstance(self.prepare.label, LabelOrder) and self.prepare.label.first == self.prepare.label.second:
            raise ValueError("prepare.label: first and second are the same label")
        return self

    def _check_limits_of_the_task(self) -> None:
        """Refuse a limit that this task has no number for: it would be met, or missed, by none."""
        task, data = self.prepare.task, self.validate_
        for name, tasks in GATE_TASKS.items():
            if task not in tasks and getattr(self.gate, name) is not None:
                raise ValueError(
                    f"gate.{name} is for {' and '.join(tasks)}, prepare.task is {task}; set it to null "
                    "(min_score is of every task)"
                )
        if task != "regression" and data.target is not None:
            raise ValueError(f"validate.target bounds the numbers of a regression, prepare.task is {task}; remove it")
        for name in {"min_per_class", "max_class_share"} & data.model_fields_set:
            without = {"regression": "a regression has", "question_answering": "questions have"}.get(task)
            if without is not None and getattr(data, name) is not None:
                raise ValueError(f"validate.{name} is of classes, {without} none; set it to null")

    @model_validator(mode="after")
    def _places_have_a_student_that_reads_them(self) -> Self:
        if self.prepare.task in OF_PLACES and self.distill.student.kind == "static":
            raise ValueError(
                "distill.student of kind static is for tasks of whole texts, prepare.task is "
                f"{self.prepare.task}; take it back"
            )
        return self

    @model_validator(mode="after")
    def _teachers_are_described(self) -> Self:
        if self.ingest.teachers.keys() != self.teacher.members.keys():
            raise ValueError(
                f"ingest.teachers ({', '.join(self.ingest.teachers) or 'none'}) and teacher.members "
                f"({', '.join(self.teacher.members) or 'none'}) have to name the same teachers"
            )
        named = {"teacher": self.teacher} | {f"teacher.members.{key}": one for key, one in self.teacher.members.items()}
        place = next((place for place, one in named.items() if one.labels is not None), None)
        if place is not None and self.prepare.task != "multi_label":
            raise ValueError(
                f"{place}.labels says which of several labels a teacher answers, prepare.task is {self.prepare.task}; "
                "set it to null"
            )
        place = next((place for place, one in named.items() if one.label_map is not None), None)
        if place is not None and self.prepare.task in ("regression", "question_answering"):
            raise ValueError(f"{place}.label_map is of labels, a {self.prepare.task} has none; set it to null")
        if self.distill.mixup is not None and (self.teacher.members or self.teacher.seeds > 1):
            raise ValueError(
                "distill.mixup asks one live teacher about blends of rows, but there are several; set it to null, or "
                "teacher.seeds to 1 and teacher.members to {}"
            )
        return self

    @model_validator(mode="after")
    def _bases_fit(self) -> Self:
        if isinstance(self.ingest.teacher, ScratchSource):
            if self.teacher.fine_tuned:
                raise ValueError("teacher.fine_tuned is true, but ingest.teacher is made from scratch; set it to false")
            if self.tokenize.max_length > self.pretrain.max_length:
                raise ValueError(
                    f"tokenize.max_length is {self.tokenize.max_length}, but the encoder made from scratch has "
                    f"{self.pretrain.max_length} positions; set pretrain.max_length to at least that"
                )
        if self.general.layers is None:
            return self
        if self.general.layers != self.distill.layers:
            raise ValueError(
                f"general.layers are {self.general.layers} and distill.layers {self.distill.layers}; give both the "
                "same: the student of distill starts from the one of general"
            )
        if self.distill.assistants or self.distill.mutual is not None:
            raise ValueError(
                "general.layers are set, but with distill.assistants or distill.mutual students start from the layers "
                "of a teacher; set general.layers to null"
            )
        if self.distill.student.kind != "layers":
            raise ValueError(
                f"general.layers are set, but distill.student is of kind {self.distill.student.kind}, which starts "
                "from other weights; set general.layers to null"
            )
        return self

    @model_validator(mode="after")
    def _bring_the_student(self) -> Self:
        wanted, there = self.distill.student.kind == "checkpoint", self.ingest.student is not None
        if wanted and not there:
            raise ValueError("distill.student: kind checkpoint needs its model; name it under ingest.student")
        if there and not wanted:
            raise ValueError(
                f"ingest.student names a model, but distill.student is of kind {self.distill.student.kind}; set it to "
                "{kind: checkpoint} or remove ingest.student"
            )
        return self

    @model_validator(mode="after")
    def _compare_the_same_tokens(self) -> Self:
        by_token = next((term.kind for term in self.distill.terms if term.kind in BY_TOKEN), None)
        if self.tokenize.vocabulary is not None and by_token is not None:
            raise ValueError(
                f"distill.terms: {by_token} compares token by token, but a student with a vocabulary of its own splits "
                "texts otherwise than its teacher; remove the term or set tokenize.vocabulary to null"
            )
        vocabulary = self.tokenize.vocabulary
        if self.distill.student.kind == "static" and vocabulary is not None and vocabulary.rank is not None:
            raise ValueError(
                "tokenize.vocabulary.rank is of a table that layers read, but distill.student is of kind static; set "
                "distill.student.dimensions instead"
            )
        if self.distill.mixup is not None and (self.tokenize.vocabulary or self.ingest.student) is not None:
            raise ValueError(
                "distill.mixup blends rows token by token, but a student with a vocabulary of its own splits texts "
                "otherwise than its teacher; set distill.mixup to null, or tokenize.vocabulary and ingest.student"
            )
        return self
