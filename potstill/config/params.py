"""All sections together, and combinations of them that are impossible."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from potstill.config.alerts_params import Alerts
from potstill.config.base import Project, Strict
from potstill.config.behaviour_params import TEST_NAMES
from potstill.config.compute_params import Compute
from potstill.config.distill_params import BY_TOKEN, Control, Distill, Finetune, General, Proof
from potstill.config.evaluation_params import Evaluate, Export, Quantize
from potstill.config.expressions import expression_names
from potstill.config.ingest_params import Ingest, ScratchSource
from potstill.config.notify_params import Notify
from potstill.config.predict_params import Predict
from potstill.config.prepare_params import LabelOrder, LabelSign, Prepare
from potstill.config.promotion_params import Gate, Promote, Schedule, Servers, Sign, Smoke
from potstill.config.search_params import Search
from potstill.config.serving_params import Serve, Watch
from potstill.config.stream_params import Stream
from potstill.config.teacher_params import Member, Pretrain, Signals, Teacher
from potstill.config.tokenize_params import BudgetedTokenize, FileBudget, Tokenize
from potstill.config.validate_params import Validate
from potstill.kinds.definitions.task_kinds import KINDS


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
    quantize: Quantize = Quantize()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    promote: Promote = Promote()
    sign: Sign = Sign()
    search: Search = Search()
    serve: Serve = Serve()
    watch: Watch = Watch()
    predict: Predict = Predict()
    stream: Stream = Stream()
    alerts: Alerts = Alerts()
    smoke: Smoke = Smoke()
    compute: Compute = Compute()
    schedule: Schedule = Schedule()
    notify: Notify = Notify()
    servers: Servers = Servers()

    def section(self, name: str) -> Strict:
        """The section of that name, which the stage of the same name receives."""
        if name == "tokenize" and self.gate.max_file_mb is not None and self._fits_vocabulary:
            budget = FileBudget(
                max_file_mb=self.gate.max_file_mb,
                embedding_bits=self.export.embedding_bits,
                layers=self.distill.layers,
                student=self.distill.student,
                prune=self.distill.prune,
            )
            return BudgetedTokenize(**dict(self.tokenize), budget=budget)
        return getattr(self, "validate_" if name == "validate" else name)  # type: ignore[no-any-return]

    @property
    def _fits_vocabulary(self) -> bool:
        """Whether the size of the student's file decides how many tokens it has."""
        return self.tokenize.vocabulary is not None and self.tokenize.vocabulary.max_tokens == "auto"

    @model_validator(mode="after")
    def _tables_name_sources(self) -> Self:
        for table in self.prepare.tables:
            if table.source not in self.ingest.data:
                known = ", ".join(self.ingest.data)
                raise ValueError(f"prepare.tables: source {table.source!r} is not under ingest.data ({known})")
        augment = self.prepare.augment
        if augment is not None and augment.replacements and self.ingest.generator is None:
            raise ValueError(
                f"prepare.augment.replacements is {augment.replacements}, but no model predicts them; name a masked "
                "language model as ingest.generator"
            )
        if isinstance(self.prepare.label, LabelSign) and self.prepare.label.negative == self.prepare.label.positive:
            raise ValueError("prepare.label: negative and positive are the same label")
        if isinstance(self.prepare.label, LabelOrder) and self.prepare.label.first == self.prepare.label.second:
            raise ValueError("prepare.label: first and second are the same label")
        return self

    @model_validator(mode="after")
    def _limits_fit_the_task(self) -> Self:
        task, data = self.prepare.task, self.validate_
        kind = KINDS[task]
        for name in dict.fromkeys(limit for other in KINDS.values() for limit in other.limits):
            if name not in kind.limits and getattr(self.gate, name) is not None:
                tasks = [other.name for other in KINDS.values() if name in other.limits]
                raise ValueError(
                    f"gate.{name} is for {' and '.join(tasks)}, but prepare.task is {task}; set it to null "
                    "(min_score is for every task)"
                )
        if kind.form != "number" and data.target is not None:
            raise ValueError(
                f"validate.target bounds the numbers of a regression, but prepare.task is {task}; remove it"
            )
        for name in {"min_per_class", "max_class_share"} & data.model_fields_set:
            if not kind.has_classes and getattr(data, name) is not None:
                raise ValueError(f"validate.{name} is for classes, but a {task} task has none; set it to null")
        return self

    @model_validator(mode="after")
    def _evaluation_fits_the_task(self) -> Self:
        kind = KINDS[self.prepare.task]
        if self.evaluate.abstention is not None and kind.no_confidence:
            fitting = [name for name, fitting_kind in KINDS.items() if not fitting_kind.no_confidence]
            raise ValueError(
                f"evaluate.abstention is given, but prepare.task is {kind.name}, {kind.no_confidence}; set it to null "
                f"(it is for {', '.join(fitting)})"
            )
        if self.evaluate.slices.label is True and kind.form == "number":
            raise ValueError(
                "evaluate.slices.label is true, but a regression has no classes; divide its numbers by "
                "evaluate.slices.expressions: `label < 2`"
            )
        self._check_slice_columns()
        return self

    def _check_slice_columns(self) -> None:
        """Refuse a slice on a column that the test split will not have."""
        slices = self.evaluate.slices
        keep_columns = self.prepare.keep_columns
        # An expression can compare a label that is one value.
        has_one_value = KINDS[self.prepare.task].form in ("class", "number")
        split_columns = ["length", "text", *["text_pair"] * self.prepare.pair, *["label"] * has_one_value]
        used = [("columns", column, keep_columns) for column in slices.columns]
        for name, expression in slices.expressions.items():
            columns = [*split_columns, *keep_columns]
            used += [(f"expressions.{name}", column, columns) for column in expression_names(expression)]
        for key, column, available in used:
            if column not in available:
                raise ValueError(
                    f"evaluate.slices.{key} names the column {column!r}, but there is "
                    f"{', '.join(available) or 'none'}; prepare.keep_columns keeps further columns of the data"
                )

    @model_validator(mode="after")
    def _behaviour_fits_the_task(self) -> Self:
        kind = KINDS[self.prepare.task]
        behaviour = self.evaluate.behaviour
        for name in behaviour.tests or ():
            if name in kind.unfit_perturbations:
                fitting = [test for test in TEST_NAMES if test not in kind.unfit_perturbations]
                raise ValueError(
                    f"evaluate.behaviour.tests names {name}, which says nothing about a {kind.name} task; choose from "
                    f"{', '.join(fitting)}"
                )
        if behaviour.negated_labels and kind.form != "class":
            raise ValueError(
                f"evaluate.behaviour.negated_labels is for single_label, but prepare.task is {kind.name}; set it to []"
            )
        if behaviour.templates is not None and kind.marks_spans:
            raise ValueError(
                f"evaluate.behaviour.templates is for tasks about labels, but prepare.task is {kind.name}; set it to "
                "null"
            )
        return self

    @model_validator(mode="after")
    def _judged_controls_are_trained(self) -> Self:
        for key in ("must_beat", "slice_rivals"):
            if "initialised" in getattr(self.gate, key) and not self.control.initialised:
                raise ValueError(
                    f"gate.{key} names initialised, but control.initialised is false; set it to true, or leave that "
                    "control out of the gate"
                )
        return self

    @model_validator(mode="after")
    def _abstaining_has_a_threshold(self) -> Self:
        if self.serve.abstain and self.evaluate.abstention is None:
            raise ValueError(
                "serve.abstain is true, but evaluate.abstention is null, which finds its threshold; set that to {}, or "
                "serve.abstain to false"
            )
        if self.serve.abstain and self.gate.min_coverage is None:
            raise ValueError(
                "serve.abstain is true, but gate.min_coverage is null, so that a candidate without a threshold would "
                "pass; set it to the share of texts to answer (0 asks for a threshold alone), or serve.abstain to false"
            )
        return self

    @model_validator(mode="after")
    def _gates_have_evidence(self) -> Self:
        gate = self.gate
        behaviour = self.evaluate.behaviour
        if gate.min_advantage is not None and self.quantize.teacher is False:
            raise ValueError(
                "gate.min_advantage compares with the quantized teacher, but quantize.teacher is false; set it to "
                "auto, or gate.min_advantage to null"
            )
        if gate.min_coverage is not None and self.evaluate.abstention is None:
            raise ValueError(
                "gate.min_coverage is given, but evaluate.abstention is null; set it to {}, or this to null"
            )
        if "tfidf" in gate.must_beat and KINDS[self.prepare.task].marks_spans:
            raise ValueError(
                f"gate.must_beat names tfidf, but prepare.task is {self.prepare.task}, for which TF-IDF has no "
                "answers; remove it"
            )
        for name in gate.max_behaviour_failure:
            # A test that is not Potstill's may be in the file of templates.
            chosen = TEST_NAMES if behaviour.tests is None else behaviour.tests
            fits = name in chosen and name not in KINDS[self.prepare.task].unfit_perturbations
            if not fits and (name in TEST_NAMES or behaviour.templates is None):
                raise ValueError(
                    f"gate.max_behaviour_failure names {name!r}, which is no test of evaluate.behaviour; correct the "
                    "name, or add the test"
                )
        return self

    @model_validator(mode="after")
    def _spans_need_a_student_with_layers(self) -> Self:
        if KINDS[self.prepare.task].marks_spans and self.distill.student.kind == "static":
            raise ValueError(
                "distill.student.kind static is for tasks about whole texts, but prepare.task is "
                f"{self.prepare.task}; choose another kind"
            )
        return self

    @model_validator(mode="after")
    def _static_students_have_no_layers(self) -> Self:
        if self.distill.student.kind != "static":
            return self
        for name, plan in (("finetune", self.finetune), ("control", self.control)):
            key = next((key for key in ("lora", "freeze_layers") if getattr(plan, key)), None)
            if key is not None:
                raise ValueError(f"{name}.{key} needs layers, but distill.student.kind is static; remove it")
        return self

    @model_validator(mode="after")
    def _teachers_are_described(self) -> Self:
        if self.ingest.teachers.keys() != self.teacher.members.keys():
            raise ValueError(
                f"ingest.teachers ({', '.join(self.ingest.teachers) or 'none'}) and teacher.members "
                f"({', '.join(self.teacher.members) or 'none'}) have to name the same teachers"
            )
        task = self.prepare.task
        kind = KINDS[task]
        teachers: dict[str, Teacher | Member] = {"teacher": self.teacher}
        teachers |= {f"teacher.members.{name}": member for name, member in self.teacher.members.items()}
        for key, teacher in teachers.items():
            if teacher.labels is not None and kind.form != "labels":
                raise ValueError(f"{key}.labels is for multi_label tasks, but prepare.task is {task}; set it to null")
            if teacher.label_map is not None and not kind.has_classes:
                raise ValueError(f"{key}.label_map maps labels, but a {task} task has none; set it to null")
        if self.distill.mixup is not None and (self.teacher.members or self.teacher.seeds > 1):
            raise ValueError(
                "distill.mixup runs one teacher on blends of rows, but there are several teachers; set it to null, or "
                "teacher.seeds to 1 and teacher.members to {}"
            )
        return self

    @model_validator(mode="after")
    def _bases_fit(self) -> Self:
        if isinstance(self.ingest.teacher, ScratchSource):
            if self.teacher.fine_tuned:
                raise ValueError(
                    "teacher.fine_tuned is true, but ingest.teacher is trained from scratch; set it to false"
                )
            if self.tokenize.max_length > self.pretrain.max_length:
                raise ValueError(
                    f"tokenize.max_length is {self.tokenize.max_length}, but the encoder trained from scratch has "
                    f"{self.pretrain.max_length} positions; set pretrain.max_length to at least that"
                )
        if self.general.layers is None:
            return self
        if self.general.layers != self.distill.layers:
            raise ValueError(
                f"general.layers is {self.general.layers}, but distill.layers is {self.distill.layers}; make them "
                "equal, since the student of distill starts from that of general"
            )
        if self.distill.assistants or self.distill.mutual is not None:
            raise ValueError(
                "general.layers is set, but with distill.assistants or distill.mutual students start from the layers "
                "of a teacher; set general.layers to null"
            )
        if self.distill.student.kind != "layers":
            raise ValueError(
                f"general.layers is set, but distill.student.kind is {self.distill.student.kind}, which starts from "
                "other weights; set general.layers to null"
            )
        return self

    @model_validator(mode="after")
    def _checkpoint_has_a_source(self) -> Self:
        kind = self.distill.student.kind
        if kind == "checkpoint" and self.ingest.student is None:
            raise ValueError("distill.student.kind is checkpoint, but no model is given; name it as ingest.student")
        if kind != "checkpoint" and self.ingest.student is not None:
            raise ValueError(
                f"ingest.student names a model, but distill.student.kind is {kind}; set distill.student to "
                "{kind: checkpoint} or remove ingest.student"
            )
        return self

    @model_validator(mode="after")
    def _compare_the_same_tokens(self) -> Self:
        by_token = next((term.kind for term in self.distill.terms if term.kind in BY_TOKEN), None)
        if self.tokenize.vocabulary is not None and by_token is not None:
            raise ValueError(
                f"distill.terms: {by_token} compares token by token, but a student with its own vocabulary splits "
                "texts into other tokens than its teacher; remove the term or set tokenize.vocabulary to null"
            )
        if self._fits_vocabulary and self.gate.max_file_mb is None:
            raise ValueError(
                "tokenize.vocabulary.max_tokens is auto, which fits the student's file to gate.max_file_mb, but that "
                "is null; set it to a number of megabytes, or max_tokens to a number of tokens"
            )
        vocabulary = self.tokenize.vocabulary
        if self.distill.student.kind == "static" and vocabulary is not None and vocabulary.rank is not None:
            raise ValueError(
                "tokenize.vocabulary.rank is for students with layers, but distill.student.kind is static; set "
                "distill.student.dimensions instead"
            )
        if self.distill.mixup is not None and (self.tokenize.vocabulary or self.ingest.student) is not None:
            raise ValueError(
                "distill.mixup blends rows token by token, but a student with its own vocabulary splits texts into "
                "other tokens than its teacher; set distill.mixup to null, or tokenize.vocabulary and ingest.student"
            )
        return self
