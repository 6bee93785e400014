"""The student as it runs in production: onnxruntime and tokenizers, nothing else.

The same class answers in the service, measures accuracy and speed in the evaluate stage and runs the smoke test, so
what was evaluated is what is served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime
from pydantic import Field, ValidationError, model_validator
from tokenizers import Encoding, Tokenizer

from potstill.artifacts import verify
from potstill.compute.processes import usable_cores
from potstill.config.base import OF_PLACES, Strict, TaskKind
from potstill.data.tokens.offsets import UNSEEN, has_own_token, unit_classes, unit_states
from potstill.data.tokens.windows import TextWindow, TextWindower, Window, Windower, best_spans
from potstill.errors import ModelError
from potstill.inference.probabilities import sigmoid, softmax
from potstill.inference.sketch import directions
from potstill.labels.tags import Unit, entities_of, units_of

A = TypeVar("A")
B = TypeVar("B")
Floats = npt.NDArray[np.float32]
Label = str | int
# One text, or the two of a pair.
Text = str | tuple[str, str]

MODEL, TOKENIZER, CARD = "model.onnx", "tokenizer.json", "model.json"
# Padded tokens of one call. Larger ones are hardly faster on a CPU and leave fewer pieces to spread over the cores.
BATCH_TOKENS = 256
# `task` of model.json -> what params call it; the first one's name is from before there were others.
KINDS: dict[str, TaskKind] = {
    "classification": "single_label",
    "multi_label": "multi_label",
    "regression": "regression",
    "token_classification": "token_classification",
    "question_answering": "question_answering",
}
# What the ONNX file gives: start and end are put side by side.
OUTPUTS: dict[TaskKind, list[str]] = {"question_answering": ["start_logits", "end_logits"]}
# What the file gives beside them where a whole text has one answer: what its head reads, float32 [batch, hidden].
EMBEDDING = "sentence_embedding"
# Texts tokenized at a time: bounds the memory of a long list and is ample to sort by length.
WINDOW = 4096


class ModelCard(Strict):
    """`model.json` of a serving folder (docs/artifacts.md)."""

    format: Literal[1]
    task: Literal["classification", "multi_label", "regression", "token_classification", "question_answering"]
    variant: Literal["int8", "fp32"]
    labels: Annotated[list[Label], Field(min_length=1)]
    pair: bool
    max_length: Annotated[int, Field(gt=0)]
    pad_token_id: Annotated[int, Field(ge=0)]
    temperature: Annotated[float, Field(gt=0)]
    inputs: Annotated[list[Literal["input_ids", "attention_mask", "token_type_ids"]], Field(min_length=1)]
    # Tokens that windows of a long text or context share; of questions, whether a context may have no answer.
    stride: Annotated[int, Field(ge=0)] = 0
    no_answer: bool = False
    # Whether the file also gives the sentence embedding.
    embedding: bool = False

    @model_validator(mode="after")
    def _labels_stay_apart_as_text(self) -> Self:
        if len({str(label) for label in self.labels}) != len(self.labels):
            raise ValueError("labels: two of them read the same")
        if (len(self.labels) == 1) is not (self.kind == "regression"):
            raise ValueError(f"labels: {len(self.labels)} for the task {self.task}")
        if self.embedding and self.kind in OF_PLACES:
            raise ValueError(f"embedding: there is none of a whole text in the task {self.task}")
        return self

    @property
    def kind(self) -> TaskKind:
        """What the logits are: of one class of several, of several labels, a number, entities or an answer."""
        return KINDS[self.task]

    @property
    def outputs(self) -> list[str]:
        """What is asked of the ONNX file."""
        return [*OUTPUTS.get(self.kind, ["logits"]), *([EMBEDDING] if self.embedding else [])]


def characters(text: Text) -> int:
    """Of a text, or of both of a pair."""
    return len(text) if isinstance(text, str) else sum(map(len, text))


@dataclass(frozen=True)
class Prediction:
    """The answer for one text.

    Attributes:
        label: the most probable class; of several labels, a list of those more probable than not; of a number, itself.
        probabilities: [labels] in the card's order; softmax of logits / temperature (Guo et al. 2017), or where each
            label is a yes or no of its own its sigmoid; none of a number.
        logits: [labels] as the model gave them.
        tokens: tokens the model saw, special ones included.
        truncated: whether the text was longer than the model's limit and was cut.
        sketch: [directions] of the sentence embedding, where the model gives that (`sketch.directions`).
    """

    label: Label | list[Label] | float
    probabilities: list[float]
    logits: list[float]
    tokens: int
    truncated: bool
    sketch: tuple[float, ...] = ()


@dataclass(frozen=True)
class Found:
    """An entity in a text: its type, its characters (`end` exclusive), and the mean probability of its units' tags."""

    type: str
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True)
class Tagging:
    """The entities of one text, in order; and in how many windows it was read."""

    entities: list[Found]
    windows: int


