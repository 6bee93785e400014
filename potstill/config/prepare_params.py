"""Section `prepare`: tables, texts, labels and splits."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveInt, model_validator

from potstill.config.base import Interval, Share, Strict
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.names import normal_label

# Columns of the splits themselves, and what `evaluate.slices` adds to them.
PREPARED_COLUMNS = ("id", "text", "text_pair", "label", "length")
# Seeds of the hash of texts, whose salt has 8 bytes.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
# Copies of each training text.
Copies = Annotated[int, Field(ge=0, le=20)]
Name = TypeVar("Name", str, str | int)


def _different(names: list[Name]) -> list[Name]:
    """Refuse two labels with one normal name. pydantic adds the key and the value to the message."""
    if len({normal_label(name) for name in names}) < len(names):
        raise ValueError("it names a label twice; remove one")
    return names


# A column of texts, or the two columns of a pair.
Text = str | Annotated[list[str], Field(min_length=2, max_length=2)]


class Table(Strict):
    """Files of one source that have the same format and the same role."""

    source: str
    """Name of the source in ingest.data."""
    files: str = "*"
    """Pattern of the file names: `*.csv`."""
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "conll", "saved", "lines"] = "auto"
    """Format of the files. auto: recognised by name and content; saved: `save_to_disk` of the library datasets; lines:
    a text in each line."""
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Character between the cells of CSV files. null: comma, semicolon, tab or pipe, whichever divides the rows."""
    columns: list[str] | None = None
    """Names of the columns, for files without a header row; for lines the one name of its column. null: the header's
    names, and `text` for lines."""
    constants: dict[str, str | int] = {}
    """Columns with one value in all rows, such as the label if each class has a file of its own."""
    text: Text | None = None
    """prepare.text for these files. null: prepare.text."""
    split: Literal["auto", "draw", "train", "dev", "test", "transfer", "shift"] = "auto"
    """Split of the rows. auto: as a column, the data set or the names of the files say, else drawn; draw: all rows are
    drawn anew. Rows of transfer need no label. shift: rows of another domain, which nothing learns from, scored like
    test and apart from it."""
    split_column: str | None = None
    """Column that names each row's split: train, dev, validation or test. It overrides split. null: none."""

    @model_validator(mode="after")
    def _separate_cells(self) -> Self:
        if self.separator is not None and self.format not in ("auto", "csv", "tsv"):
            raise ValueError(f"separator is for CSV files, but format is {self.format}; remove one of them")
        return self

    @model_validator(mode="after")
    def _shift_whole_files(self) -> Self:
        if self.split == "shift" and self.split_column is not None:
            raise ValueError("split is shift, which is for all rows of the files; remove split_column")
        return self

    @model_validator(mode="after")
    def _name_columns_once(self) -> Self:
        if self.columns is not None and self.format in ("json", "jsonl", "parquet", "saved"):
            raise ValueError(f"columns is for files without a header, but format is {self.format}; remove one of them")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns is {self.columns}, which names a column twice; give each a name of its own")
        return self

    @model_validator(mode="after")
    def _stay_in_the_source(self) -> Self:
        parts = PurePosixPath(self.files).parts
        if not parts or {"/", ".."} & {*parts} or any("**" in part and part != "**" for part in parts):
            raise ValueError(
                f"files is {self.files!r}, which is no name or pattern of files in the source; write it from the "
                "source's folder, such as `rows.csv`, `*.csv` or `**/*.csv`"
            )
        return self


