"""Distillation from Python: one's own teacher and texts in, a student and its scores out.

`distill` checks everything first and is otherwise a shell over the parts that the pipeline's stages use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from potstill.config import Distill, TaskKind, parse_distill
from potstill.data.batches import Ints, Labels, TokenDataset, labelled
from potstill.errors import EmptyDataError, FormatError, LabelError, ModelError, SequenceLengthError
from potstill.evaluation.scoring import SCORINGS
from potstill.models.heads import task_of
from potstill.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# A text, or the two texts of a pair.
Text = str | tuple[str, str]
# A class, a list of the labels that hold, or a number, as the teacher answers.
Label = str | int | float | Sequence[str | int]
Floats = npt.NDArray[np.float32]
# Rows held out for dev when none are given.
DEV_SHARE = 0.1


@dataclass(frozen=True)
class Distilled:
    """What `distill` gives back.

    Attributes:
        student: a model of transformers, in evaluation mode.
        tokenizer: the teacher's.
        report: rows, and on dev: the student's `agreement` with the teacher (share of equal answers), `kl` to it in
            nats (numbers: `correlation` and `rmse`), and with gold labels the `accuracy` of the student and the
            `teacher_accuracy` (several labels: `micro_f1`; numbers: `r2`).
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
    """Make a student of some of a fine-tuned classifier's layers learn the teacher's answers.

    The teacher's config says what its answers are: one class of several, several labels (problem_type
    multi_label_classification), or a number (problem_type regression, or one output).

    Args:
        teacher: a `save_pretrained` folder, or a loaded sequence classifier; the latter's weights stay as they are. Or
            several of them, of the same labels: the mean of their softened probabilities teaches, and the student
            starts from the first one's layers and has its tokenizer.
        texts: training texts, or pairs of texts.
        labels: their gold labels, as the teacher names or counts them (several labels: a list of those that hold, for
            each text; numbers: the number); None: the teacher alone teaches.
        weights: of several teachers, relative to each other; None: all the same.
        tokenizer: with a loaded teacher; loaded ones among several share it.
        layers: teacher layers the student starts from, counted from 0; None: every second one from the first.
        transfer: further texts without labels.
        dev: (texts, labels or None) to select the weights by; None: a tenth of `texts`, drawn by the seed.
        max_length: longest text in tokens; what is longer is cut.
        seed: of everything random.
        device: auto, cpu, cuda or mps.
        precision: auto, fp32, bf16 or fp16.
        settings: any other key of `distill` in params.yaml: epochs (3), learning_rate (1e-4), temperature, alpha,
            terms, assistants, mutual, lora, batch_tokens, ...

    Raises:
        PotstillError: a value, text, label, layer or term that does not fit, before anything is trained.
    """
    given = [teacher] if isinstance(teacher, (str, Path)) or not isinstance(teacher, Sequence) else list(teacher)
    found = [_teacher(one, tokenizer) for one in given]
    counts = _counts(weights, len(found))
    for model, _ in found:
        _check_length(model, max_length)
    params = _params(found[0][0], layers, settings)
    orders = _orders([model for model, _ in found])
    teachers = []
    for number, (model, words) in enumerate(found):
        # The texts' gold labels are in the first one's terms.
        gold = (labels, dev) if number == 0 else (None, None if dev is None else (dev[0], None))
        rows = _rows(words, model, texts, gold[0], transfer, gold[1], max_length, seed)
        teachers.append(_Teacher(model, *rows, orders[number], counts[number]))
    with tempfile.TemporaryDirectory() as folder:
        return _distilled(teachers, found[0][1], params, seed, device, precision, Path(folder))


@dataclass(frozen=True)
class _Teacher:
    """One of the teachers, with the rows as its tokens.

    Attributes:
        order: for each class of the first teacher its index in this one.
        weight: those of all add up to 1.
    """

    model: PreTrainedModel
    rows: TokenDataset
    dev: TokenDataset
    order: list[int]
    weight: float


# --- what is checked first --------------------------------------------------------------------------------------------


