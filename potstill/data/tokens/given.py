"""Rows of token ids from texts and labels that a caller gives as lists, in the terms of a teacher."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from potstill.config.base import OF_PLACES
from potstill.data.annotated import asked
from potstill.data.formats.cells import is_absent
from potstill.data.formats.tagged import Tagged, from_spans, from_text
from potstill.data.tokens.batches import Ints, Labels, TokenDataset
from potstill.data.tokens.marking import ANSWERS, UNIT_LABELS
from potstill.data.tokens.windows import uncut
from potstill.errors import EmptyDataError, FormatError, LabelError, ModelError
from potstill.labels.names import LabelNames, normal_label
from potstill.labels.tags import OUTSIDE, split_tag, tag_set
from potstill.pretrained.heads import task_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A text, or the two texts of a pair.
Text = str | tuple[str, str]
# A class, a list of the labels that hold, a number, a list of entities, or answers.
Label = Any
# Rows held out for dev when none are given.
DEV_SHARE = 0.1


@dataclass(frozen=True)
class GivenRows:
    """Token ids and labels for training and for dev.

    Attributes:
        rows: for training.
        dev: for dev.
        files: where answers are places in a text, what `rows` are of, as the tokenize stage writes it.
        dev_files: what `dev` is of.
    """

    rows: TokenDataset
    dev: TokenDataset
    files: list[Path] = field(default_factory=list)
    dev_files: list[Path] = field(default_factory=list)


def given_rows(
    words: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    texts: Sequence[Text],
    labels: Sequence[Label] | None,
    transfer: Sequence[Text],
    dev: tuple[Sequence[Text], Sequence[Label] | None] | None,
    max_length: int,
    seed: int,
    folder: Path,
) -> GivenRows:
    """Token ids and labels for training and for dev.

    Args:
        words: the model's tokenizer.
        model: the teacher, or a student with a tokenizer of its own; of entities with its labels in the order of
            `tag_set` (`by_tag_set`).
        texts: to learn from.
        labels: of texts; None: none.
        transfer: further texts, without labels.
        dev: texts and labels; None: a tenth of `texts`, drawn by the seed.
        max_length: longest row in tokens.
        seed: of that draw.
        folder: for files; made here. What is returned does not need it, but for the files themselves.

    Raises:
        EmptyDataError: too few texts.
        FormatError: what is no text, or no pair where the first is one.
        LabelError: labels that are not of these texts, or not the teacher's.
    """
    groups = {"texts": (texts, labels), "transfer": (transfer, None)} | ({} if dev is None else {"dev": dev})
    pair = len(texts) > 0 and not isinstance(texts[0], str)
    if task_of(model) in OF_PLACES and len(texts) and pair != (task_of(model) == "question_answering"):
        wanted = "single texts" if pair else "pairs of a question and its context"
        raise FormatError(f"texts[0] is {texts[0]!r:.80}; a {task_of(model)} teacher takes {wanted}")
    given = {}
    for name, (group, gold) in groups.items():
        _check_texts(name, group, pair=pair)
        if name != "transfer" and len(group) < (2 if dev is None else 1):
            raise EmptyDataError(f"{name} has {len(group)} texts; give some more")
        given[name] = _Group.of(model, name, group, gold)
    folder.mkdir(parents=True)
    cut = _Cut(words, model, max_length, folder)
    found = {name: cut(name, group) for name, group in given.items() if name != "texts"}
    chosen = np.arange(len(texts))
    if dev is None:
        order = np.random.default_rng(seed).permutation(len(texts))
        held = max(round(DEV_SHARE * len(texts)), 1)
        chosen = np.sort(order[held:])
        found["dev"] = cut("dev", given["texts"].some(np.sort(order[:held])))
    found["train"] = cut("train", given["texts"].some(chosen))
    learned = ["train", *(["transfer"] if transfer else [])]
    rows = TokenDataset.concatenate([found[name] for name in learned])
    if task_of(model) not in OF_PLACES:
        return GivenRows(rows, found["dev"])
    return GivenRows(rows, found["dev"], [cut.file(name) for name in learned], [cut.file("dev")])


@dataclass(frozen=True)
class _Group:
    """Texts that a caller gave, with their gold labels.

    Attributes:
        name: what a sentence calls the texts.
        texts: [rows].
        gold: [rows, ...] in the form of the teacher's task; of answers that are places in a text as they were given,
            None where there are none.
        numbers: [rows] the place of each in the caller's list, for sentences.
    """

    name: str
    texts: Sequence[Text]
    gold: Any
    numbers: Ints

    @classmethod
    def of(cls, model: PreTrainedModel, name: str, texts: Sequence[Text], labels: Sequence[Label] | None) -> _Group:
        """Check the labels of all texts.

        Raises:
            LabelError: labels that are not of these texts, or not the teacher's.
        """
        if labels is not None and len(labels) != len(texts):
            raise LabelError(f"{name} has {len(texts)} texts and {len(labels)} labels; give one label for each text")
        gold = labels if task_of(model) in OF_PLACES else _gold(model, name, labels, len(texts))
        return cls(name, texts, gold, np.arange(len(texts)))

    def some(self, rows: Ints) -> _Group:
        """The texts with these row numbers."""
        texts = [self.texts[row] for row in rows.tolist()]
        gold = [self.gold[row] for row in rows.tolist()] if isinstance(self.gold, list) else self.gold
        return _Group(self.name, texts, gold[rows] if isinstance(gold, np.ndarray) else gold, self.numbers[rows])

    def place(self, row: int) -> str:
        """Where a row is in what the caller gave, as `texts[3]`."""
        return f"{self.name}[{self.numbers[row]}]"


def listed(name: str, values: Any) -> list[Any]:
    """What a caller gave in a row, as a list: lists, tuples, arrays, and columns of pandas and others by their order.

    Args:
        name: what a sentence calls them.
        values: iterable.

    Raises:
        FormatError: it is one string, a table, or nothing to go through.
    """
    if isinstance(values, str):
        raise FormatError(f"{name} is one string; give a list")
    if isinstance(values, Mapping) or hasattr(values, "columns"):
        raise FormatError(f"{name} is a {type(values).__name__}; give one column of it")
    try:
        return list(values)
    except TypeError as error:
        raise FormatError(f"{name} is {values!r:.80}; give a list") from error


def by_tag_set(model: PreTrainedModel) -> PreTrainedModel:
    """The model, or where it names entities in another order than `tag_set` a copy with its labels in that order.

    Raises:
        ModelError: its labels are no BIO tags.
    """
    from potstill.pretrained.output_layer import reorder_labels

    if task_of(model) != "token_classification":
        return model
    names = [str(name) for _, name in sorted(model.config.id2label.items())]
    try:
        types = [kind for _, kind in map(split_tag, names) if kind]
    except ValueError:
        types = []
    wanted = tag_set(types)
    if sorted(names) != sorted(wanted) or names == [OUTSIDE]:
        raise ModelError(
            f"the teacher's labels are {', '.join(names[:8])}, not O and for each type B-TYPE and I-TYPE; "
            "name them in its config (id2label)"
        )
    if names == wanted:
        return model
    found = copy.deepcopy(model)
    reorder_labels(found, [names.index(name) for name in wanted], wanted)
    return found


def by_all_labels(models: Sequence[PreTrainedModel]) -> tuple[list[PreTrainedModel], list[list[str] | None], list[str]]:
    """Teachers of several labels, each with an output for every label that one of them names, letter case aside.

    Returns:
        the models, or copies of them where they lack labels; the labels that each answers itself, None: all; and all
        labels, the first one's first. Of other tasks, where all have the same and where some have no names, the models
        as they are.
    """
    from potstill.pretrained.output_layer import label_order, reorder_labels
    from potstill.pretrained.output_names import unnamed

    names = [[str(name) for _, name in sorted(model.config.id2label.items())] for model in models]
    spelled: dict[str, str] = {}
    for name in (name for own in names for name in own):
        spelled.setdefault(name.lower(), name)
    labels, own_labels = [*spelled.values()], [[spelled[name.lower()] for name in own] for own in names]
    several = all(task_of(model) == "multi_label" for model in models)
    if not several or any(map(unnamed, names)) or all(len(own) == len(labels) for own in own_labels):
        return list(models), [None] * len(models), names[0]
    found = [copy.deepcopy(model) for model in models]
    for model, own in zip(found, own_labels, strict=True):
        reorder_labels(model, label_order(own, labels), labels)
    return found, [*own_labels], labels


def _check_texts(name: str, texts: Sequence[Text], *, pair: bool) -> None:
    for row, text in enumerate(texts):
        parts = text if pair and isinstance(text, (tuple, list)) else (text,)
        if len(parts) != (2 if pair else 1) or not all(isinstance(part, str) for part in parts):
            wanted = "a pair of strings" if pair else "a string"
            raise FormatError(f"{name}[{row}] is {text!r:.80}; it has to be {wanted}, as texts[0] is")


def _gold(model: PreTrainedModel, name: str, labels: Sequence[Label] | None, rows: int) -> Labels:
    """[rows, ...] gold labels in the form of the teacher's task; -1 or NaN where there are none."""
    task = task_of(model)
    if task == "regression":
        return np.full(rows, np.nan, dtype=np.float32) if labels is None else _numbers(name, labels)
    if task == "multi_label":
        return _flags(model, name, labels, rows)
    return np.full(rows, -1, dtype=np.int64) if labels is None else _indices(model, name, labels)


