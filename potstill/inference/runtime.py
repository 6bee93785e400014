"""The student as it runs in production: onnxruntime and tokenizers, nothing else.

The same class answers in the service, in the evaluate stage's measurements of accuracy and speed, and in the smoke
test. What was evaluated is what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime
from pydantic import AfterValidator, Field, ValidationError, model_validator
from tokenizers import Tokenizer

from potstill.artifacts import verify
from potstill.compute.processes import usable_cores
from potstill.config.base import Strict
from potstill.errors import ModelError
from potstill.inference.sketch import directions
from potstill.kinds.definitions.kind import Form
from potstill.kinds.definitions.question_answering import Reply, reply
from potstill.kinds.definitions.task_kinds import CARD_NAMES, KINDS
from potstill.kinds.definitions.token_classification import Tagging, tagging
from potstill.kinds.task_names import TaskKind
from potstill.labels.tags import Unit, units_of
from potstill.labels.windows import TextWindow, TextWindower, Window, Windower

Answer = TypeVar("Answer")
Item = TypeVar("Item")
Floats = npt.NDArray[np.float32]
Label = str | int
# A text, or a pair of texts.
Text = str | tuple[str, str]

MODEL, TOKENIZER, CARD = "model.onnx", "tokenizer.json", "model.json"
# Padded tokens of one call. Larger batches are hardly faster on a CPU and leave fewer of them to spread over the cores.
BATCH_TOKENS = 256
# Fusions of onnxruntime that are slower on a CPU than what they replace: a sum and a norm take a quarter of this one.
SLOW_FUSIONS = ["SkipLayerNormFusion"]
# The additional output of a model that labels whole texts: the input of its head, float32 [batch, hidden].
EMBEDDING = "sentence_embedding"
# Texts tokenized at a time. It bounds the memory for a long list, and is enough to sort by length.
WINDOW = 4096
# Texts of one call of the tokenizer, whose encodings hold what is cut off too.
ENCODED = 64


def _card_name(name: str) -> str:
    """Refuse a name that no task has."""
    if name not in CARD_NAMES:
        raise ValueError(f"{name!r} is none of {', '.join(CARD_NAMES)}")
    return name


class ModelCard(Strict):
    """`model.json` of a serving folder (docs/artifacts.md)."""

    format: Literal[1]
    task: Annotated[str, AfterValidator(_card_name)]
    variant: Literal["int8", "fp32"]
    labels: Annotated[list[Label], Field(min_length=1)]
    pair: bool
    max_length: Annotated[int, Field(gt=0)]
    pad_token_id: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)]
    inputs: Annotated[list[Literal["input_ids", "attention_mask", "token_type_ids"]], Field(min_length=1)]
    # Tokens that neighbouring windows of a long text or context share.
    stride: Annotated[int, Field(ge=0)] = 0
    # Whether the context of a question may have no answer.
    no_answer: bool = False
    # Whether the ONNX file also outputs the sentence embedding.
    embedding: bool = False

    @model_validator(mode="after")
    def _labels_stay_apart_as_text(self) -> Self:
        if len({str(label) for label in self.labels}) != len(self.labels):
            raise ValueError("labels: two of them read the same")
        if (len(self.labels) == 1) is not KINDS[self.kind].one_output:
            raise ValueError(f"labels: {len(self.labels)} for the task {self.task}")
        if self.embedding and KINDS[self.kind].marks_spans:
            raise ValueError(f"embedding: there is none of a whole text in the task {self.task}")
        return self

    @property
    def kind(self) -> TaskKind:
        """The kind of task, which says what the logits mean."""
        return CARD_NAMES[self.task]

    @property
    def form(self) -> Form:
        """What an answer is to its reader."""
        return KINDS[self.kind].form

    @property
    def outputs(self) -> list[str]:
        """The outputs that are read from the ONNX file."""
        return [*KINDS[self.kind].outputs, *([EMBEDDING] if self.embedding else [])]


def characters(text: Text) -> int:
    """Count the characters of a text, or of both texts of a pair."""
    return len(text) if isinstance(text, str) else sum(map(len, text))


@dataclass(frozen=True)
class Prediction:
    """The answer for one text.

    Attributes:
        label: the most probable class; multi_label: the list of labels more probable than not; regression: the number.
        probabilities: [labels] in the card's order: softmax of logits / temperature (Guo et al. 2017); multi_label: the
            sigmoid of each; regression: empty.
        logits: [labels] as the model computes them.
        tokens: number of tokens that the model read, special ones included.
        truncated: whether the text was longer than the model's limit and was cut.
        sketch: [directions] sketch of the sentence embedding (`sketch.directions`), if the model outputs that.
    """

    label: Label | list[Label] | float
    probabilities: list[float]
    logits: list[float]
    tokens: int
    truncated: bool
    sketch: tuple[float, ...] = ()


class Tokens(Protocol):
    """One row of the model's input."""

    @property
    def ids(self) -> list[int]: ...  # noqa: D102

    @property
    def type_ids(self) -> list[int]: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of a text, and whether it was cut.

    The tokenizer's `Encoding` also holds what was cut off: 150 KB of a text of 2000 characters that waits for a core.
    """

    ids: list[int]
    type_ids: list[int]
    truncated: bool


@dataclass(frozen=True)
class Work(Generic[Answer]):
    """The rows that the model has to compute for a caller, and how answers are made of their logits.

    Attributes:
        rows: tokenized rows of the model's input.
        finish: turns the logits of the rows, as `Student.run` returns them, into answers in the caller's order.
    """

    rows: Sequence[Tokens]
    finish: Callable[[list[Floats]], list[Answer]]


def windowed_work(rows: Sequence[Sequence[Tokens]], answer: Callable[[int, list[Floats]], Answer]) -> Work[Answer]:
    """Prepare the work of items that are read in windows.

    Args:
        rows: [items] windows of each item.
        answer: the index of an item and the logits of its windows -> the answer.
    """

    def finish(outputs: list[Floats]) -> list[Answer]:
        logits = iter(outputs)
        return [answer(index, [next(logits) for _ in windows]) for index, windows in enumerate(rows)]

    return Work([window for windows in rows for window in windows], finish)


def read_card(folder: Path) -> ModelCard:
    """Read the card of a serving folder.

    Raises:
        ModelError: the file is not in this format.
    """
    try:
        return ModelCard.model_validate_json((folder / CARD).read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{folder / CARD} is not a model card this version can serve ({_cause(error)}); run the export stage again"
        ) from error


def logits_of(predictions: Sequence[Prediction], card: ModelCard) -> Floats:
    """Collect the logits [texts, labels] of predictions."""
    logits = [prediction.logits for prediction in predictions]
    return np.array(logits, dtype=np.float32).reshape(len(logits), len(card.labels))


class Student:
    """A verified and loaded serving folder. Safe to call from several threads.

    Batches are spread over the cores, one thread a batch: a batch this small leaves little to parallelize within a
    product, and no thread spins while it waits. Dynamic INT8 uses one scale for all activations of a call, so the
    answer to a text would depend on the other texts in its batch (up to 0.04 in probability on the default student).
    An INT8 model therefore computes each text in a separate call.

    Attributes:
        folder: its serving folder.
        card: the model card.
        threads: number of batches that are computed at once.
        tokenizer: truncates at the model's limit and does not pad; do not change it.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """Verify and load a serving folder.

        Args:
            folder: `data/serving`, or the same folder in a Bento.
            threads: number of batches that are computed at once; 0 takes one per core.

        Raises:
            ChecksumError: a file does not match the folder's manifest.
            ModelError: the card, the tokenizer or the ONNX file cannot be used.
        """
        verify(folder)
        self.folder = folder
        self.card = read_card(folder)
        self.threads = threads or usable_cores()
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / MODEL),
                session_options(),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=SLOW_FUSIONS,
            )
            self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            if self.card.embedding:
                shapes = {output.name: output.shape for output in self._session.get_outputs()}
                self._directions = directions(shapes[EMBEDDING][1])
        except Exception as error:  # both libraries raise exceptions of many types
            raise ModelError(f"{folder} cannot be loaded ({_cause(error)}); run the export stage again") from error
        side = (self.tokenizer.truncation or {}).get("direction", "right")
        self.tokenizer.enable_truncation(self.card.max_length, direction=side)
        self.tokenizer.no_padding()
        windowing = (self.tokenizer, self.card.max_length, self.card.stride)
        if self.card.form == "span":
            self._windower = Windower(*windowing)
        if self.card.form == "entities":
            self._text_windower = TextWindower(*windowing)

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """Predict each text, in the caller's order.

        Args:
            texts: texts, or (text, text) pairs for a pair model.

        Raises:
            TypeError: pairs were given to a model of single texts, or the other way round.
        """
        return self._in_parts(texts, self.predict_work)

    def logits(self, texts: Sequence[Text]) -> Floats:
        """Compute the logits [texts, labels] in the caller's order; see `predict`."""
        return logits_of(self.predict(texts), self.card)

    def embed(self, texts: Sequence[str]) -> Floats:
        """Compute the sentence embeddings [texts, hidden] of texts, of which there is at least one; each in a call.

        Raises:
            ModelError: the model has none, or reads pairs of texts.
        """
        if self.card.pair or not self.card.embedding:
            purpose = "pairs of texts" if self.card.pair else f"{self.card.kind}, or was exported before there were any"
            raise ModelError(f"the model has no embeddings of single texts: it is for {purpose}; take another version")
        rows = self.tokenizer.encode_batch_fast(list(texts))
        return np.concatenate(
            list(self._pool.map(lambda row: self._session.run([EMBEDDING], self._feed([row]))[0], rows))
        )

    def tag(self, texts: Sequence[str]) -> list[Tagging]:
        """Find the entities of each text, in the caller's order; for token classification."""
        return self._in_parts(texts, self.tag_work)

    def answer(self, questions: Sequence[tuple[str, str]]) -> list[Reply]:
        """Answer each (question, context), in the caller's order; for question answering."""
        return self._in_parts(questions, self.answer_work)

    def predict_work(self, texts: Sequence[Text]) -> Work[Prediction]:
        """Prepare the work of `predict`."""
        if KINDS[self.card.kind].marks_spans:
            raise TypeError(f"the model is for {self.card.kind}, not for labels")
        if any(isinstance(text, str) is self.card.pair for text in texts):
            raise TypeError(f"the model classifies {'pairs of texts' if self.card.pair else 'single texts'}")
        parts = (list(texts[start : start + ENCODED]) for start in range(0, len(texts), ENCODED))
        encodings = chain.from_iterable(map(self.tokenizer.encode_batch_fast, parts))
        rows = [Row(encoding.ids, encoding.type_ids, bool(encoding.overflowing)) for encoding in encodings]
        return Work(rows, lambda outputs: self._predictions(rows, outputs))

    def _predictions(self, rows: Sequence[Row], outputs: list[Floats]) -> list[Prediction]:
        count = len(self.card.labels)
        stacked = np.stack(outputs) if outputs else np.empty((0, count), dtype=np.float32)
        logits = stacked[:, :count]
        sketches = map(tuple, stacked[:, count:].tolist())
        kind = KINDS[self.card.kind]
        answers = kind.answers(logits, self.card.labels)
        shares = kind.probabilities(logits, self.card.temperature).tolist()
        tokens = [len(row.ids) for row in rows]
        truncated = [row.truncated for row in rows]
        columns = zip(answers, shares, logits.tolist(), tokens, truncated, sketches, strict=True)
        return [Prediction(*values) for values in columns]

    def tag_work(self, texts: Sequence[str]) -> Work[Tagging]:
        """Prepare the work of `tag`."""
        units = [units_of(text) for text in texts]
        card = self.card
        rows = self.text_windows(texts, units)

        def finish(index: int, logits: list[Floats]) -> Tagging:
            return tagging(texts[index], units[index], rows[index], logits, card.labels, card.temperature)

        return windowed_work(rows, finish)

    def text_windows(self, texts: Sequence[str], units: Sequence[Sequence[Unit]]) -> list[list[TextWindow]]:
        """Cut each text into the windows in which it is read, each with the units that it labels: [texts]."""
        if self.card.form != "entities":
            raise TypeError(f"the model is for {self.card.kind}, not for entities")
        return self._text_windower(texts, units)

    def answer_work(self, questions: Sequence[tuple[str, str]]) -> Work[Reply]:
        """Prepare the work of `answer`."""
        if self.card.form != "span":
            raise TypeError(f"the model is for {self.card.kind}, not for questions")
        rows = self.windows(questions)
        no_answer = self.card.no_answer
        return windowed_work(
            rows, lambda index, logits: reply(questions[index][1], rows[index], logits, no_answer=no_answer)
        )

    def windows(self, questions: Sequence[tuple[str, str]]) -> list[list[Window]]:
        """Cut each (question, context) into the windows in which it is read: [questions]."""
        return self._windower([question for question, _ in questions], [context for _, context in questions])

    def run(self, rows: Sequence[Tokens]) -> list[Floats]:
        """Compute the logits of rows in one call of the model, padded to the longest.

        Returns:
            For each row [labels], followed by the sketch of the sentence embedding if the model outputs that. For a
            model with logits for each token [tokens, outputs].
        """
        outputs = self._session.run(self.card.outputs, self._feed(rows))
        if self.card.embedding:
            logits, embeddings = outputs
            return list(np.concatenate([logits, embeddings @ self._directions], axis=1))
        values: Floats = outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)
        if values.ndim == 2:
            return list(values)
        return [value[: len(row.ids)] for row, value in zip(rows, values, strict=True)]

    def fits(self, count: int, longest: int) -> bool:
        """Whether a number of rows, padded to the longest, fits into one call.

        It is limited by the token budget, and to one row for INT8, whose answers would depend on the other rows.
        """
        return count == 1 or (self.card.variant != "int8" and count * longest <= BATCH_TOKENS)

    def _in_parts(self, items: Sequence[Item], prepare: Callable[[Sequence[Item]], Work[Answer]]) -> list[Answer]:
        answers: list[Answer] = []
        # At least once, so that the wrong kind of task is refused even without texts.
        for start in range(0, max(len(items), 1), WINDOW):
            work = prepare(items[start : start + WINDOW])
            answers += work.finish(self.compute(work.rows))
        return answers

    def compute(self, rows: Sequence[Tokens]) -> list[Floats]:
        """Compute the logits of all rows in batches, longest first, on all cores; see `run`."""
        outputs: list[Floats] = [np.empty(0, dtype=np.float32)] * len(rows)
        batches = self._batches([len(row.ids) for row in rows])
        shares = [batches[first :: self.threads] for first in range(min(self.threads, len(batches)))]

        def work(share: list[list[int]]) -> None:
            for batch in share:
                for index, logits in zip(batch, self.run([rows[index] for index in batch]), strict=True):
                    outputs[index] = logits

        futures = [self._pool.submit(work, share) for share in shares[1:]]
        for share in shares[:1]:
            work(share)
        for future in futures:
            future.result()
        return outputs

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="student")

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Group rows of similar length that fit into one call."""
        batches: list[list[int]] = []
        for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
            # The first row of a batch is its longest.
            if not batches or not self.fits(len(batches[-1]) + 1, lengths[batches[-1][0]]):
                batches.append([])
            batches[-1].append(row)
        return batches

    def _feed(self, encodings: Sequence[Tokens]) -> dict[str, npt.NDArray[np.int64]]:
        """Build the model's inputs, each [batch, sequence], padded to the longest row."""
        # The bindings copy ids at each access.
        rows = [(encoding.ids, encoding) for encoding in encodings]
        shape = len(rows), max(len(ids) for ids, _ in rows)
        feed: dict[str, npt.NDArray[np.int64]] = {name: np.zeros(shape, dtype=np.int64) for name in self.card.inputs}
        if "input_ids" in feed:
            feed["input_ids"].fill(self.card.pad_token_id)
        for row, (ids, encoding) in enumerate(rows):
            for name, values in feed.items():
                values[row, : len(ids)] = 1 if name == "attention_mask" else _values(encoding, name)
        return feed


def _values(encoding: Tokens, name: str) -> list[int]:
    return list(encoding.ids if name == "input_ids" else encoding.type_ids)


def session_options() -> onnxruntime.SessionOptions:
    """Return the options of a session that computes a call on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _cause(error: Exception) -> str:
    """Describe an error in a few words."""
    if isinstance(error, ValidationError):
        item = error.errors()[0]
        return f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
    return " ".join(str(error).split())[:200]
