"""Section `prepare`: tables, texts, labels and splits."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import Interval, Positive, Share, Strict, TaskKind, check_interval


class Table(Strict):
    """Files of one source that share a format and a role."""

    source: str
    files: str = "*"
    # lines: each line of a file is one text.
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "conll", "saved", "lines"] = "auto"
    # Of CSV files the sign between cells; null: comma, semicolon, tab or pipe, whichever divides the rows.
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    # Names for files without a header row; of `lines` one name, `text` if it is not given.
    columns: list[str] | None = None
    # Columns that have one value in all rows of these files, such as the label where each class has a file.
    constants: dict[str, str | int] = {}
    # Overrides of prepare.text for this table; `transfer` tables need no label.
    text: str | list[str] | None = None
    # auto: as a column, the data set or the names of the files say, else drawn; draw: put together and drawn anew.
    split: Literal["auto", "draw", "train", "dev", "test", "transfer"] = "auto"
    # A column that holds train/dev/validation/test for each row; wins over `split`.
    split_column: str | None = None

    @model_validator(mode="after")
    def _separate_cells(self) -> Self:
        if self.separator is not None and self.format not in ("auto", "csv", "tsv"):
            raise ValueError(f"separator is of CSV files, but format is {self.format}; leave one of them out")
        return self


class LabelColumn(Strict):
    """The label is the value of a column: strings or integers of any set.

    Of a multi_label task it is a list of them, or a string that `separator` takes apart; an empty one has no label.
    """

    kind: Literal["column"]
    column: str
    separator: Annotated[str, Field(min_length=1)] | None = None
    # Values that stand for "no label", such as -1; their rows go unlabelled to the transfer set.
    missing: list[str | int] = []


class LabelColumns(Strict):
    """Several labels, each a column of its name that holds 0 or 1."""

    kind: Literal["columns"]
    columns: Annotated[list[str], Field(min_length=2)]


class LabelRanges(Strict):
    """Several labels of one number: each holds where the number is within one of its intervals, ends included."""

    kind: Literal["ranges"]
    column: str
    ranges: Annotated[dict[str, Annotated[list[Interval], Field(min_length=1)]], Field(min_length=2)]

    @model_validator(mode="after")
    def _order_bounds(self) -> Self:
        for name, intervals in self.ranges.items():
            for interval in intervals:
                check_interval(interval, f"ranges.{name}")
        return self


class LabelNumber(Strict):
    """The label is a number; one outside `range` is refused."""

    kind: Literal["number"]
    column: str
    range: Interval | None = None

    @model_validator(mode="after")
    def _order_bounds(self) -> Self:
        if self.range is not None:
            check_interval(self.range, "range")
        return self


class LabelOrder(Strict):
    """Rows are put together in twos; the label of such a pair says which of its texts has the higher number.

    Each row is in one pair at most. A pair whose numbers are nearer than `min_gap` goes unlabelled to the transfer set.
    """

    kind: Literal["order"]
    column: str
    first: str = "first"
    second: str = "second"
    min_gap: Annotated[float, Field(ge=0)] = 0.0


class LabelSign(Strict):
    """The label is the sign of a number; rows nearer to zero than `unclear_below` go unlabelled to the transfer set."""

    kind: Literal["sign"]
    column: str
    negative: str = "negative"
    positive: str = "positive"
    unclear_below: Annotated[float, Field(ge=0)] = 0.0


class LabelTags(Strict):
    """Entities as lists: `prepare.text` names a column of words, this one their BIO tags (texts, or class names)."""

    kind: Literal["tags"]
    column: str
    # auto: as the tags look. BIO1: B only where an entity follows another of its type. BIOES (also BMES) and BILOU mark
    # ends and single words. IO: types alone, with or without I-.
    scheme: Literal["auto", "BIO2", "BIO1", "BIOES", "BILOU", "IO"] = "auto"
    # Of integer tags the names, in the order of the integers: [O, B-PER, I-PER]; null: those of the data's own schema.
    names: Annotated[list[str], Field(min_length=2)] | None = None
    # Between words in the text; empty where the words are characters, or the script has no spaces.
    between: Literal[" ", ""] = " "


class LabelSpans(Strict):
    """Entities as characters of the text: a list of {"start": 0, "end": 5, "label": "LOC"} or [0, 5, "LOC"]."""

    kind: Literal["spans"]
    column: str


class LabelWords(Strict):
    """Entities in the text itself, where each word carries a tag: `中国/ns 人民/n`; `types` says which are entities."""

    kind: Literal["words"]
    separator: Annotated[str, Field(min_length=1)] = "/"
    # Tag of a word -> type of entity.
    types: Annotated[dict[str, str], Field(min_length=1)]
    # Tags of which two adjacent words are one entity, as surname and given name are.
    joined: list[str] = []
    between: Literal[" ", ""] = " "

    @model_validator(mode="after")
    def _join_entities_only(self) -> Self:
        if unknown := sorted(set(self.joined) - set(self.types)):
            raise ValueError(f"joined names {unknown[0]!r}, which is not among types ({', '.join(self.types)})")
        return self


class LabelAnswers(Strict):
    """Answers to questions in SQuAD's form: {"text": ["Paris"], "answer_start": [17]}, empty lists where there is none.

    `prepare.text` names the two columns, question first.
    """

    kind: Literal["answers"]
    column: str = "answers"


# The label is a value of the row; or it is marked in the row's text.
ValueLabel = LabelColumn | LabelSign | LabelOrder | LabelColumns | LabelRanges | LabelNumber
MarkLabel = LabelTags | LabelSpans | LabelWords | LabelAnswers
Label = Annotated[ValueLabel | MarkLabel, Field(discriminator="kind")]
LABEL_KINDS: dict[TaskKind, tuple[str, ...]] = {
    "single_label": ("column", "sign", "order"),
    "multi_label": ("column", "columns", "ranges"),
    "regression": ("number",),
    "token_classification": ("tags", "spans", "words"),
    "question_answering": ("answers",),
}


class Split(Strict):
    """Shares of the labelled rows that have no given split; a row's place is a seeded hash of its text."""

    dev: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0)] = 0
    # Class -> seed of its rows, where `seed` leaves a split without it. Of several labels a row has that of the first
    # class here that it carries.
    class_seeds: dict[str | int, Annotated[int, Field(ge=0)]] = {}

    @model_validator(mode="after")
    def _leave_train(self) -> Self:
        if self.dev + self.test >= 1:
            raise ValueError(f"dev + test is {self.dev + self.test}; leave a share for train, below 1")
        return self


