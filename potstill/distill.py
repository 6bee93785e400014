"""Distillation from Python: one's own teacher and texts in, a student and its scores out.

`distill` checks everything first and is otherwise a shell over the parts that the pipeline's stages use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from potstill.config.base import OF_PLACES, TaskKind
from potstill.config.distill_params import Distill
from potstill.config.params_file import parse_distill
from potstill.data.tokens.batches import SPAN, Labels, TokenDataset, labelled
from potstill.data.tokens.given import GivenRows, Label, Text, backend_of, by_all_labels, by_tag_set, given_rows, listed
from potstill.data.tokens.offsets import IGNORED
from potstill.errors import LabelCountError, ModelError, SequenceLengthError
from potstill.pretrained.heads import HEADS, task_of
from potstill.pretrained.members import Weight, shares_by_label
from potstill.progress import say
from potstill.scores.scoring import SCORINGS, best_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from potstill.compute.precision import Precision
    from potstill.distillation.objective.gold_labels import Objective
    from potstill.evaluation.teacher_check import Verdict
    from potstill.models.students.checkpoint import Checkpoint


@dataclass(frozen=True)
class Distilled:
    """What `distill` gives back.

    Attributes:
        student: a model of transformers, in evaluation mode.
        tokenizer: the teacher's, or of a checkpoint its own.
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
    max_length: int = 128,
    seed: int = 17,
    device: str = "auto",
    precision: str = "auto",
    **settings: Any,
) -> Distilled:
    """Make a student of some of a fine-tuned model's layers learn the teacher's answers.

    The teacher's class and config say what its answers are: one class of several, several labels (problem_type
    multi_label_classification), a number (problem_type regression, or one output), entities (ForTokenClassification,
    whose labels are BIO tags), or answers to questions about a context (ForQuestionAnswering).

    Args:
        teacher: a `save_pretrained` folder, or a loaded model; the latter's weights stay as they are. Or several of
            them, of the same labels: the mean of their softened probabilities teaches, and the student starts from the
            first one's layers and has its tokenizer. Teachers of several labels (multi_label) may name different ones:
            the student learns all, each label from those that name it.
        texts: training texts, or pairs of texts; for answers pairs of a question and its context. A list, an array or
            a column of a table (pandas, whatever its index).
        labels: their gold labels, as the teacher names them, or as it counts them where its names are no numbers
            (several labels: a list of those that hold, for each text; numbers: the number; entities: a list of
            [start, end, type] in characters; answers: SQuAD's {"text": [...], "answer_start": [...]}). Each text has
            one. None: the teacher alone teaches.
        weights: of several teachers, relative to each other; None: all the same.
        tokenizer: with a loaded teacher; loaded ones among several share it.
        layers: teacher layers the student starts from, counted from 0; None: every second one from the first. Of a
            checkpoint its own layers; None: all.
        transfer: further texts without labels.
        dev: (texts, labels or None) to select the weights by; None: a tenth of `texts`, drawn by the seed.
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
    texts, labels, transfer = listed("texts", texts), _listed_labels("texts", labels), listed("transfer", transfer)
    dev = None if dev is None else (listed("dev", dev[0]), _listed_labels("dev", dev[1]))
    given = [teacher] if isinstance(teacher, (str, Path)) or not isinstance(teacher, Sequence) else list(teacher)
    found = [_teacher(one, tokenizer) for one in given]
    counts = _counts(weights, len(found))
    for model, _ in found:
        _check_length(model, max_length)
    found, shares = _with_all_labels(found, counts)
    checkpoint, section = _checkpoint(settings, found[0][0], max_length, seed)
    params = _params(found[0][0], layers, section, checkpoint)
    if params.mixup is not None and len(found) > 1:
        raise ModelError(
            "mixup asks one live teacher about blends of rows, but there are several; give one, or no mixup"
        )
    orders = _orders([model for model, _ in found])
    _check_tokenizers(found)
    with tempfile.TemporaryDirectory() as folder:
        teachers = []
        for number, (model, words) in enumerate(found):
            # The texts' gold labels are in the first one's terms.
            gold = (labels, dev) if number == 0 else (None, None if dev is None else (dev[0], None))
            place = Path(folder) / f"teacher-{number}"
            rows = given_rows(words, model, texts, gold[0], transfer, gold[1], max_length, seed, place)
            teachers.append(_Teacher(model, rows, orders[number], shares[number]))
        student = _Student(params, found[0][1], max_length, pair=not isinstance(texts[0], str), checkpoint=checkpoint)
        if checkpoint is not None and not checkpoint.reads_as(*found[0]):
            place = Path(folder) / "student"
            own = given_rows(checkpoint.words, checkpoint.model, texts, labels, transfer, dev, max_length, seed, place)
            student = replace(student, words=checkpoint.words, own=own)
        return _distilled(teachers, student, seed, device, precision, Path(folder))


@dataclass(frozen=True)
class _Teacher:
    """One of the teachers, with the rows as its tokens.

    Attributes:
        order: for each class of the first teacher its index in this one.
        weight: those of all add up to 1.
    """

    model: PreTrainedModel
    given: GivenRows
    order: list[int]
    weight: Weight


@dataclass(frozen=True)
class _Student:
    """What is to be made, of the first teacher, of the last assistant or of a checkpoint.

    Attributes:
        words: its tokenizer.
        checkpoint: that it starts from.
        own: the rows as its tokens, where they are not the first teacher's.
    """

    params: Distill
    words: PreTrainedTokenizerBase
    max_length: int
    pair: bool
    checkpoint: Checkpoint | None = None
    own: GivenRows | None = None

    def start(
        self, parent: PreTrainedModel, layers: Sequence[int], rows: TokenDataset, objective: Objective, seed: int
    ) -> PreTrainedModel:
        """A student before it learns; the objective judges what of it stays where it is pruned."""
        import torch

        from potstill.distillation.pruning import pruned
        from potstill.models.students.kinds import start_student

        parent = parent.cpu() if self.checkpoint is None else self.checkpoint.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            student = start_student(
                self.params.student, parent, layers, pair=self.pair,
                tokenizer=lambda: backend_of(self.words, self.max_length),
            )  # fmt: skip
        if self.params.prune is None:
            return student
        batch_tokens = self.params.batch_tokens
        return pruned(student, self.params.prune, rows, objective, batch_tokens=batch_tokens, seed=seed, name="distill")


def _listed_labels(name: str, labels: Sequence[Label] | None) -> list[Label] | None:
    """The labels of a group of texts as a list; None where there are none."""
    return None if labels is None else listed(f"the labels of {name}", labels)


# --- what is checked first --------------------------------------------------------------------------------------------


def _teacher(
    teacher: Path | str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The fine-tuned model and its tokenizer, read from the folder where they are not given."""
    from potstill.models.loading import load_classifier
    from potstill.pretrained.families import family_of
    from potstill.pretrained.inspection import check_tokens, inspect_model, load_words

    if not isinstance(teacher, (str, Path)):
        if tokenizer is None:
            raise ModelError("the teacher is a loaded model; give its tokenizer too: distill(..., tokenizer=...)")
        _check_head(type(teacher).__name__)
        family_of(teacher.config)
        model, words = teacher, tokenizer
    else:
        folder = Path(teacher)
        known = inspect_model(folder).saved.architecture
        _check_head(known or f"model without a head ({folder})")
        model, words = load_classifier(folder), load_words(folder) if tokenizer is None else tokenizer
    rows = len(model.get_input_embeddings().weight)
    check_tokens(1 + max(_vocabulary(words).values()), rows, model.config.name_or_path or "memory")
    return model, words