def _teacher(
    teacher: Path | str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The fine-tuned classifier and its tokenizer, read from the folder where they are not given."""
    from transformers import AutoTokenizer

    from potstill.models.loading import check_folder, load_classifier

    if not isinstance(teacher, (str, Path)):
        if tokenizer is None:
            raise ModelError("the teacher is a loaded model; give its tokenizer too: distill(..., tokenizer=...)")
        _check_classifier(type(teacher).__name__)
        return teacher, tokenizer
    folder = Path(teacher)
    known = check_folder(folder)
    model = load_classifier(folder)
    _check_classifier((known.get("architectures") or [f"model without a head ({folder})"])[0])
    if tokenizer is None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{folder} has no tokenizer that can be loaded; save it there or give one: {reason}"
            ) from error
    return model, tokenizer


def _counts(weights: Sequence[float] | None, teachers: int) -> list[float]:
    """The weights, made to add up to 1."""
    from potstill.models.members import shares

    if not teachers:
        raise ModelError("there is no teacher; give a folder or a loaded model, or several")
    counts = [1.0] * teachers if weights is None else list(weights)
    if len(counts) != teachers or not all(0 < weight < float("inf") for weight in counts):
        raise ModelError(f"weights is {counts} of {teachers} teachers; give each a number above 0")
    return shares(counts)


def _orders(models: Sequence[PreTrainedModel]) -> list[list[int]]:
    """For each class of the first teacher its index in each of them."""
    from potstill.models.loading import match_labels

    names = [[str(name) for _, name in sorted(model.config.id2label.items())] for model in models]
    wheres = [model.config.name_or_path or "memory" for model in models]
    task = task_of(models[0])
    for model, where in zip(models, wheres, strict=True):
        if task_of(model) != task:
            raise ModelError(f"the teacher in {where} is for {task_of(model)}, the first one for {task}")
    if task == "regression":
        return [[0]] * len(models)  # one output each, whatever it is called
    return [match_labels(own, names[0], where) for own, where in zip(names, wheres, strict=True)]


def _check_classifier(name: str) -> None:
    if "ForSequenceClassification" not in name:
        raise ModelError(f"the teacher is a {name}; give a fine-tuned sequence classifier")


def _check_length(model: PreTrainedModel, max_length: int) -> None:
    positions = getattr(model.config, "max_position_embeddings", None)
    if max_length < 3 or (positions is not None and max_length > positions):
        raise SequenceLengthError(f"max_length is {max_length}; set it from 3 to the teacher's {positions} positions")


def _params(model: PreTrainedModel, layers: Sequence[int] | None, settings: Mapping[str, Any]) -> Distill:
    """The `distill` section that these settings make."""
    from potstill.models.families import layers_of
    from potstill.models.student import check_plan

    available = len(layers_of(model))
    chosen = list(range(0, available, 2) if layers is None else layers)
    defaults = {"epochs": 3, "learning_rate": 1e-4, "checkpoint_seconds": 1e9}
    params = parse_distill(defaults | dict(settings) | {"layers": chosen})
    check_plan(params, model)
    return params


def _rows(
    words: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    texts: Sequence[Text],
    labels: Sequence[Label] | None,
    transfer: Sequence[Text],
    dev: tuple[Sequence[Text], Sequence[Label] | None] | None,
    max_length: int,
    seed: int,
) -> tuple[TokenDataset, TokenDataset]:
    """Token ids and labels for training and for dev."""
    groups = {"texts": (texts, labels), "transfer": (transfer, None)} | ({} if dev is None else {"dev": dev})
    pair = len(texts) > 0 and not isinstance(texts[0], str)
    found = {}
    for name, (group, gold) in groups.items():
        _check_texts(name, group, pair=pair)
        if name != "transfer" and len(group) < (2 if dev is None else 1):
            raise EmptyDataError(f"{name} has {len(group)} texts; give some more")
        found[name] = _tokenized(words, model, group, _gold(model, name, gold, len(group)), max_length)
    if dev is None:
        order = np.random.default_rng(seed).permutation(len(texts))
        held = max(round(DEV_SHARE * len(texts)), 1)
        found["dev"] = found["texts"].select(np.sort(order[:held]))
        found["texts"] = found["texts"].select(np.sort(order[held:]))
    return TokenDataset.concatenate([found["texts"], *([found["transfer"]] if transfer else [])]), found["dev"]


def _check_texts(name: str, texts: Sequence[Text], *, pair: bool) -> None:
    if isinstance(texts, str):
        raise FormatError(f"{name} is one string; give a list of texts")
    for row, text in enumerate(texts):
        parts = text if pair and isinstance(text, (tuple, list)) else (text,)
        if len(parts) != (2 if pair else 1) or not all(isinstance(part, str) for part in parts):
            wanted = "a pair of strings" if pair else "a string"
            raise FormatError(f"{name}[{row}] is {text!r:.80}; it has to be {wanted}, as texts[0] is")


def _gold(model: PreTrainedModel, name: str, labels: Sequence[Label] | None, rows: int) -> Labels:
    """[rows, ...] gold labels in the form of the teacher's task; -1 or NaN where there are none."""
    if labels is not None and len(labels) != rows:
        raise LabelError(f"{name} has {rows} texts and {len(labels)} labels; give one label for each text")
    task = task_of(model)
    if task == "regression":
        return _numbers(name, [np.nan] * rows if labels is None else labels)
    if task == "multi_label":
        return _flags(model, name, labels, rows)
    return np.full(rows, -1, dtype=np.int64) if labels is None else _indices(model, name, labels)


def _numbers(name: str, labels: Sequence[Any]) -> Labels:
    try:
        found = np.array(labels, dtype=np.float32)
    except (TypeError, ValueError):
        found = np.empty(0, dtype=np.float32)
    if found.shape != (len(labels),):
        raise LabelError(f"the teacher gives a number for each text, but the labels of {name} are not all numbers")
    return found


def _flags(model: PreTrainedModel, name: str, labels: Sequence[Any] | None, rows: int) -> Labels:
    found = np.full((rows, model.config.num_labels), -1 if labels is None else 0, dtype=np.int64)
    for row, held in enumerate(labels or ()):
        if isinstance(held, str) or not isinstance(held, (Sequence, np.ndarray, set, frozenset)):
            raise LabelError(f"{name} has the label {held!r} for text {row}; give a list of those that hold")
        found[row, _indices(model, name, list(held))] = 1
    return found


def _indices(model: PreTrainedModel, name: str, labels: Sequence[Any]) -> Ints:
    """Labels as the indices of the teacher's outputs."""
    names = {str(label): index for label, index in model.config.label2id.items()}
    known: dict[str | int, int] = names | {index: index for index in range(model.config.num_labels)}
    values = [label if isinstance(label, str) else int(label) for label in labels]
    unknown = next((value for value in values if value not in known), None)
    if unknown is not None:
        raise LabelError(f"the teacher does not know the label {unknown!r} of {name}; it knows {', '.join(names)}")
    return np.array([known[value] for value in values], dtype=np.int64)


def _tokenized(
    words: PreTrainedTokenizerBase, model: PreTrainedModel, texts: Sequence[Text], labels: Labels, max_length: int
) -> TokenDataset:
    """Rows of token ids, with segment ids for pairs where the teacher's class has them."""
    from potstill.models.families import tells_texts_apart

    columns = list(zip(*texts, strict=True)) if texts and not isinstance(texts[0], str) else [texts]
    encoded = (
        words(*map(list, columns), truncation=True, max_length=max_length, return_token_type_ids=True)
        if texts
        else {"input_ids": [], "token_type_ids": []}
    )
    types = len(columns) == 2 and tells_texts_apart(model.config.to_dict())
    lengths = np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)
    return TokenDataset(
        _flat(encoded["input_ids"]).astype(np.int32),
        lengths,
        _flat(encoded["token_type_ids"]).astype(np.int8) if types else None,
        labels,
        words.pad_token_id or 0,
    )


