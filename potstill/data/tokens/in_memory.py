"""Tokenizes texts and labels that a caller passes as lists, with the tokenizer and labels of a teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from potstill.data.annotated import read_question
from potstill.data.formats.cells import is_absent
from potstill.data.formats.tagged import TaggedText, tag_spans, tag_text
from potstill.data.tokens.batches import Ints, Labels, TokenDataset
from potstill.data.tokens.marking import ANSWERS, UNIT_LABELS
from potstill.data.tokens.tokenization import write_tokens
from potstill.errors import EmptyDataError, FormatError, LabelError, ModelError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.labels.names import LabelNames, normal_label
from potstill.labels.tags import OUTSIDE, split_tag, tag_set
from potstill.labels.windows import without_truncation
from potstill.pretrained.families import tells_texts_apart
from potstill.pretrained.heads import task_of
from potstill.pretrained.output_names import names_of_outputs, unnamed

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A text, or the two texts of a pair.
Text = str | tuple[str, str]
# A class, a list of the labels that apply, a number, a list of entities, or answers.
Label = Any
# The share of rows that is held out for dev if no dev rows are given.
DEV_SHARE = 0.1


@dataclass(frozen=True)
class InMemoryRows:
    """Token ids and labels for training and dev.

    Attributes:
        rows: for training.
        dev: for dev.
        files: the files of `rows`, as the tokenize stage writes them. Only tasks whose answers are positions in a text
            have files.
        dev_files: the files of `dev`.
    """

    rows: TokenDataset
    dev: TokenDataset
    files: list[Path] = field(default_factory=list)
    dev_files: list[Path] = field(default_factory=list)


def tokenize_in_memory(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    texts: Sequence[Text],
    labels: Sequence[Label] | None,
    transfer: Sequence[Text],
    dev: tuple[Sequence[Text], Sequence[Label] | None] | None,
    max_length: int,
    seed: int,
    folder: Path,
) -> InMemoryRows:
    """Tokenize texts and labels for training and dev.

    Args:
        tokenizer: the model's tokenizer.
        model: the teacher, or a student with a tokenizer of its own. For entities its labels are in the order of
            `tag_set` (see `with_tag_set_order`).
        texts: to train on.
        labels: of texts; None: none.
        transfer: further texts, without labels.
        dev: texts and labels; None: a tenth of `texts`, drawn by the seed.
        max_length: longest row in tokens.
        seed: of that draw.
        folder: a new folder for files. It can be deleted later, unless the files themselves are needed.

    Raises:
        EmptyDataError: too few texts.
        FormatError: an item is no text, or no pair although the first one is.
        LabelError: the labels do not belong to the texts, or are not the teacher's.
    """
    groups = {"texts": (texts, labels), "transfer": (transfer, None)}
    if dev is not None:
        groups["dev"] = dev
    pair = len(texts) > 0 and not isinstance(texts[0], str)
    task = task_of(model)
    if KINDS[task].marks_spans and len(texts) and pair != (KINDS[task].form == "span"):
        expected = "single texts" if pair else "pairs of a question and its context"
        raise FormatError(f"texts[0] is {texts[0]!r:.80}; a {task} teacher takes {expected}")
    checked = {}
    for name, (group, gold) in groups.items():
        _check_texts(name, group, pair=pair)
        if name != "transfer" and len(group) < (2 if dev is None else 1):
            raise EmptyDataError(f"{name} has {len(group)} texts; give some more")
        checked[name] = _LabelledTexts.of(model, name, group, gold)
    train = checked.pop("texts")
    if dev is None:
        train, checked["dev"] = _hold_out_dev(train, seed)
    folder.mkdir(parents=True)
    tokenize = _Tokenize(tokenizer, model, max_length, folder)
    datasets = {name: tokenize(name, group) for name, group in {**checked, "train": train}.items()}
    learned = ["train", *(["transfer"] if transfer else [])]
    rows = TokenDataset.concatenate([datasets[name] for name in learned])
    if not KINDS[task].marks_spans:
        return InMemoryRows(rows, datasets["dev"])
    return InMemoryRows(rows, datasets["dev"], [tokenize.file(name) for name in learned], [tokenize.file("dev")])


def _hold_out_dev(texts: _LabelledTexts, seed: int) -> tuple[_LabelledTexts, _LabelledTexts]:
    """Draw dev rows by the seed. Returns the texts for training and for dev, each in its original order."""
    order = np.random.default_rng(seed).permutation(len(texts.texts))
    dev_rows = max(round(DEV_SHARE * len(order)), 1)
    return texts.select(np.sort(order[dev_rows:])), texts.select(np.sort(order[:dev_rows]))


@dataclass(frozen=True)
class _LabelledTexts:
    """Texts from a caller, with their gold labels.

    Attributes:
        name: the name of the texts in messages.
        texts: [rows].
        gold: [rows, ...] in the form of the teacher's task. Answers that are positions in a text are not converted, and
            None if there are none.
        numbers: [rows] index of each text in the caller's list, for messages.
    """

    name: str
    texts: Sequence[Text]
    gold: Any
    numbers: Ints

    @classmethod
    def of(
        cls, model: PreTrainedModel, name: str, texts: Sequence[Text], labels: Sequence[Label] | None
    ) -> _LabelledTexts:
        """Check the labels of all texts.

        Raises:
            LabelError: the labels do not belong to the texts, or are not the teacher's.
        """
        if labels is not None and len(labels) != len(texts):
            raise LabelError(f"{name} has {len(texts)} texts and {len(labels)} labels; give one label for each text")
        gold = labels if KINDS[task_of(model)].marks_spans else _gold(model, name, labels, len(texts))
        return cls(name, texts, gold, np.arange(len(texts)))

    def select(self, rows: Ints) -> _LabelledTexts:
        """Select the texts with these row numbers."""
        gold = self.gold
        if isinstance(gold, list):
            gold = [gold[row] for row in rows.tolist()]
        elif gold is not None:
            gold = gold[rows]
        return _LabelledTexts(self.name, [self.texts[row] for row in rows.tolist()], gold, self.numbers[rows])

    def location(self, row: int) -> str:
        """Name a row's index in the caller's list, such as `texts[3]`."""
        return f"{self.name}[{self.numbers[row]}]"


def as_list(name: str, values: Any) -> list[Any]:
    """Convert a caller's sequence to a list: a list, a tuple, an array, or a column of pandas and others.

    Args:
        name: its name in messages.
        values: an iterable.

    Raises:
        FormatError: it is a string, a table, or not iterable.
    """
    if isinstance(values, str):
        raise FormatError(f"{name} is one string; give a list")
    if isinstance(values, Mapping) or hasattr(values, "columns"):
        raise FormatError(f"{name} is a {type(values).__name__}; give one column of it")
    try:
        return list(values)
    except TypeError as error:
        raise FormatError(f"{name} is {values!r:.80}; give a list") from error


def with_tag_set_order(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model, or a copy with its labels in the order of `tag_set` if it names entities in another order.

    Raises:
        ModelError: its labels are no BIO tags.
    """
    from potstill.pretrained.output_layer import reorder_labels

    if KINDS[task_of(model)].form != "entities":
        return model
    names = names_of_outputs(model)
    try:
        types = [kind for _, kind in map(split_tag, names) if kind]
    except ValueError:
        types = []
    tags = tag_set(types)
    if sorted(names) != sorted(tags) or names == [OUTSIDE]:
        raise ModelError(
            f"the teacher's labels are {', '.join(names[:8])}, not O and for each type B-TYPE and I-TYPE; "
            "name them in its config (id2label)"
        )
    if names == tags:
        return model
    reordered = copy.deepcopy(model)
    reorder_labels(reordered, [names.index(name) for name in tags], tags)
    return reordered