def _counts(weights: Sequence[float] | None, teachers: int) -> list[float]:
    """The weights as numbers."""
    if not teachers:
        raise ModelError("there is no teacher; give a folder or a loaded model, or several")
    counts = [1.0] * teachers if weights is None else list(weights)
    if len(counts) != teachers or not all(0 < weight < float("inf") for weight in counts):
        raise ModelError(f"weights is {counts} of {teachers} teachers; give each a number above 0")
    return counts


def _with_all_labels(
    found: Sequence[tuple[PreTrainedModel, PreTrainedTokenizerBase]], counts: Sequence[float]
) -> tuple[list[tuple[PreTrainedModel, PreTrainedTokenizerBase]], list[Weight]]:
    """The teachers with the labels of all of them in one order, and what each one's answers weigh."""
    models, answered, labels = by_all_labels([by_tag_set(model) for model, _ in found])
    for number, own in enumerate(answered, 1):
        if own is not None:
            say(f"distill: teacher {number} answers {', '.join(own)}")
    words = [words for _, words in found]
    return list(zip(models, words, strict=True)), shares_by_label(counts, answered, labels)


def _orders(models: Sequence[PreTrainedModel]) -> list[list[int]]:
    """For each class of the first teacher its index in each of them."""
    from potstill.pretrained.output_names import match_labels

    names = [[str(name) for _, name in sorted(model.config.id2label.items())] for model in models]
    wheres = [model.config.name_or_path or "memory" for model in models]
    task = task_of(models[0])
    for model, where in zip(models, wheres, strict=True):
        if task_of(model) != task:
            raise ModelError(f"the teacher in {where} is for {task_of(model)}, the first one for {task}")
    if task in ("regression", "question_answering"):
        return [list(range(models[0].config.num_labels))] * len(models)  # outputs without names
    return [match_labels(own, names[0], where) for own, where in zip(names, wheres, strict=True)]


