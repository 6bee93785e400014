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

from potstill.config import Distill, parse_distill
from potstill.data.batches import Ints, TokenDataset
from potstill.errors import EmptyDataError, FormatError, LabelError, ModelError, SequenceLengthError
from potstill.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# A text, or the two texts of a pair.
Text = str | tuple[str, str]
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
            nats, and with gold labels the `accuracy` of the student and the `teacher_accuracy`.
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
    labels: Sequence[str | int] | None = None,
    *,
    weights: Sequence[float] | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    layers: Sequence[int] | None = None,
    transfer: Sequence[Text] = (),
    dev: tuple[Sequence[Text], Sequence[str | int] | None] | None = None,
    max_length: int = 128,
    seed: int = 17,
    device: str = "auto",
    precision: str = "auto",
    **settings: Any,
) -> Distilled:
    """Make a student of some of a fine-tuned classifier's layers learn the teacher's answers.

    Args:
        teacher: a `save_pretrained` folder, or a loaded sequence classifier; the latter's weights stay as they are. Or
            several of them, of the same labels: the mean of their softened probabilities teaches, and the student
            starts from the first one's layers and has its tokenizer.
        texts: training texts, or pairs of texts.
        labels: their gold labels, as the teacher names or counts them; None: the teacher alone teaches.
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
        _check_classifier(type(teacher).__name__, teacher.config.num_labels)
        return teacher, tokenizer
    folder = Path(teacher)
    known = check_folder(folder)
    model = load_classifier(folder)
    _check_classifier((known.get("architectures") or [f"model without a head ({folder})"])[0], model.config.num_labels)
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
    return [match_labels(own, names[0], where) for own, where in zip(names, wheres, strict=True)]


def _check_classifier(name: str, classes: int) -> None:
    if "ForSequenceClassification" not in name or classes < 2:
        raise ModelError(
            f"the teacher is a {name} with {classes} outputs; "
            "give a fine-tuned sequence classifier of two classes or more"
        )


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
    labels: Sequence[str | int] | None,
    transfer: Sequence[Text],
    dev: tuple[Sequence[Text], Sequence[str | int] | None] | None,
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
        found[name] = _tokenized(words, model, group, _indices(model, name, gold, len(group)), max_length)
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


def _indices(model: PreTrainedModel, name: str, labels: Sequence[str | int] | None, rows: int) -> Ints:
    """Gold labels as class indices, -1 where there are none."""
    if labels is None:
        return np.full(rows, -1, dtype=np.int64)
    if len(labels) != rows:
        raise LabelError(f"{name} has {rows} texts and {len(labels)} labels; give one label for each text")
    names = {str(label): index for label, index in model.config.label2id.items()}
    known: dict[str | int, int] = names | {index: index for index in range(model.config.num_labels)}
    values = [label if isinstance(label, str) else int(label) for label in labels]
    unknown = next((value for value in values if value not in known), None)
    if unknown is not None:
        raise LabelError(f"the teacher does not know the label {unknown!r} of {name}; it knows {', '.join(names)}")
    return np.array([known[value] for value in values], dtype=np.int64)


def _tokenized(
    words: PreTrainedTokenizerBase, model: PreTrainedModel, texts: Sequence[Text], labels: Ints, max_length: int
) -> TokenDataset:
    """Rows of token ids, with segment ids for pairs where the teacher's class has them."""
    from potstill.models.families import family_of

    columns = list(zip(*texts, strict=True)) if texts and not isinstance(texts[0], str) else [texts]
    encoded = (
        words(*map(list, columns), truncation=True, max_length=max_length, return_token_type_ids=True)
        if texts
        else {"input_ids": [], "token_type_ids": []}
    )
    types = len(columns) == 2 and family_of(model.config).token_types is not None
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
    from potstill.training.predict import accuracy, predict_logits
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
    answers = pooled(np.stack(held, axis=1), weights)
    gold = dev.labels if (dev.labels >= 0).all() else answers.argmax(axis=1)

    def score(model: PreTrainedModel) -> float:
        return accuracy(predict_logits(model, dev, device=where, precision=chosen), gold)

    signals = learned[0] if len(teachers) == 1 else np.stack(learned, axis=1)
    source = average(StoredSignals(signals, np.arange(len(rows))), weights)
    teaching = through_assistants(params, Teaching(first.model, source, params.layers), rows, score, setting)
    each = [teaching.layers] if params.mutual is None else params.mutual.students
    students = [student_from_layers(teaching.model, layers) for layers in each]
    objective = objective_for(params, students, teaching, setting)
    for line in objective.describe():
        say(f"distill: {line}")
    student = students[train_students(students, objective, rows, score, setting).place]
    report = {"rows": float(len(rows)), "dev_rows": float(len(dev))}
    return Distilled(student.cpu(), words, report | _scores(predict_logits(student, dev), answers, dev.labels))


def _scores(student: Floats, teacher: Floats, labels: Ints) -> dict[str, float]:
    from potstill.evaluation.metrics import accuracy, kl_divergence, log_softmax

    ours, theirs = student.argmax(axis=1), teacher.argmax(axis=1)
    found = {"agreement": accuracy(theirs, ours), "kl": kl_divergence(log_softmax(teacher), log_softmax(student))}
    if (labels >= 0).all():
        found |= {"accuracy": accuracy(labels, ours), "teacher_accuracy": accuracy(labels, theirs)}
    return found