def with_all_labels(
    models: Sequence[PreTrainedModel],
) -> tuple[list[PreTrainedModel], list[list[str] | None], list[str]]:
    """Give each multi-label teacher an output for every label that one of them names, regardless of letter case.

    Returns:
        The models, or copies of them if they lack labels; the labels that each one answers itself, None for all; and
        all labels, those of the first model first. For other tasks, and if all models have the same labels or some have
        no names, the models are unchanged.
    """
    from potstill.pretrained.output_layer import label_order, reorder_labels

    names = [names_of_outputs(model) for model in models]
    spelling: dict[str, str] = {}
    for model_names in names:
        for name in model_names:
            spelling.setdefault(name.lower(), name)
    labels = [*spelling.values()]
    answered = [[spelling[name.lower()] for name in model_names] for model_names in names]
    multi_label = all(KINDS[task_of(model)].form == "labels" for model in models)
    if not multi_label or any(map(unnamed, names)) or all(len(own) == len(labels) for own in answered):
        return list(models), [None] * len(models), names[0]
    copies = [copy.deepcopy(model) for model in models]
    for model, own_labels in zip(copies, answered, strict=True):
        reorder_labels(model, label_order(own_labels, labels), labels)
    return copies, [*answered], labels


def _check_texts(name: str, texts: Sequence[Text], *, pair: bool) -> None:
    for row, text in enumerate(texts):
        parts = text if pair and isinstance(text, (tuple, list)) else (text,)
        if len(parts) != (2 if pair else 1) or not all(isinstance(part, str) for part in parts):
            expected = "a pair of strings" if pair else "a string"
            raise FormatError(f"{name}[{row}] is {text!r:.80}; it has to be {expected}, as texts[0] is")