def _numbers(name: str, labels: Sequence[Any]) -> Labels:
    """[rows] finite numbers in float32."""
    found = np.empty(len(labels), dtype=np.float32)
    for row, label in enumerate(labels):
        try:
            found[row] = _present(name, row, label)
        except (TypeError, ValueError):
            found[row] = np.nan
        if not np.isfinite(found[row]):
            raise LabelError(
                f"the label of {name}[{row}] is {label!r:.60}, but the teacher gives a number for each text; correct "
                "or remove the row"
            )
    return found


def _flags(model: PreTrainedModel, name: str, labels: Sequence[Any] | None, rows: int) -> Labels:
    """[rows, labels] 1 where a label holds."""
    found = np.full((rows, model.config.num_labels), -1 if labels is None else 0, dtype=np.int64)
    known = _known(model)
    for row, held in enumerate(labels or ()):
        if isinstance(held, str) or not isinstance(held, (Sequence, np.ndarray, set, frozenset)):
            raise LabelError(f"{name}[{row}] has the label {held!r}; give a list of those that hold")
        classes = [_index(known, name, row, label) for label in held]
        if len(set(classes)) < len(classes):
            raise LabelError(
                f"{name}[{row}] names a label twice ({held!r:.80}); give a list of the labels that hold, each once, "
                "and no flags of 0 and 1"
            )
        found[row, classes] = 1
    return found