class Augment(Strict):
    """Changed training texts as further transfer rows: they carry the teacher's signals and no gold label."""

    # Of each training text: one cut alone, and a cut of it before a cut of another.
    crops: Annotated[int, Field(ge=0, le=20)] = 1
    splices: Annotated[int, Field(ge=0, le=20)] = 1
    # Copies with words behind the mask token, with short spans of words in another order, and with words replaced by
    # the guesses of `ingest.generator`, a masked language model (TinyBERT).
    masks: Annotated[int, Field(ge=0, le=20)] = 0
    shuffles: Annotated[int, Field(ge=0, le=20)] = 0
    replacements: Annotated[int, Field(ge=0, le=20)] = 0
    # Of the words that are masked or replaced.
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    # As the tokenizers of teacher and student write it.
    mask_token: Annotated[str, Field(min_length=1)] = "[MASK]"
    seed: Annotated[int, Field(ge=0)] = 0


class Prepare(Strict):
    """Columns, cleaning, deduplication and splits."""

    # Decides the form of the labels, the model's head, its losses and scores, and what the service answers.
    task: TaskKind = "single_label"
    tables: Annotated[list[Table], Field(min_length=1)]
    text: str | Annotated[list[str], Field(min_length=2, max_length=2)]
    label: Label
    # The declared label set, in the order of the class indices; null takes the sorted set found in the data. Of
    # token_classification: the types of entities.
    labels: Annotated[list[str | int], Field(min_length=1)] | None = None
    split: Split = Split()
    # What becomes of a row that needs a label and has none, or that an annotation tool calls rejected, ignored or not
    # agreed on. ask: it is refused; transfer: its text is learnt from without a label; leave_out: it is dropped.
    unlabelled: Literal["ask", "transfer", "leave_out"] = "ask"
    # Jaccard similarity of word 3-grams from which two texts are near copies; null: exact copies only.
    near_duplicate: Annotated[float, Field(gt=0, le=1)] | None = 0.8
    # Given splits: the share of test rows found in train above which the data is refused (below: removed, counted).
    max_leakage: Share = 0.05
    max_cell_characters: Positive = 100_000
    augment: Augment | None = None

    @property
    def pair(self) -> bool:
        """Whether a row is two texts."""
        return not isinstance(self.text, str) or isinstance(self.label, LabelOrder)

    @model_validator(mode="after")
    def _augment_single_texts(self) -> Self:
        if self.augment is not None and self.pair:
            raise ValueError("augment cuts single texts; set it to null for pairs")
        return self

    @model_validator(mode="after")
    def _label_fits_the_task(self) -> Self:
        kinds = LABEL_KINDS[self.task]
        if self.label.kind not in kinds:
            raise ValueError(
                f"label.kind is {self.label.kind}, which a {self.task} task does not have; "
                f"use {' or '.join(kinds)}, or change task"
            )
        if self.labels is not None and len(self.labels) < 2 and self.task != "token_classification":
            raise ValueError(f"labels is {self.labels}; name two at least")
        if self.task == "token_classification" and not isinstance(self.text, str):
            raise ValueError("entities are of single texts; name one column under text")
        if self.task == "question_answering" and isinstance(self.text, str):
            raise ValueError("a question is about a context; name two columns under text: [question, context]")
        if self.labels is not None and self.label.kind in ("columns", "ranges", "number", "answers"):
            raise ValueError(f"labels is given, but label.kind {self.label.kind} names its labels itself; leave it out")
        if isinstance(self.label, LabelColumn) and self.label.separator is not None and self.task != "multi_label":
            raise ValueError("label.separator takes several labels apart; set task to multi_label or leave it out")
        if self.split.class_seeds and self.task in ("regression", "question_answering"):
            raise ValueError(f"split.class_seeds is given, but a {self.task} task has no classes; leave it out")
        if isinstance(self.label, LabelOrder) and not isinstance(self.text, str):
            raise ValueError("label.kind order makes pairs of single texts; name one column under text")
        return self