@dataclass(frozen=True)
class Reply:
    """The answer to one question.

    Attributes:
        answer: a part of the context; None where the context has no answer.
        start: its first character; 0 without an answer.
        end: the character after its last.
        score: its share of the probability of the best spans (and of none, where there may be no answer).
        windows: into how many the context was cut.
    """

    answer: str | None
    start: int
    end: int
    score: float
    windows: int


class Tokens(Protocol):
    """One row of the model's input."""

    @property
    def ids(self) -> list[int]: ...  # noqa: D102

    @property
    def type_ids(self) -> list[int]: ...  # noqa: D102


@dataclass(frozen=True)
class Work(Generic[A]):
    """What the model has to compute for a caller, and what becomes of it.

    Attributes:
        rows: of the model's input, tokenized.
        finish: the answers in the caller's order, from the logits of each row as `Student.run` gives them.
    """

    rows: Sequence[Tokens]
    finish: Callable[[list[Floats]], list[A]]


def read_card(folder: Path) -> ModelCard:
    """The card of a serving folder.

    Raises:
        ModelError: it is not in this format.
    """
    try:
        return ModelCard.model_validate_json((folder / CARD).read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{folder / CARD} is not a model card this version can serve ({_first(error)}); run the export stage again"
        ) from error


def probabilities(logits: npt.NDArray[np.floating], card: ModelCard) -> npt.NDArray[np.float64]:
    """[rows, labels] probabilities of a model's logits [rows, labels]; [rows, 0] of numbers."""
    if card.kind == "regression":
        return np.empty((len(logits), 0))
    return (sigmoid if card.kind == "multi_label" else softmax)(logits, card.temperature)


def logits_of(predictions: Sequence[Prediction], card: ModelCard) -> Floats:
    """[texts, labels] the logits behind predictions."""
    found = [prediction.logits for prediction in predictions]
    return np.array(found, dtype=np.float32).reshape(len(found), len(card.labels))


