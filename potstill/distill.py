"""Distillation from Python: your own teacher and texts in, a student and its scores out.

`distill` checks everything first; then it runs the same job as the pipeline's stage.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from potstill.config.distill_params import Distill
from potstill.config.params_file import parse_distill
from potstill.config.tokenize_params import Vocabulary
from potstill.config.yaml_file import parse_section
from potstill.data.tokens.batches import SPAN, Ints, Labels, TokenDataset, has_label, ragged
from potstill.data.tokens.in_memory import InMemoryRows, Label, Text, as_list, fast_tokenizer, tokenize_in_memory
from potstill.errors import LabelCountError, ModelError
from potstill.kinds.definitions.question_answering import best_tokens
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.offsets import IGNORED
from potstill.models.students.layer_choice import default_layers
from potstill.pretrained.heads import task_of
from potstill.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.compute.precision import Precision
    from potstill.distillation.teachers.given_teachers import Teacher
    from potstill.distillation.teachers.providers import Source
    from potstill.evaluation.teacher_check import Verdict
    from potstill.models.students.checkpoint import Checkpoint
    from potstill.training.distillation_job import DistillationData, TeacherAnswers
    from potstill.training.student_builder import StudentBuilder


@dataclass(frozen=True)
class Distilled:
    """What `distill` returns.

    Attributes:
        student: a model of transformers, in evaluation mode.
        tokenizer: the student's: that of the teacher or of the checkpoint, or a smaller one made from it.
        report: rows, and on dev: the student's `agreement` with the teacher (share of equal answers), `kl` to it in
            nats (numbers: `correlation` and `rmse`), and with gold labels the `accuracy` of the student and the
            `teacher_accuracy` (several labels: `micro_f1`; numbers: `r2`; entities: `f1`; answers: `f1` of the tokens
            of each window).
    """

    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    report: dict[str, float]

    def save_pretrained(self, folder: Path | str) -> None:
        """Write student and tokenizer as a folder that `transformers.pipeline` loads."""
        self.student.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def distill(
    teacher: Path | str | PreTrainedModel | Sequence[Path | str | PreTrainedModel],
    texts: Sequence[Text],
    labels: Sequence[Label] | None = None,
    *,
    weights: Sequence[float] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    layers: Sequence[int] | None = None,
    transfer: Sequence[Text] = (),
    dev: tuple[Sequence[Text], Sequence[Label] | None] | None = None,
    vocabulary: Mapping[str, Any] | None = None,
    general: Path | str | PreTrainedModel | None = None,
    max_length: int = 128,
    seed: int = 17,
    device: str = "auto",
    precision: str = "auto",
    **settings: Any,
) -> Distilled:
    """Train a student, made of some of a fine-tuned model's layers, on the teacher's answers.

    The teacher's class and config say what its answers are: one class of several, several labels (problem_type
    multi_label_classification), a number (problem_type regression, or one output), entities (ForTokenClassification,
    whose labels are BIO tags), or answers to questions about a context (ForQuestionAnswering).

    Args:
        teacher: a `save_pretrained` folder, or a loaded model, whose weights stay as they are. Several teach together:
            the student learns the mean of their softened probabilities, starts from the first one's layers and has its
            tokenizer. They have the same labels. Only teachers of several labels (multi_label) may name different
            ones: the student learns all, each label from those that name it.
        texts: training texts, or pairs of texts; for answers pairs of a question and its context. A list, an array or
            a column of a table (pandas, whatever its index).
        labels: their gold labels, as the teacher names them, or as it counts them where its names are no numbers
            (several labels: a list of those that hold, for each text; numbers: the number; entities: a list of
            [start, end, type] in characters; answers: SQuAD's {"text": [...], "answer_start": [...]}). Each text has
            one. None: the teacher alone teaches.
        weights: of several teachers, relative to each other; None: all the same.
        tokenizer: with a loaded teacher; loaded ones among several share it.
        layers: teacher layers the student starts from, counted from 0; None: half of them, in even strides from the
            first. Of a checkpoint its own layers; None: all.
        transfer: further texts without labels.
        dev: (texts, labels or None) to select the weights by; None: a tenth of `texts`, drawn by the seed.
        vocabulary: a smaller vocabulary for the student, by the keys of `tokenize.vocabulary` in params.yaml
            (max_tokens, min_count, scripts, spell, rank); None: the teacher's.
        general: a general student of the same layers, from which the student starts: the folder or the model that
            `distill_general` gave.
        max_length: longest row in tokens; a longer text is cut, one with entities and a context into windows.
        seed: of everything random.
        device: auto, cpu, cuda or mps.
        precision: auto, fp32, bf16 or fp16.
        settings: any other key of `distill` in params.yaml: epochs (3), learning_rate (1e-4), temperature, alpha,
            terms, assistants, mutual, lora, prune, student, batch_tokens, ... A student from another encoder, with its
            own tokenizer, is {"kind": "checkpoint", "path": its folder}.

    Raises:
        PotstillError: a value, text, label, layer or term that does not fit, before anything is trained.
    """
    from potstill.distillation.teachers.given_teachers import load_teachers
    from potstill.training.student_builder import StudentBuilder

    inputs = _Texts(
        as_list("texts", texts), _listed_labels("texts", labels), as_list("transfer", transfer),
        None if dev is None else (as_list("dev", dev[0]), _listed_labels("dev", dev[1])), max_length, seed,
    )  # fmt: skip
    sources = [teacher] if isinstance(teacher, (str, Path)) or not isinstance(teacher, Sequence) else list(teacher)
    teachers = load_teachers(sources, tokenizer, weights, max_length)
    checkpoint, section = _checkpoint(settings, teachers[0].model, max_length, seed)
    params = _params(teachers[0].model, layers, section, checkpoint)
    plan = None if vocabulary is None else parse_section("vocabulary", Vocabulary, vocabulary)
    _check_methods(params, len(teachers), plan, general)
    with tempfile.TemporaryDirectory() as scratch:
        work_dir = Path(scratch)
        inputs, tokens = _student_tokens(inputs, teachers[0], checkpoint, plan, work_dir)
        rows = _Rows.tokenize(inputs, teachers, tokens, work_dir)
        builder = StudentBuilder(
            params, seed, inputs.pair, lambda: fast_tokenizer(teachers[0].tokenizer, max_length),
            checkpoint=None if checkpoint is None else lambda: checkpoint.model,
            kept_ids=tokens.kept_ids, rank=tokens.rank, general_dir=_general_dir(general, work_dir),
        )  # fmt: skip
        return _distilled(teachers, rows, builder, tokens, device, precision, work_dir)


@dataclass(frozen=True)
class _Texts:
    """The texts and labels that the caller gave, and how they are tokenized."""

    texts: list[Text]
    labels: list[Label] | None
    transfer: list[Text]
    dev: tuple[list[Text], list[Label] | None] | None
    max_length: int
    seed: int

    @property
    def pair(self) -> bool:
        """Whether the texts are pairs."""
        return bool(self.texts) and not isinstance(self.texts[0], str)

    def tokenize(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, folder: Path, *, gold: bool = True
    ) -> InMemoryRows:
        """Tokenize the texts for a model; without `gold` the gold labels are left out."""
        dev = self.dev if gold or self.dev is None else (self.dev[0], None)
        labels = self.labels if gold else None
        return tokenize_in_memory(
            tokenizer, model, self.texts, labels, self.transfer, dev, self.max_length, self.seed, folder
        )


@dataclass(frozen=True)
class _Tokens:
    """The student's tokens.

    Attributes:
        tokenizer: the student's.
        model: determines the labels, and whether token types tell the two texts of a pair apart.
        shared: whether these are the first teacher's tokens.
        kept_ids: ids, in the whole vocabulary, of the tokens of a smaller one; None: all.
        rank: rank of the table of token embeddings; None: a full table.
    """

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    shared: bool
    kept_ids: Ints | None = None
    rank: int | None = None


@dataclass(frozen=True)
class _Rows:
    """The rows as each teacher's tokens and as the student's."""

    teachers: list[InMemoryRows]
    student: InMemoryRows

    @classmethod
    def tokenize(cls, inputs: _Texts, teachers: Sequence[Teacher], tokens: _Tokens, work_dir: Path) -> _Rows:
        """Tokenize the texts for each teacher and the student."""
        # The gold labels are named as the first teacher names them.
        rows = [
            inputs.tokenize(teacher.tokenizer, teacher.model, work_dir / f"teacher-{number}", gold=number == 0)
            for number, teacher in enumerate(teachers)
        ]
        if tokens.shared:
            return cls(rows, rows[0])
        return cls(rows, inputs.tokenize(tokens.tokenizer, tokens.model, work_dir / "student"))


def _listed_labels(name: str, labels: Sequence[Label] | None) -> list[Label] | None:
    """Convert the labels of a group of texts to a list; None stays None."""
    return None if labels is None else as_list(f"the labels of {name}", labels)


# --- checks -----------------------------------------------------------------------------------------------------------


def _checkpoint(
    settings: Mapping[str, Any], teacher: PreTrainedModel, max_length: int, seed: int
) -> tuple[Checkpoint | None, Mapping[str, Any]]:
    """Open the checkpoint that `student` names; the settings lose its path, as params have them."""
    from potstill.distillation.teachers.given_teachers import check_length
    from potstill.models.students.checkpoint import Checkpoint

    student = settings.get("student")
    if not isinstance(student, Mapping) or student.get("kind") != "checkpoint":
        return None, settings
    if not isinstance(student.get("path"), (str, Path)):
        raise ModelError(
            "a student of kind checkpoint starts from another encoder; name its folder: "
            'student={"kind": "checkpoint", "path": "..."}'
        )
    checkpoint = Checkpoint.open(Path(student["path"]), teacher, seed)
    check_length(checkpoint.model, max_length, "checkpoint")
    return checkpoint, {**settings, "student": {key: value for key, value in student.items() if key != "path"}}


def _params(
    model: PreTrainedModel, layers: Sequence[int] | None, settings: Mapping[str, Any], checkpoint: Checkpoint | None
) -> Distill:
    """Check the `distill` section that these settings make."""
    from potstill.models.students.student import check_layers, check_plan
    from potstill.pretrained.families import layers_of

    available = len(layers_of(model if checkpoint is None else checkpoint.model))
    if layers is None:
        layers = default_layers(available, None if checkpoint is None else available)
    defaults = {"epochs": 3, "learning_rate": 1e-4, "checkpoint_seconds": 1e9}
    params = parse_distill(defaults | dict(settings) | {"layers": list(layers)})
    kind = params.student.kind
    if kind == "static" and KINDS[task_of(model)].marks_spans:
        raise ModelError(
            f"a static student answers about whole texts, a {task_of(model)} teacher about spans in them; take "
            "another kind of student"
        )
    if kind in ("layers", "distilbert"):
        check_plan(params, model)
    if checkpoint is not None:
        check_layers(params.layers, available, checkpoint.model.config.name_or_path, role="checkpoint")
    return params


def _check_methods(params: Distill, teachers: int, vocabulary: Vocabulary | None, general: object) -> None:
    """Refuse methods that exclude each other."""
    kind = params.student.kind
    if params.mixup is not None and teachers > 1:
        raise ModelError(
            "mixup asks one live teacher about blends of rows, but there are several; give one, or no mixup"
        )
    if vocabulary is not None and vocabulary.max_tokens == "auto":
        raise ModelError("max_tokens of the vocabulary is auto, which is for runs with a gate; give a number")
    if vocabulary is not None and vocabulary.rank is not None and kind == "static":
        raise ModelError(
            "the rank of the vocabulary is of a table that layers read, but a static student has none; leave it out"
        )
    if general is not None and (kind != "layers" or params.assistants or params.mutual is not None):
        method = "assistants or mutual" if kind == "layers" else f"a student of kind {kind}"
        raise ModelError(f"with {method} students do not start from a general student; leave out one of the two")


def _check_answers(teacher: PreTrainedModel, verdict: Verdict | None) -> None:
    """Refuse a teacher whose labels are in another order, by dev's gold labels; say where it is not above chance."""
    if verdict is None:
        return
    finding = f"the teacher in {teacher.config.name_or_path or 'memory'} is {verdict.words}"
    if verdict.order is not None:
        names = [str(teacher.config.id2label[output]) for output in range(teacher.config.num_labels)]
        fitting = {output: names[label] for output, label in enumerate(verdict.order)}
        raise LabelCountError(
            f"{finding}, but with its labels in another order {verdict.better}; name them so in its config: "
            f"id2label = {fitting}"
        )
    if verdict.above_chance is False:
        say(f"distill: {finding}, which is not above chance ({verdict.chance}): it may be a teacher of something else")


# --- the run ----------------------------------------------------------------------------------------------------------


def _student_tokens(
    inputs: _Texts, first: Teacher, checkpoint: Checkpoint | None, plan: Vocabulary | None, work_dir: Path
) -> tuple[_Texts, _Tokens]:
    """Choose the student's tokens; words that a smaller vocabulary drops join the texts without labels."""
    from potstill.models.students.fitted_vocabulary import fit_vocabulary
    from potstill.pretrained.inspection import read_tokenizer

    tokens = _Tokens(first.tokenizer, first.model, shared=True)
    if checkpoint is not None and not checkpoint.tokenizes_as(first.model, first.tokenizer):
        tokens = _Tokens(checkpoint.tokenizer, checkpoint.model, shared=False)
    if plan is None:
        return inputs, tokens
    untrimmed_dir, trimmed_dir = work_dir / "whole", work_dir / "trimmed"
    tokens.tokenizer.save_pretrained(untrimmed_dir)
    rows = inputs.tokenize(tokens.tokenizer, tokens.model, work_dir / "whole-rows").rows
    backend = fast_tokenizer(tokens.tokenizer, inputs.max_length)
    fitted = fit_vocabulary(backend, untrimmed_dir, trimmed_dir, rows, plan, pair=inputs.pair, name="distill")
    inputs = replace(inputs, transfer=[*inputs.transfer, *fitted.spelled])
    return inputs, _Tokens(read_tokenizer(trimmed_dir), tokens.model, False, fitted.kept_ids, plan.rank)


def _general_dir(general: Path | str | PreTrainedModel | None, work_dir: Path) -> Path | None:
    """Return the folder of the general student; a loaded one is written to the work folder."""
    if general is None or isinstance(general, (str, Path)):
        return None if general is None else Path(general)
    general.save_pretrained(work_dir / "general")
    return work_dir / "general"


def _distilled(
    teachers: Sequence[Teacher],
    rows: _Rows,
    builder: StudentBuilder,
    tokens: _Tokens,
    device: str,
    precision: str,
    work_dir: Path,
) -> Distilled:
    """Run the job and score its student."""
    from potstill.distillation.teachers.predict import predict_logits
    from potstill.models.students.factorized import merge
    from potstill.training.distillation_job import DistillationJob
    from potstill.training.settings import choose_setting

    choose = partial(choose_setting, builder.name, builder.seed, device, precision, work_dir)
    setting = choose(builder.params, teachers[0].model)
    for teacher in teachers:
        teacher.model.to(setting.device)
    answers, data, dev_logits = _answers(teachers, rows, setting.precision)
    preparation = DistillationJob(data, answers, builder, choose).prepare()
    for line in preparation.objective.describe():
        say(f"distill: {line}")
    student = preparation.train().model.cpu()
    merge(student)
    dev = data.student.dev
    report = {"rows": float(len(data.student.train)), "dev_rows": float(len(dev))}
    scores = _scores(data.task, predict_logits(student, dev), dev_logits, dev.whole_labels)
    return Distilled(student, tokens.tokenizer, report | scores)


def _answers(
    teachers: Sequence[Teacher], rows: _Rows, precision: Precision
) -> tuple[TeacherAnswers, DistillationData, npt.NDArray[Any]]:
    """Compute the teachers' answers once, to the training rows and to dev; the latter as the student's tokens too."""
    from potstill.distillation.teachers.mean_answers import ordered, pooled
    from potstill.distillation.teachers.position_mapping import map_positions, mapped_logits, mapped_source
    from potstill.distillation.teachers.predict import predict_logits
    from potstill.evaluation.teacher_check import judge
    from potstill.training.distillation_job import DistillationData, TeacherAnswers, TokenRows

    first, student, task = rows.teachers[0], rows.student, task_of(teachers[0].model)
    signals = _signals(teachers, [part.rows for part in rows.teachers], precision)
    logits = [
        ordered(predict_logits(teacher.model, part.dev, precision=precision), teacher.order)
        for teacher, part in zip(teachers, rows.teachers, strict=True)
    ]
    teacher_logits = pooled(logits, [teacher.weight for teacher in teachers], task)
    student_logits = teacher_logits
    positions = None
    if student is not first and KINDS[task].marks_spans:
        positions = map_positions(task, student.files, first.files)
        dev_signals = _signals(teachers, [part.dev for part in rows.teachers], precision)
        dev_positions = map_positions(task, student.dev_files, first.dev_files)
        student_logits = mapped_logits(mapped_source(dev_signals, first.dev, dev_positions), student.dev, task)
    has_gold = has_label(student.dev.whole_labels).any()
    if has_gold:
        _check_answers(teachers[0].model, judge(task, student_logits, student.dev.whole_labels))
    views = [
        # Without gold labels the teachers' answers are right.
        TokenRows(part.rows, part.dev, labels if has_gold else _answered(task, answers, labels))
        for part, answers, labels in (
            (first, teacher_logits, first.dev.whole_labels),
            (student, student_logits, student.dev.whole_labels),
        )
    ]
    data = DistillationData(task, views[0], views[0] if student is first else views[1], positions)
    return TeacherAnswers(teachers[0].model, signals, lambda: teacher_logits), data, student_logits


def _signals(teachers: Sequence[Teacher], rows: Sequence[TokenDataset], precision: Precision) -> Source:
    """Compute what a student learns of the teachers' heads, of all together."""
    from potstill.distillation.teachers.ensembles import average
    from potstill.distillation.teachers.mean_answers import ordered, side_by_side
    from potstill.distillation.teachers.predict import predict_signals
    from potstill.distillation.teachers.signal_store import StoredSignals

    signals = [
        ordered(predict_signals(teacher.model, part, precision=precision), teacher.order)
        for teacher, part in zip(teachers, rows, strict=True)
    ]
    stored = StoredSignals(side_by_side(signals), np.arange(len(rows[0])))
    return average(stored, [teacher.weight for teacher in teachers])


def _answered(task: TaskKind, logits: npt.NDArray[Any], labels: Labels) -> Labels:
    """Put a model's answers into the form of gold labels, which `labels` have."""
    if KINDS[task].form == "number":
        return logits[:, 0]
    if KINDS[task].form == "span":
        return np.array([best_tokens(row) for row in logits], dtype=SPAN)
    if KINDS[task].form == "entities":
        classes = iter(logits.argmax(axis=1))
        return ragged([np.array([IGNORED if label == IGNORED else next(classes) for label in row]) for row in labels])
    return (logits > 0).astype(np.int64) if KINDS[task].form == "labels" else logits.argmax(axis=1)


def _scores(task: TaskKind, student: npt.NDArray[Any], teacher: npt.NDArray[Any], labels: Labels) -> dict[str, float]:
    """Compare a student's answers on dev with its teacher's, and both with the gold labels where there are some."""
    from potstill.evaluation.summary import Answers, fidelity

    scores = fidelity(*(Answers(logits, 1.0, 0, 0, task) for logits in (teacher, student)))
    if has_label(labels).any():
        scoring = KINDS[task].scoring
        scores[scoring.key] = scoring.score(student, labels)
        scores[f"teacher_{scoring.key}"] = scoring.score(teacher, labels)
    return scores