def _indices(model: PreTrainedModel, name: str, labels: Sequence[Any]) -> Ints:
    """[rows] labels as the indices of the teacher's outputs."""
    known = _known(model)
    return np.array([_index(known, name, row, label) for row, label in enumerate(labels)], dtype=np.int64)


def _known(model: PreTrainedModel) -> LabelNames:
    """The teacher's labels in the order of its outputs."""
    return LabelNames(str(label) for _, label in sorted(model.config.id2label.items()))


def _index(known: LabelNames, name: str, row: int, label: Any) -> int:
    """The class that a label means: by its name, or where names are no numbers by its number.

    Raises:
        LabelError: there is no label, or the teacher does not know it.
    """
    found = known.find(_present(name, row, label))
    if found is not None:
        return known.labels.index(found)
    key = normal_label(label)
    counted = not isinstance(label, str) and key.isdecimal() and int(key) < len(known.labels)
    if counted and not any(normal_label(one).isdecimal() for one in known.labels):
        return int(key)
    names = ", ".join(map(str, known.labels))
    raise LabelError(f"the teacher does not know the label {label!r:.60} of {name}[{row}]; it knows {names}")


def _present(name: str, row: int, label: Any) -> Any:
    """The label; raises LabelError where there is none (None, NaN and their like of pandas, or nothing but blanks)."""
    if is_absent(label):
        raise LabelError(f"{name}[{row}] has no label ({label!r}); label it, remove it, or give its text as transfer")
    return label