def _check_head(name: str) -> None:
    if not name.endswith(tuple(head.suffix for head in HEADS.values())):
        known = ", ".join(dict.fromkeys(head.suffix for head in HEADS.values()))
        raise ModelError(f"the teacher is a {name}; give a fine-tuned model (...{known})")


def _check_tokenizers(found: Sequence[tuple[PreTrainedModel, PreTrainedTokenizerBase]]) -> None:
    """Teachers of entities or answers speak of the same tokens."""
    (first, words), *others = found
    if task_of(first) in OF_PLACES and any(_vocabulary(other) != _vocabulary(words) for _, other in others):
        raise ModelError(
            f"the teachers have several tokenizers, but those of a {task_of(first)} task answer token by token, "
            "together; give teachers of one tokenizer"
        )


def _vocabulary(words: PreTrainedTokenizerBase) -> dict[str, int]:
    found: dict[str, int] = words.get_vocab()
    return found


def _check_length(model: PreTrainedModel, max_length: int, whose: str = "teacher") -> None:
    from potstill.pretrained.families import positions_of

    positions = positions_of(model.config.to_dict())
    if max_length < 3 or (positions is not None and max_length > positions):
        raise SequenceLengthError(f"max_length is {max_length}; set it from 3 to the {whose}'s {positions} positions")


def _checkpoint(
    settings: Mapping[str, Any], teacher: PreTrainedModel, max_length: int, seed: int
) -> tuple[Checkpoint | None, Mapping[str, Any]]:
    """The checkpoint that `student` names, and the settings as params have them: without its path."""
    from potstill.models.students.checkpoint import Checkpoint

    student = settings.get("student")
    if not isinstance(student, Mapping) or student.get("kind") != "checkpoint":
        return None, settings
    if not isinstance(student.get("path"), (str, Path)):
        raise ModelError(
            "a student of kind checkpoint starts from another encoder; name its folder: "
            'student={"kind": "checkpoint", "path": "..."}'
        )
    found = Checkpoint.open(Path(student["path"]), teacher, seed)
    _check_length(found.model, max_length, "checkpoint")
    return found, {**settings, "student": {key: value for key, value in student.items() if key != "path"}}


def _params(
    model: PreTrainedModel, layers: Sequence[int] | None, settings: Mapping[str, Any], checkpoint: Checkpoint | None
) -> Distill:
    """The `distill` section that these settings make."""
    from potstill.models.students.student import check_layers, check_plan
    from potstill.pretrained.families import layers_of

    available = len(layers_of(model if checkpoint is None else checkpoint.model))
    chosen = list(range(0, available, 1 if checkpoint is not None else 2) if layers is None else layers)
    defaults = {"epochs": 3, "learning_rate": 1e-4, "checkpoint_seconds": 1e9}
    params = parse_distill(defaults | dict(settings) | {"layers": chosen})
    kind = params.student.kind
    if kind == "static" and task_of(model) in OF_PLACES:
        raise ModelError(
            f"a static student answers about whole texts, a {task_of(model)} teacher about places in them; take "
            "another kind of student"
        )
    if kind in ("layers", "distilbert"):
        check_plan(params, model)
    if checkpoint is not None:
        check_layers(params.layers, available, checkpoint.model.config.name_or_path, whose="checkpoint")
    return params


def _check_answers(teacher: PreTrainedModel, verdict: Verdict | None) -> None:
    """Refuse a teacher whose labels are in another order, by dev's gold labels; say where it is not above chance."""
    if verdict is None:
        return
    place = f"the teacher in {teacher.config.name_or_path or 'memory'} is {verdict.words}"
    if verdict.order is not None:
        names = [str(teacher.config.id2label[output]) for output in range(teacher.config.num_labels)]
        fitting = {output: names[label] for output, label in enumerate(verdict.order)}
        raise LabelCountError(
            f"{place}, but with its labels in another order {verdict.better}; name them so in its config: "
            f"id2label = {fitting}"
        )
    if verdict.above_chance is False:
        say(f"distill: {place}, which is not above chance ({verdict.chance}): it may be a teacher of something else")


# --- the run ----------------------------------------------------------------------------------------------------------