def _flat(rows: Sequence[Sequence[int]]) -> Ints:
    return np.array([value for row in rows for value in row], dtype=np.int64)


# --- the run ----------------------------------------------------------------------------------------------------------


def _distilled(
    teachers: Sequence[_Teacher],
    words: PreTrainedTokenizerBase,
    params: Distill,
    seed: int,
    device: str,
    precision: str,
    work: Path,
) -> Distilled:
    from potstill.distillation.ensembles import average, pooled
    from potstill.distillation.signals import StoredSignals
    from potstill.models.student import student_from_layers
    from potstill.training.assistants import Teaching, through_assistants
    from potstill.training.loop import Setting
    from potstill.training.precision import choose_device, choose_precision, product_size
    from potstill.training.predict import predict_logits
    from potstill.training.together import objective_for, train_students

    first, weights = teachers[0], [one.weight for one in teachers]
    rows, dev, where = first.rows, first.dev, choose_device(device)
    chosen, _ = choose_precision(precision, where, *product_size(first.model.config), work / "precision.json")
    setting = Setting("distill", params, seed, where, chosen, work / "checkpoints")
    # The teachers' logits are computed once; what terms need beside them is asked of the first, live.
    learned, held = (
        [predict_logits(one.model.to(where), split, precision=chosen)[:, one.order] for one, split in pairs]
        for pairs in ([(one, one.rows) for one in teachers], [(one, one.dev) for one in teachers])
    )
    task = task_of(first.model)
    answers = pooled(held, weights, task)
    gold = dev.labels if labelled(dev.labels).all() else _answered(task, answers)

    def score(model: PreTrainedModel) -> float:
        return SCORINGS[task].score(predict_logits(model, dev, device=where, precision=chosen), gold)

    signals = learned[0] if len(teachers) == 1 else np.stack(learned, axis=-2)
    source = average(StoredSignals(signals, np.arange(len(rows))), weights)
    teaching = through_assistants(params, Teaching(first.model, source, params.layers), rows, score, setting)
    each = [teaching.layers] if params.mutual is None else params.mutual.students
    students = [student_from_layers(teaching.model, layers) for layers in each]
    objective = objective_for(params, students, teaching, setting)
    for line in objective.describe():
        say(f"distill: {line}")
    student = students[train_students(students, objective, rows, score, setting).place]
    report = {"rows": float(len(rows)), "dev_rows": float(len(dev))}
    return Distilled(student.cpu(), words, report | _scores(task, predict_logits(student, dev), answers, dev.labels))


def _answered(task: TaskKind, logits: Floats) -> Labels:
    """A model's answers in the form of gold labels."""
    if task == "regression":
        return logits[:, 0]
    return (logits > 0).astype(np.int64) if task == "multi_label" else logits.argmax(axis=1)


def _scores(task: TaskKind, student: Floats, teacher: Floats, labels: Labels) -> dict[str, float]:
    from potstill.evaluation.summary import Answers, likeness

    found = likeness(*(Answers(logits, 1.0, 0, 0, task) for logits in (teacher, student)))
    if labelled(labels).all():
        scoring = SCORINGS[task]
        found[scoring.key], found[f"teacher_{scoring.key}"] = (
            scoring.score(logits, labels) for logits in (student, teacher)
        )
    return found