@dataclass(frozen=True)
class _Cut:
    """What cuts texts into a model's tokens."""

    words: PreTrainedTokenizerBase
    model: PreTrainedModel
    max_length: int
    folder: Path

    def file(self, split: str) -> Path:
        """The file of a split, where answers are places in a text."""
        return self.folder / f"{split}.arrow"

    def __call__(self, split: str, group: _Group) -> TokenDataset:
        """Rows of token ids."""
        if task_of(self.model) not in OF_PLACES:
            return _tokenized(self.words, self.model, group.texts, group.gold, self.max_length)
        return _marked(self.words, self.model, _table(self.model, group), self.max_length, self.file(split))


def _tokenized(
    words: PreTrainedTokenizerBase, model: PreTrainedModel, texts: Sequence[Text], gold: Labels, max_length: int
) -> TokenDataset:
    """Rows of token ids, with segment ids for pairs where the model's class has them."""
    from potstill.pretrained.families import tells_texts_apart

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
        gold,
        words.pad_token_id or 0,
    )


def _flat(rows: Sequence[Sequence[int]]) -> Ints:
    return np.array([value for row in rows for value in row], dtype=np.int64)


# --- answers that are places in a text --------------------------------------------------------------------------------


def _table(model: PreTrainedModel, group: _Group) -> pa.Table:
    """Cleaned texts and their marks in the form of `data/prepared`."""
    texts: Sequence[Any] = group.texts
    labels = group.gold
    if task_of(model) == "question_answering":
        rows = [
            asked(text[0], text[1], None if labels is None else labels[row], group.place(row), labels is not None)
            for row, text in enumerate(texts)
        ]
        marks = [None if row.label is None else [[unit[0], unit[1]] for unit in row.label] for row in rows]
        columns = {"text": [row.text for row in rows], "text_pair": [row.text_pair or "" for row in rows]}
        form: pa.DataType = ANSWERS
    else:
        known = {str(tag): index for tag, index in model.config.label2id.items()}
        found = [
            from_text(text) if labels is None else from_spans(text, labels[row], group.place(row))
            for row, text in enumerate(texts)
        ]
        columns, form = {"text": [row.text for row in found]}, UNIT_LABELS
        marks = [None if row.tags is None else _classes(row, known, group.place(at)) for at, row in enumerate(found)]
    ids = pa.array([str(row) for row in range(len(texts))], pa.string())
    return pa.table({"id": ids, **{key: pa.array(values, pa.string()) for key, values in columns.items()},
                     "label": pa.array(marks, form)})  # fmt: skip


def _classes(row: Tagged, known: Mapping[str, int], where: str) -> list[list[int]]:
    """[units] first character, the one after the last, and class of each."""
    tags = row.tags or ()
    unknown = next((tag for tag in tags if tag not in known), None)
    if unknown is not None:
        types = ", ".join(dict.fromkeys(kind for _, kind in map(split_tag, known) if kind))
        raise LabelError(f"the teacher does not know the type {unknown[2:]!r} of {where}; it knows {types}")
    return [[unit.start, unit.end, known[tag]] for unit, tag in zip(row.units, tags, strict=True)]


def _marked(
    words: PreTrainedTokenizerBase, model: PreTrainedModel, table: pa.Table, max_length: int, path: Path
) -> TokenDataset:
    """The tokens of such rows, as the tokenize stage writes them."""
    from potstill.data.tokens.tokenization import write_tokens
    from potstill.pretrained.families import tells_texts_apart

    types = "text_pair" in table.column_names and tells_texts_apart(model.config.to_dict())
    write_tokens(table, backend_of(words, max_length), path, token_types=types)
    # Mapped: the rows stay when the file's name goes.
    return TokenDataset.open(path, words.pad_token_id or 0)


def backend_of(words: PreTrainedTokenizerBase, max_length: int) -> Tokenizer:
    """A tokenizer's fast form, which cuts and does not pad; the tokenizer stays as it is.

    Raises:
        ModelError: it has none.
    """
    backend: Tokenizer | None = getattr(words, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"the tokenizer is a {type(words).__name__}, which has no fast form; give one that has")
    tokenizer = uncut(backend)
    tokenizer.enable_truncation(max_length)
    return tokenizer