def _distilled(
    teachers: Sequence[_Teacher], made: _Student, seed: int, device: str, precision: str, work: Path
) -> Distilled:
    from potstill.compute.precision import choose_device, choose_precision, product_size
    from potstill.distillation.objective.composition import Blend, Distillation
    from potstill.distillation.teachers.ensembles import average
    from potstill.distillation.teachers.mean_answers import ordered, side_by_side
    from potstill.distillation.teachers.position_mapping import across, places_of
    from potstill.distillation.teachers.predict import predict_logits, predict_signals
    from potstill.distillation.teachers.signal_store import StoredSignals
    from potstill.evaluation.teacher_check import judge
    from potstill.training.assistants import Teaching, through_assistants
    from potstill.training.loop import Setting
    from potstill.training.together import objective_for, train_students

    first, weights, params = teachers[0], [one.weight for one in teachers], made.params
    ours, where, task = made.own or first.given, choose_device(device), task_of(first.model)
    rows, dev = ours.rows, ours.dev
    chosen, _ = choose_precision(precision, where, *product_size(first.model.config), work / "precision.json")
    setting = Setting("distill", params, seed, where, chosen, work / "checkpoints")
    # The teachers' logits are computed once; what terms need beside them is asked of the first, live.
    learned = [
        ordered(predict_signals(one.model.to(where), one.given.rows, precision=chosen), one.order) for one in teachers
    ]
    source = average(StoredSignals(side_by_side(learned), np.arange(len(first.given.rows))), weights)
    own = made.own if task in OF_PLACES else None
    places = None if own is None else places_of(task, own.files, first.given.files)
    answers = _answers_on_dev(teachers, own, chosen)
    labels = dev.whole_labels
    if labelled(labels).any():
        _check_answers(first.model, judge(task, answers, labels))
    gold = labels if labelled(labels).any() else _answered(task, answers, labels)

    def score(model: PreTrainedModel) -> float:
        return SCORINGS[task].score(predict_logits(model, dev, device=where, precision=chosen), gold)

    teaching = through_assistants(params, Teaching(first.model, source, params.layers), rows, score, setting)
    each = [teaching.layers] if params.mutual is None else params.mutual.students
    told = teaching.source if places is None else across(teaching.source, first.given.rows, places)
    logits_alone = Distillation(told, Blend(params.temperature, params.alpha, task))
    students = [made.start(teaching.model, layers, rows, logits_alone, seed) for layers in each]
    teacher_rows = None if made.own is None else first.given.rows
    objective = objective_for(params, students, teaching, setting, teacher_rows, places)
    for line in objective.describe():
        say(f"distill: {line}")
    student = students[train_students(students, objective, rows, score, setting).place]
    report = {"rows": float(len(rows)), "dev_rows": float(len(dev))}
    return Distilled(student.cpu(), made.words, report | _scores(task, predict_logits(student, dev), answers, labels))


def _answers_on_dev(teachers: Sequence[_Teacher], own: GivenRows | None, precision: Precision) -> npt.NDArray[Any]:
    """The teachers' answers to dev, together; where they are places in a text, in the student's own tokens."""
    from potstill.distillation.teachers.ensembles import average
    from potstill.distillation.teachers.mean_answers import ordered, pooled, side_by_side
    from potstill.distillation.teachers.position_mapping import across, answers_across, places_of
    from potstill.distillation.teachers.predict import predict_logits, predict_signals
    from potstill.distillation.teachers.signal_store import StoredSignals

    first, weights = teachers[0], [one.weight for one in teachers]
    task, dev = task_of(first.model), first.given.dev
    if own is None:
        held = [ordered(predict_logits(one.model, one.given.dev, precision=precision), one.order) for one in teachers]
        return pooled(held, weights, task)
    held = [ordered(predict_signals(one.model, one.given.dev, precision=precision), one.order) for one in teachers]
    source = average(StoredSignals(side_by_side(held), np.arange(len(dev))), weights)
    places = places_of(task, own.dev_files, first.given.dev_files)
    return answers_across(across(source, dev, places), own.dev, task)


def _answered(task: TaskKind, logits: npt.NDArray[Any], labels: Labels) -> Labels:
    """A model's answers in the form of gold labels; `labels` are of that form."""
    if task == "regression":
        return logits[:, 0]
    if task == "question_answering":
        return np.array([best_tokens(row) for row in logits], dtype=SPAN)
    if task == "token_classification":
        found, classes, start = labels.copy(), logits.argmax(axis=1), 0
        for row, own in enumerate(labels):
            asked = own != IGNORED
            found[row] = own.copy()
            found[row][asked] = classes[start : start + asked.sum()]
            start += asked.sum()
        return found
    return (logits > 0).astype(np.int64) if task == "multi_label" else logits.argmax(axis=1)


def _scores(task: TaskKind, student: npt.NDArray[Any], teacher: npt.NDArray[Any], labels: Labels) -> dict[str, float]:
    from potstill.evaluation.summary import Answers, fidelity

    found = fidelity(*(Answers(logits, 1.0, 0, 0, task) for logits in (teacher, student)))
    if labelled(labels).any():
        scoring = SCORINGS[task]
        found[scoring.key], found[f"teacher_{scoring.key}"] = (
            scoring.score(logits, labels) for logits in (student, teacher)
        )
    return found