def _gold(model: PreTrainedModel, name: str, labels: Sequence[Label] | None, rows: int) -> Labels:
    """Convert labels to the form of the teacher's task: [rows, ...], -1 or NaN if there are none."""
    task = task_of(model)
    if KINDS[task].form == "number":
        return np.full(rows, np.nan, dtype=np.float32) if labels is None else _gold_numbers(name, labels)
    if KINDS[task].form == "labels":
        return _gold_flags(model, name, labels, rows)
    if labels is None:
        return np.full(rows, -1, dtype=np.int64)
    known = LabelNames(names_of_outputs(model))
    return np.array([_index(known, name, row, label) for row, label in enumerate(labels)], dtype=np.int64)


def _gold_numbers(name: str, labels: Sequence[Any]) -> Labels:
    """Convert labels to finite numbers: [rows] float32."""
    numbers = np.empty(len(labels), dtype=np.float32)
    for row, label in enumerate(labels):
        try:
            numbers[row] = _require_label(name, row, label)
        except (TypeError, ValueError):
            numbers[row] = np.nan
        if not np.isfinite(numbers[row]):
            raise LabelError(
                f"the label of {name}[{row}] is {label!r:.60}, but the teacher gives a number for each text; correct "
                "or remove the row"
            )
    return numbers


def _gold_flags(model: PreTrainedModel, name: str, labels: Sequence[Any] | None, rows: int) -> Labels:
    """Convert lists of labels to flags: [rows, labels], 1 for a label that applies."""
    flags = np.full((rows, model.config.num_labels), -1 if labels is None else 0, dtype=np.int64)
    known = LabelNames(names_of_outputs(model))
    for row, row_labels in enumerate(labels or ()):
        if isinstance(row_labels, str) or not isinstance(row_labels, (Sequence, np.ndarray, set, frozenset)):
            raise LabelError(f"{name}[{row}] has the label {row_labels!r}; give a list of those that apply")
        classes = [_index(known, name, row, label) for label in row_labels]
        if len(set(classes)) < len(classes):
            raise LabelError(
                f"{name}[{row}] names a label twice ({row_labels!r:.80}); give a list of the labels that apply, each "
                "once, and no flags of 0 and 1"
            )
        flags[row, classes] = 1
    return flags


def _index(known: LabelNames, name: str, row: int, label: Any) -> int:
    """Find the class of a label by its name, or by its index if no name is a number.

    Raises:
        LabelError: there is no label, or the teacher does not know it.
    """
    known_label = known.find(_require_label(name, row, label))
    if known_label is not None:
        return known.labels.index(known_label)
    key = normal_label(label)
    is_index = not isinstance(label, str) and key.isdecimal() and int(key) < len(known.labels)
    if is_index and not any(normal_label(label_name).isdecimal() for label_name in known.labels):
        return int(key)
    names = ", ".join(map(str, known.labels))
    raise LabelError(f"the teacher does not know the label {label!r:.60} of {name}[{row}]; it knows {names}")


def _require_label(name: str, row: int, label: Any) -> Any:
    """Return the label.

    Raises:
        LabelError: it is missing: None, NaN, a missing value of pandas, or only white space.
    """
    if is_absent(label):
        raise LabelError(f"{name}[{row}] has no label ({label!r}); label it, remove it, or give its text as transfer")
    return label