class LabelColumn(Strict):
    """The label is the value of a column: a text or an integer.

    In a multi_label task it is a list of labels, or a text that `separator` splits; an empty one means no label.
    """

    kind: Literal["column"]
    column: str
    """Name of the column."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """What separates the labels of a multi_label task in a cell. null: cells hold lists."""
    missing: list[str | int] = []
    """Values that mean no label, such as -1. Their rows join the transfer set."""


class LabelColumns(Strict):
    """Several labels, each a column of its name that holds 0 or 1."""

    kind: Literal["columns"]
    columns: Annotated[list[str], Field(min_length=2), AfterValidator(_different)]
    """Names of the columns, which are the labels."""


class LabelRanges(Strict):
    """Several labels made of one number: a label holds if the number is within one of its intervals, ends included."""

    kind: Literal["ranges"]
    column: str
    """Name of the column with the number."""
    ranges: dict[str, Annotated[list[Interval], Field(min_length=1)]] = Field(min_length=2)
    """Intervals [lowest, highest] of each label."""


class LabelNumber(Strict):
    """The label is a number."""

    kind: Literal["number"]
    column: str
    """Name of the column."""
    range: Interval | None = None
    """Bounds [lowest, highest]; a number outside them is refused. null: any number."""


class LabelOrder(Strict):
    """Rows are joined in pairs; the label says which of a pair's two texts has the higher number.

    Each row is in at most one pair.
    """

    kind: Literal["order"]
    column: str
    """Name of the column with the number."""
    first: str = "first"
    """Label of a pair whose first text has the higher number."""
    second: str = "second"
    """Label of a pair whose second text has the higher number."""
    min_gap: NonNegativeFloat = 0.0
    """Difference of the numbers below which a pair has no label and joins the transfer set."""


class LabelSign(Strict):
    """The label is the sign of a number."""

    kind: Literal["sign"]
    column: str
    """Name of the column with the number."""
    negative: str = "negative"
    """Label of negative numbers."""
    positive: str = "positive"
    """Label of positive numbers."""
    unclear_below: NonNegativeFloat = 0.0
    """Distance from zero below which a row has no label and joins the transfer set."""


class LabelTags(Strict):
    """Entities as lists: `prepare.text` names a column of words, and `column` one of their tags."""

    kind: Literal["tags"]
    column: str
    """Name of the column with the tags: texts, or integers."""
    scheme: Literal["auto", "BIO2", "BIO1", "BIOES", "BILOU", "IO"] = "auto"
    """Scheme of the tags. auto: recognised by the tags. BIO1 has B only if an entity follows another of its type; BIOES
    (also BMES) and BILOU mark ends and single words; IO has types alone, with or without I-."""
    names: Annotated[list[str], Field(min_length=2), AfterValidator(_different)] | None = None
    """Names of integer tags, in the order of the integers: `[O, B-PER, I-PER]`. null: those of the data's own
    schema."""
    between: Literal[" ", ""] = " "
    """What is between two words in the text. Empty if words are characters, or the script has no spaces."""


class LabelSpans(Strict):
    """Entities as characters of the text: a list of {"start": 0, "end": 5, "label": "LOC"} or [0, 5, "LOC"]."""

    kind: Literal["spans"]
    column: str
    """Name of the column with the lists."""


class LabelWords(Strict):
    """Entities in the text itself, in which each word carries a tag: `中国/ns 人民/n`."""

    kind: Literal["words"]
    separator: str = Field("/", min_length=1)
    """What separates a word from its tag."""
    types: dict[str, str] = Field(min_length=1)
    """Tags of words that are entities -> types of entities. Other tags are no entities."""
    joined: list[str] = []
    """Tags of which two words in a row are one entity, such as a surname and a given name."""
    between: Literal[" ", ""] = " "
    """What is between two words in the text. Empty for scripts without spaces."""

    @model_validator(mode="after")
    def _join_entities_only(self) -> Self:
        if unknown := sorted(set(self.joined) - set(self.types)):
            raise ValueError(f"joined names {unknown[0]!r}, which is not in types ({', '.join(self.types)})")
        return self


class LabelAnswers(Strict):
    """Answers to questions as in SQuAD: {"text": ["Paris"], "answer_start": [17]}, with empty lists for no answer.

    `prepare.text` names two columns, the question's first.
    """

    kind: Literal["answers"]
    column: str = "answers"
    """Name of the column with the answers."""


# Labels that are a value of the row, and labels that mark spans of its text.
ValueLabel = LabelColumn | LabelSign | LabelOrder | LabelColumns | LabelRanges | LabelNumber
MarkLabel = LabelTags | LabelSpans | LabelWords | LabelAnswers
Label = Annotated[ValueLabel | MarkLabel, Field(discriminator="kind")]


class Split(Strict):
    """Shares of the labelled rows without a given split. A seeded hash of its text decides a row's split."""

    dev: float = Field(0.1, gt=0, lt=1)
    """Share of dev."""
    test: float = Field(0.2, gt=0, lt=1)
    """Share of test."""
    seed: Seed = 0
    """Seed of the hash."""
    class_seeds: dict[str | int, Seed] = {}
    """Seeds by class, for classes that `seed` leaves out of a split. With several labels, a row has the seed of the
    first class here that it carries."""

    @model_validator(mode="after")
    def _leave_train(self) -> Self:
        if self.dev + self.test >= 1:
            raise ValueError(f"dev + test is {self.dev + self.test}; keep it below 1, so that train has a share")
        return self


class Augment(Strict):
    """Changed copies of the training texts as further transfer rows, which the teacher answers; no gold labels.

    A copy that is, or nearly is, a row of dev or test is left out.
    """

    crops: Copies = 1
    """Copies of each text that are a run of its words."""
    splices: Copies = 1
    """Copies of each text that join a run of its words and a run of another's."""
    masks: Copies = 0
    """Copies of each text with some words replaced by the mask token."""
    shuffles: Copies = 0
    """Copies of each text in spans of 2 to 4 words, the spans in another order."""
    replacements: Copies = 0
    """Copies of each text with some words replaced by predictions of ingest.generator, a masked language model (as in
    TinyBERT). Words of several tokens stay."""
    share: float = Field(0.3, gt=0, lt=1)
    """Share of the words that are masked or replaced."""
    mask_token: str = Field("[MASK]", min_length=1)
    """The mask token, as the tokenizers of teacher and student write it."""
    seed: Seed = 0
    """Seed of the changes."""