class Student:
    """A verified serving folder, ready to answer. Safe to call from several threads.

    Work is spread over the cores by batches, each computed by one thread: a batch this small leaves little to share
    within one product, and no thread spins while it waits. Dynamic INT8 takes one scale for all activations of a call,
    so a text's answer would change with its neighbours (up to 0.04 in probability on the default student); such a
    model gets every text in a call of its own, and answers the same whoever else asks.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        """Verify and load.

        Args:
            folder: `data/serving`, or the same folder in a Bento.
            threads: how many texts are computed at once; 0 takes one per core.

        Raises:
            ChecksumError: a file is not the one the folder's manifest names.
            ModelError: the card, the tokenizer or the ONNX file cannot be used.
        """
        verify(folder)
        self.card = read_card(folder)
        self.threads = threads or usable_cores()
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / MODEL), _session_options(), providers=["CPUExecutionProvider"]
            )
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
            if self.card.embedding:
                shapes = {output.name: output.shape for output in self._session.get_outputs()}
                self._directions = directions(shapes[EMBEDDING][1])
        except Exception as error:  # both libraries raise their own bare kinds
            raise ModelError(f"{folder} cannot be loaded ({_first(error)}); run the export stage again") from error
        side = (self._tokenizer.truncation or {}).get("direction", "right")
        self._tokenizer.enable_truncation(self.card.max_length, direction=side)
        self._tokenizer.no_padding()
        cuts = (self._tokenizer, self.card.max_length, self.card.stride)
        if self.card.kind == "question_answering":
            self._windower = Windower(*cuts)
        if self.card.kind == "token_classification":
            self._text_windower = TextWindower(*cuts)

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """The answer for each text, in the caller's order.

        Args:
            texts: texts, or (text, text) pairs for a pair model.

        Raises:
            TypeError: pairs for a model of single texts, or the other way round.
        """
        return self._in_parts(texts, self.predicting)

    def logits(self, texts: Sequence[Text]) -> Floats:
        """[texts, labels] logits in the caller's order; see `predict`."""
        return logits_of(self.predict(texts), self.card)

    def tag(self, texts: Sequence[str]) -> list[Tagging]:
        """The entities of each text, in the caller's order; for a model of entities."""
        return self._in_parts(texts, self.tagging)

    def answer(self, questions: Sequence[tuple[str, str]]) -> list[Reply]:
        """The answer to each (question, context), in the caller's order; for a model of questions."""
        return self._in_parts(questions, self.answering)

    def predicting(self, texts: Sequence[Text]) -> Work[Prediction]:
        """The work of `predict`."""
        if self.card.kind in OF_PLACES:
            raise TypeError(f"the model is for {self.card.kind}, not for labels")
        if any(isinstance(text, str) is self.card.pair for text in texts):
            raise TypeError(f"the model classifies {'pairs of texts' if self.card.pair else 'single texts'}")
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        return Work(encodings, lambda found: self._predictions(encodings, found))

    def _predictions(self, encodings: Sequence[Encoding], found: list[Floats]) -> list[Prediction]:
        count = len(self.card.labels)
        outputs = np.stack(found) if found else np.empty((0, count), dtype=np.float32)
        logits, sketches = outputs[:, :count], map(tuple, outputs[:, count:].tolist())
        shares = probabilities(logits, self.card).tolist()
        cut = [bool(encoding.overflowing) for encoding in encodings]
        rows = zip(self._labels(logits), shares, logits.tolist(), map(len, encodings), cut, sketches, strict=True)
        return [Prediction(*row) for row in rows]

    def _labels(self, logits: Floats) -> list[Any]:
        """[texts] what the logits say."""
        names = self.card.labels
        if self.card.kind == "regression":
            return [float(value) for value in logits[:, 0]]
        if self.card.kind == "multi_label":
            return [[name for name, value in zip(names, row, strict=True) if value > 0] for row in logits]
        return [names[index] for index in logits.argmax(axis=1)]

    def tagging(self, texts: Sequence[str]) -> Work[Tagging]:
        """The work of `tag`."""
        units = [units_of(text) for text in texts]
        rows = self.text_windows(texts, units)

        def finish(found: list[Floats]) -> list[Tagging]:
            logits = iter(found)
            return [
                self._tagged(text, own, windows, [next(logits) for _ in windows])
                for text, own, windows in zip(texts, units, rows, strict=True)
            ]

        return Work([window for windows in rows for window in windows], finish)

    def text_windows(self, texts: Sequence[str], units: Sequence[Sequence[Unit]]) -> list[list[TextWindow]]:
        """[texts] the windows in which each is read, with the units that are asked of each."""
        if self.card.kind != "token_classification":
            raise TypeError(f"the model is for {self.card.kind}, not for entities")
        return self._text_windower(texts, units)

    def _tagged(
        self, text: str, units: Sequence[Unit], windows: Sequence[TextWindow], logits: Sequence[Floats]
    ) -> Tagging:
        """The entities of a text from the logits of its windows."""
        answers, sure = [], []
        for window, values in zip(windows, logits, strict=True):
            answers.append(values[window.tokens[has_own_token(window.tokens)]].argmax(axis=1))
            most = softmax(values, self.card.temperature).max(axis=1)
            # A unit that shares its token is as sure as that; one that has none has no say.
            sure.append(np.where(window.tokens == UNSEEN, 0.0, most[window.tokens]))
        classes = unit_classes(
            np.concatenate(answers), np.concatenate([unit_states(window.tokens) for window in windows])
        )
        shares, tags = np.concatenate(sure), [str(self.card.labels[at]) for at in classes.tolist()]
        entities = []
        for kind, first, last in entities_of(tags):
            start, end = units[first].start, units[last - 1].end
            entities.append(Found(kind, start, end, text[start:end], float(shares[first:last].mean())))
        return Tagging(entities, len(windows))

    @property
    def tokenizer(self) -> Tokenizer:
        """Cuts at the model's limit and does not pad; not to be changed."""
        return self._tokenizer

    def answering(self, questions: Sequence[tuple[str, str]]) -> Work[Reply]:
        """The work of `answer`."""
        if self.card.kind != "question_answering":
            raise TypeError(f"the model is for {self.card.kind}, not for questions")
        rows = self.windows(questions)

        def finish(found: list[Floats]) -> list[Reply]:
            logits = iter(found)
            return [
                reply(context, windows, [next(logits) for _ in windows], no_answer=self.card.no_answer)
                for (_, context), windows in zip(questions, rows, strict=True)
            ]

        return Work([window for windows in rows for window in windows], finish)

    def windows(self, questions: Sequence[tuple[str, str]]) -> list[list[Window]]:
        """[questions] the windows in which each (question, context) is read."""
        return self._windower([question for question, _ in questions], [context for _, context in questions])

    def read_windows(self, windows: Sequence[Window] | Sequence[TextWindow]) -> list[Floats]:
        """[tokens, labels] logits of each window; of a context [tokens, 2], start and end."""
        return self._compute(windows)

    def run(self, rows: Sequence[Tokens]) -> list[Floats]:
        """The logits of each row, all in one call of the model, padded to its longest: [labels], with the sketch of the
        sentence embedding behind them where the model gives that, or where each token has its own [tokens, outputs].
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
        """Whether one call may hold so many rows of so many tokens: no more than one where answers must not depend on
        their neighbours, else what the token budget holds.
        """
        return count == 1 or (self.card.variant != "int8" and count * longest <= BATCH_TOKENS)

    def _in_parts(self, items: Sequence[B], prepare: Callable[[Sequence[B]], Work[A]]) -> list[A]:
        answers: list[A] = []
        # Once at least: of no texts the wrong kind is refused too.
        for start in range(0, max(len(items), 1), WINDOW):
            work = prepare(items[start : start + WINDOW])
            answers += work.finish(self._compute(work.rows))
        return answers

    def _compute(self, rows: Sequence[Tokens]) -> list[Floats]:
        """The logits of each row, in batches, longest first, on all cores; see `run`."""
        found: list[Floats] = [np.empty(0, dtype=np.float32)] * len(rows)
        batches = self._batches([len(row.ids) for row in rows])
        shares = [batches[first :: self.threads] for first in range(min(self.threads, len(batches)))]

        def work(share: list[list[int]]) -> None:
            for batch in share:
                for at, logits in zip(batch, self.run([rows[at] for at in batch]), strict=True):
                    found[at] = logits

        others = [self._pool.submit(work, share) for share in shares[1:]]
        for share in shares[:1]:
            work(share)
        for other in others:
            other.result()
        return found

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="student")

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Rows of similar length that fit into one call."""
        batches: list[list[int]] = []
        for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
            # The first row of a batch is its longest.
            if not batches or not self.fits(len(batches[-1]) + 1, lengths[batches[-1][0]]):
                batches.append([])
            batches[-1].append(row)
        return batches

    def _feed(self, encodings: Sequence[Tokens]) -> dict[str, npt.NDArray[np.int64]]:
        """The model's inputs, each [batch, sequence], padded to the longest row."""
        columns = [(encoding.ids, encoding) for encoding in encodings]
        shape = len(columns), max(len(ids) for ids, _ in columns)
        feed: dict[str, npt.NDArray[np.int64]] = {name: np.zeros(shape, dtype=np.int64) for name in self.card.inputs}
        if "input_ids" in feed:
            feed["input_ids"].fill(self.card.pad_token_id)
        for row, (ids, encoding) in enumerate(columns):
            for name, values in feed.items():
                values[row, : len(ids)] = 1 if name == "attention_mask" else _values(encoding, name)
        return feed


def reply(context: str, windows: Sequence[Window], logits: Sequence[Floats], *, no_answer: bool) -> Reply:
    """The best answer over the windows of a context.

    Args:
        context: the text that the windows' characters count.
        windows: in order.
        logits: of each window, [tokens, 2]: start and end.
        no_answer: whether there may be none; then there is none where that scores at least as much as any span.
    """
    spans, nothing = best_spans(windows, [both[:, 0] for both in logits], [both[:, 1] for both in logits])
    scores = [span.score for span in spans] + ([nothing] if no_answer or not spans else [])
    shares = softmax(np.array(scores), 1.0)
    if not spans or (no_answer and nothing >= spans[0].score):
        return Reply(None, 0, 0, float(shares[-1]), len(windows))
    start, end, _ = spans[0]
    return Reply(context[start:end], start, end, float(shares[0]), len(windows))


def _values(encoding: Tokens, name: str) -> list[int]:
    return list(encoding.ids if name == "input_ids" else encoding.type_ids)


def _session_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _first(error: Exception) -> str:
    """The cause in a few words."""
    if isinstance(error, ValidationError):
        item = error.errors()[0]
        return f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
    return " ".join(str(error).split())[:200]