@dataclass(frozen=True)
class _Tokenize:
    """Tokenizes the texts of a split."""

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    max_length: int
    folder: Path

    def file(self, split: str) -> Path:
        """The file of a split, for tasks whose answers are positions in a text."""
        return self.folder / f"{split}.arrow"

    def __call__(self, split: str, group: _LabelledTexts) -> TokenDataset:
        """Tokenize texts into rows."""
        if KINDS[task_of(self.model)].marks_spans:
            return self._with_positions(_prepared_table(self.model, group), self.file(split))
        texts = group.texts
        columns = list(zip(*texts, strict=True)) if texts and not isinstance(texts[0], str) else [texts]
        encoded: Mapping[str, Any] = {"input_ids": [], "token_type_ids": []}
        if texts:
            encoded = self.tokenizer(
                *map(list, columns), truncation=True, max_length=self.max_length, return_token_type_ids=True
            )
        return TokenDataset(
            _flat(encoded["input_ids"]).astype(np.int32),
            np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64),
            _flat(encoded["token_type_ids"]).astype(np.int8) if self._has_types(pair=len(columns) == 2) else None,
            group.gold,
            self.tokenizer.pad_token_id or 0,
        )

    def _with_positions(self, table: pa.Table, path: Path) -> TokenDataset:
        """Tokenize rows into a file, as the tokenize stage writes it."""
        types = self._has_types(pair="text_pair" in table.column_names)
        write_tokens(table, fast_tokenizer(self.tokenizer, self.max_length), path, token_types=types)
        # The file is mapped, so the rows stay after it is deleted.
        return TokenDataset.open(path, self.tokenizer.pad_token_id or 0)

    def _has_types(self, *, pair: bool) -> bool:
        """Whether rows have segment ids: those of pairs, if the model's class distinguishes them."""
        return pair and tells_texts_apart(self.model.config.to_dict())


def _flat(rows: Sequence[Sequence[int]]) -> Ints:
    return np.array([value for row in rows for value in row], dtype=np.int64)


# --- answers that are positions in a text -----------------------------------------------------------------------------


def _prepared_table(model: PreTrainedModel, group: _LabelledTexts) -> pa.Table:
    """Clean texts and their marks into the columns of `data/prepared`."""
    ids = pa.array([str(row) for row in range(len(group.texts))], pa.string())
    if KINDS[task_of(model)].form == "span":
        return pa.table({"id": ids, **_question_columns(group)})
    return pa.table({"id": ids, **_entity_columns(model, group)})


def _question_columns(group: _LabelledTexts) -> dict[str, pa.Array]:
    labels = group.gold
    has_labels = labels is not None
    texts: Sequence[Any] = group.texts
    rows = [
        read_question(question, context, labels[row] if has_labels else None, group.location(row), has_labels)
        for row, (question, context) in enumerate(texts)
    ]
    marks = [[unit[:2] for unit in row.label] if isinstance(row.label, tuple) else None for row in rows]
    return {
        "text": pa.array([row.text for row in rows], pa.string()),
        "text_pair": pa.array([row.text_pair or "" for row in rows], pa.string()),
        "label": pa.array(marks, ANSWERS),
    }


def _entity_columns(model: PreTrainedModel, group: _LabelledTexts) -> dict[str, pa.Array]:
    labels = group.gold
    classes = {str(tag): index for tag, index in model.config.label2id.items()}
    rows = [
        tag_text(text) if labels is None else tag_spans(text, labels[row], group.location(row))
        for row, text in enumerate(group.texts)
    ]
    marks = [
        None if row.tags is None else _unit_classes(row, classes, group.location(number))
        for number, row in enumerate(rows)
    ]
    return {"text": pa.array([row.text for row in rows], pa.string()), "label": pa.array(marks, UNIT_LABELS)}


def _unit_classes(row: TaggedText, known: Mapping[str, int], location: str) -> list[list[int]]:
    """List [start, end, class] of each unit."""
    tags = row.tags or ()
    unknown = next((tag for tag in tags if tag not in known), None)
    if unknown is not None:
        types = ", ".join(dict.fromkeys(kind for _, kind in map(split_tag, known) if kind))
        raise LabelError(f"the teacher does not know the type {unknown[2:]!r} of {location}; it knows {types}")
    return [[unit.start, unit.end, known[tag]] for unit, tag in zip(row.units, tags, strict=True)]


def fast_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokenizer:
    """Copy a tokenizer's fast form, which truncates and does not pad.

    Raises:
        ModelError: it has none.
    """
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"the tokenizer is a {type(tokenizer).__name__}, which has no fast form; give one that has")
    fast = without_truncation(backend)
    fast.enable_truncation(max_length)
    return fast