class Prepare(Strict):
    """Task, tables, texts, labels, splits, duplicates and leakage."""

    task: TaskKind = "single_label"
    """What the model answers: one class; any of several labels; a number; the entities in a text; the answer to a
    question in its context. It decides labels, head, losses, scores and the answers of the service."""
    tables: list[Table] = Field(min_length=1)
    """Files to read, and how."""
    text: Text
    """Column of the text, or the two columns of a pair."""
    label: Label
    """Where the label of a row comes from."""
    labels: Annotated[list[str | int], Field(min_length=1), AfterValidator(_different)] | None = None
    """The set of labels in the order of the class indices; for token_classification, the types of entities. null: those
    in the data, sorted."""
    split: Split = Split()
    """How rows are drawn for dev and test."""
    unlabelled: Literal["ask", "transfer", "leave_out"] = "ask"
    """What happens to a row that needs a label and has none, or that an annotation tool marks as rejected, ignored or
    disputed. ask: the data is refused; transfer: the row joins the transfer set; leave_out: it is dropped."""
    labelled_rows: PositiveInt | None = None
    """Rows of train that keep their label, drawn by a seeded hash; the others join the transfer set without it, as if
    nobody had labelled them. null: all."""
    near_duplicate: Annotated[float, Field(gt=0, le=1)] | None = 0.8
    """Jaccard similarity of word 3-grams from which two texts are near copies, of which one stays. null: only exact
    copies."""
    max_leakage: Share = 0.05
    """Highest share of the rows of a given test split that may occur in train. Above it the data is refused; below it
    the rows are removed from train and counted."""
    keep_columns: list[str] = []
    """Further columns of the tables to keep in the splits, for evaluate.slices. `source` is the name in ingest.data
    where a table has no such column."""
    max_cell_characters: PositiveInt = 100_000
    """Longest cell of a table in characters."""
    augment: Augment | None = None
    """Changed copies of training texts for the transfer set. null: none."""

    @property
    def pair(self) -> bool:
        """Whether a row is two texts."""
        return not isinstance(self.text, str) or isinstance(self.label, LabelOrder)

    @model_validator(mode="after")
    def _augment_single_texts(self) -> Self:
        if self.augment is not None and self.pair:
            raise ValueError("augment changes single texts; set it to null for pairs")
        return self

    @model_validator(mode="after")
    def _tables_have_as_many_texts(self) -> Self:
        for names in (self.text, *(table.text for table in self.tables)):
            if isinstance(names, list) and names[0] == names[1]:
                raise ValueError(f"text is {names}, which names one column twice; a pair is two")
        for index, table in enumerate(self.tables):
            if table.text is not None and isinstance(table.text, str) != isinstance(self.text, str):
                raise ValueError(
                    f"tables.{index}.text is {table.text!r}, but text is {self.text!r}; name as many columns, since "
                    "all rows are single texts, or all are pairs"
                )
        return self

    @model_validator(mode="after")
    def _kept_columns_have_names_of_their_own(self) -> Self:
        taken_name = next((name for name in self.keep_columns if name in PREPARED_COLUMNS), None)
        if taken_name is not None:
            raise ValueError(
                f"keep_columns names {taken_name!r}, which is a column of every split; rename that column of the data "
                f"(taken are {', '.join(PREPARED_COLUMNS)})"
            )
        if self.keep_columns and isinstance(self.label, LabelOrder):
            raise ValueError("keep_columns keeps a value of a row, but label.kind order joins two; set it to []")
        return self

    @model_validator(mode="after")
    def _label_fits_the_task(self) -> Self:
        kind = KINDS[self.task]
        if self.label.kind not in kind.label_kinds:
            raise ValueError(
                f"label.kind is {self.label.kind}, which does not fit a {self.task} task; use "
                f"{' or '.join(kind.label_kinds)}, or change task"
            )
        if self.labels is not None and len(self.labels) < 2 and kind.form != "entities":
            raise ValueError(f"labels is {self.labels}; name at least two")
        if kind.form == "entities" and not isinstance(self.text, str):
            raise ValueError(f"{self.task} reads single texts; name one column under text")
        if kind.form == "span" and isinstance(self.text, str):
            raise ValueError(f"{self.task} reads pairs; name two columns under text: [question, context]")
        if self.labels is not None and self.label.kind in ("columns", "ranges", "number", "answers"):
            raise ValueError(
                f"labels is given, but label.kind {self.label.kind} defines the labels itself; remove labels"
            )
        if isinstance(self.label, LabelColumn) and self.label.separator is not None and kind.form != "labels":
            raise ValueError("label.separator splits several labels; set task to multi_label or remove it")
        if self.split.class_seeds and not kind.has_classes:
            raise ValueError(f"split.class_seeds is given, but a {self.task} task has no classes; remove it")
        if isinstance(self.label, LabelOrder) and not isinstance(self.text, str):
            raise ValueError("label.kind order makes pairs of single texts; name one column under text")
        return self
