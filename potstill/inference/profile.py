"""Distributions of what a model reads and answers: the profile of the test texts, and counts of others in its bins.

The profile is made when the model is evaluated and goes into the Bento. The service counts its traffic in the same bins
(potstill/serving/watcher.py), and both together say whether that still looks like what was evaluated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator
from tokenizers import Tokenizer

from potstill.artifacts import sha256_value
from potstill.config.base import Strict, TaskKind
from potstill.data.divergence import ks_of_counts, psi_of_counts
from potstill.errors import ModelError
from potstill.inference.runtime import ModelCard, Prediction, Reply, Student, Tagging, Text, characters
from potstill.inference.sketch import signs
from potstill.labels.tags import types_named

Doubles = npt.NDArray[np.float64]
Answer = Prediction | Tagging | Reply

# Bins of equal share, beside one below and one above all that the test texts have.
BINS = 20
VECTOR_BINS = 10
# Features that are sketches.
SKETCHES = ("vector", "embedding")


@dataclass(frozen=True)
class Seen:
    """A text as the model read and answered it.

    Attributes:
        text: a text or the two of a pair.
        ids: its tokens, special ones included; of a question, of all its windows.
        answer: what the model said.
    """

    text: Text
    ids: Sequence[int]
    answer: Answer


class Bins(Strict):
    """Counts of values between edges: bin i holds those over edge i - 1 and up to edge i."""

    edges: list[float]
    counts: list[Annotated[int, Field(ge=0)]]

    @model_validator(mode="after")
    def _edges_are_between_the_bins(self) -> Self:
        if len(self.counts) != len(self.edges) + 1 or sorted(set(self.edges)) != self.edges:
            raise ValueError(f"{len(self.edges)} edges and {len(self.counts)} counts are no bins")
        return self


class Feature(Strict):
    """Something that is counted: one distribution, or several of the same kind (of each label, of each direction).

    `names` are those of the bins where they stand for classes without an order.
    """

    bins: Annotated[list[Bins], Field(min_length=1)]
    names: list[str] = Field(default=[])


class Moments(Strict):
    """Number, sum and sum of squares of values."""

    rows: Annotated[int, Field(ge=0)] = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        """Of the values; there have to be some."""
        return self.total / self.rows

    @property
    def variance(self) -> float:
        """Of the values, unbiased; 0 of fewer than two."""
        return max(self.squares - self.rows * self.mean**2, 0.0) / (self.rows - 1) if self.rows > 1 else 0.0

    def plus(self, values: Doubles) -> Moments:
        """With further values [n]."""
        return self.joined(Moments(rows=len(values), total=float(values.sum()), squares=float(np.square(values).sum())))

    def joined(self, other: Moments) -> Moments:
        """With the values of another."""
        return Moments(
            rows=self.rows + other.rows, total=self.total + other.total, squares=self.squares + other.squares
        )


class Vocabulary(Strict):
    """Ids of a tokenizer: that of unknown tokens, if it has one, and the special ones."""

    unknown: int | None
    special: list[int]


class Right(Strict):
    """How right the model was on the test texts that have a confidence: by each, the share that is right.

    `gap` is that share less the confidence.
    """

    share: Moments
    gap: Moments


class Profile(Strict):
    """`profile.json`: the distributions of the test texts (docs/watching.md).

    `candidate` is the sum of the serving folder's manifest. `confidence` is there where the model gives one; `right`
    where that is calibrated.
    """

    format: Literal[1] = 1
    task: TaskKind
    candidate: str
    texts: Annotated[int, Field(gt=0)]
    vocabulary: Vocabulary
    features: Annotated[dict[str, Feature], Field(min_length=1)]
    confidence: Moments | None
    right: Right | None

    def expected(self, confidence: Moments) -> float | None:
        """The accuracy that confidences tell of (`evaluation.drift.Estimate`); None where they are not calibrated, or
        there are none.
        """
        if self.right is None or not self.right.gap.rows or not confidence.rows:
            return None
        return confidence.mean + self.right.gap.mean

    @cached_property
    def sum(self) -> str:
        """sha256 of its content; windows of counts name the profile whose bins they have."""
        return sha256_value(self.model_dump(mode="json"))


def read_profile(path: Path, candidate: str) -> Profile:
    """The profile of a model.

    Args:
        path: of the file.
        candidate: the model it has to be of.

    Raises:
        ModelError: it is not in this format, or another model's.
    """
    profile = parse_profile(path.read_bytes(), str(path))
    if profile.candidate != candidate:
        raise ModelError(f"{path} is the profile of another model; run the evaluate stage again")
    return profile


def parse_profile(content: bytes, where: str) -> Profile:
    """The profile in a file's content.

    Raises:
        ModelError: it is not in this format.
    """
    try:
        return Profile.model_validate_json(content)
    except ValidationError as error:
        item = error.errors()[0]
        place = ".".join(map(str, item["loc"]))
        raise ModelError(f"{where} is no profile of this version ({place}: {item['msg']}); evaluate again") from error


def build_profile(
    seen: Sequence[Seen], card: ModelCard, tokenizer: Tokenizer, candidate: str, right: Doubles | None
) -> Profile:
    """The profile of the texts that a model was evaluated on.

    Args:
        seen: [texts], not empty.
        card: the model's.
        tokenizer: the model's.
        candidate: sum of the serving folder's manifest.
        right: [texts] share of each answer that is right, NaN where it has no confidence; None where confidences are
            not calibrated.
    """
    vocabulary = vocabulary_of(tokenizer)
    found = readings(seen, card, vocabulary)
    features = {name: _feature(name, values, _names(name, card)) for name, values in found.items()}
    sure = confidences(seen)
    known = sure[~np.isnan(sure)]
    measured = None
    if right is not None:
        held = right[~np.isnan(sure)]
        measured = Right(share=Moments().plus(held), gap=Moments().plus(held - known))
    return Profile(
        task=card.kind,
        candidate=candidate,
        texts=len(seen),
        vocabulary=vocabulary,
        features=features,
        confidence=Moments().plus(known) if len(known) else None,
        right=measured,
    )


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The special ids of a tokenizer, and that of unknown tokens: what its model gives for what it has no token for."""
    model = json.loads(tokenizer.to_str())["model"]
    unknown = model.get("unk_id")
    if model.get("unk_token") is not None:
        unknown = tokenizer.token_to_id(model["unk_token"])
    special = [id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special and id_ != unknown]
    return Vocabulary(unknown=unknown, special=sorted(special))


def answer_all(student: Student, texts: Sequence[Text]) -> list[Any]:
    """[texts] what a model answers users about each."""
    rows: Any = texts
    if student.card.kind == "token_classification":
        return student.tag(rows)
    return student.answer(rows) if student.card.kind == "question_answering" else student.predict(rows)


# --- what is read of a text -------------------------------------------------------------------------------------------


def readings(seen: Sequence[Seen], card: ModelCard, vocabulary: Vocabulary) -> dict[str, Doubles]:
    """The values [n, k] of each feature, k of them a row; n is the number of texts but where a text may have none."""
    return _of_texts(seen, vocabulary) | _of_answers(seen, card)


def confidences(seen: Sequence[Seen]) -> Doubles:
    """[texts] how sure each answer is, NaN where it has no confidence.

    Of one class of several its probability; of several labels the mean probability of the yes or no to each; of
    entities their mean score; of a question the answer's score; of a number there is none.
    """
    return np.array([_confidence(one.answer) for one in seen], dtype=np.float64)


def _confidence(answer: Answer) -> float:
    if isinstance(answer, Reply):
        return answer.score
    if isinstance(answer, Tagging):
        scores = [entity.score for entity in answer.entities]
        return sum(scores) / len(scores) if scores else np.nan
    if isinstance(answer.label, list):
        return sum(max(p, 1 - p) for p in answer.probabilities) / len(answer.probabilities)
    return max(answer.probabilities, default=np.nan)


def _of_texts(seen: Sequence[Seen], vocabulary: Vocabulary) -> dict[str, Doubles]:
    lengths = np.array([len(one.ids) for one in seen])
    ids = np.fromiter(chain.from_iterable(one.ids for one in seen), np.int64, int(lengths.sum()))
    rows = np.repeat(np.arange(len(seen)), lengths)
    words = ~np.isin(ids, vocabulary.special)
    ids, rows = ids[words], rows[words]
    counted = np.maximum(np.bincount(rows, minlength=len(seen)), 1)
    unknown = np.bincount(rows, ids == (-1 if vocabulary.unknown is None else vocabulary.unknown), len(seen))
    return {
        "characters": _column([characters(one.text) for one in seen]),
        "tokens": _column(lengths),
        "unknown": _column(unknown / counted),
        "vector": _sketch(ids, rows, len(seen)) / np.sqrt(counted)[:, None],
    }


def _sketch(ids: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], texts: int) -> Doubles:
    """[texts, directions] sums of the signs that each token has in each direction."""
    return np.stack([np.bincount(rows, column, texts) for column in signs(ids).T], axis=1)


def _of_answers(seen: Sequence[Seen], card: ModelCard) -> dict[str, Doubles]:
    answers: list[Any] = [one.answer for one in seen]
    found = {"embedding": np.array([answer.sketch for answer in answers], dtype=np.float64)} if card.embedding else {}
    if card.kind == "regression":
        return found | {"number": _column([answer.label for answer in answers])}
    sure = confidences(seen)
    found["confidence"] = _column(sure[~np.isnan(sure)])
    if card.kind == "question_answering":
        answered = [answer.answer is not None for answer in answers]
        return found | {"answered": _column(answered), "windows": _column([answer.windows for answer in answers])}
    if card.kind == "token_classification":
        place = {name: at for at, name in enumerate(_names("label", card))}
        types = [place[entity.type] for answer in answers for entity in answer.entities]
        return found | {"entities": _column([len(answer.entities) for answer in answers]), "label": _column(types)}
    if card.kind == "multi_label":
        flags = [[label in answer.label for label in card.labels] for answer in answers]
        return found | {"label": np.array(flags, dtype=np.float64).reshape(len(seen), -1)}
    index = {label: at for at, label in enumerate(card.labels)}
    return found | {"label": _column([index[answer.label] for answer in answers])}


def _column(values: Sequence[Any] | npt.NDArray[Any]) -> Doubles:
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


def _names(feature: str, card: ModelCard) -> list[str]:
    """What the bins of a feature stand for; none where they are ranges of numbers."""
    if feature == "answered" or (feature == "label" and card.kind == "multi_label"):
        return ["no", "yes"]
    if feature != "label":
        return []
    names = [str(label) for label in card.labels]
    return list(types_named(names)) if card.kind == "token_classification" else names


def _feature(name: str, values: Doubles, names: list[str]) -> Feature:
    if names:
        edges = [[at + 0.5 for at in range(len(names) - 1)]] * values.shape[1]
    else:
        edges = [_edges(column, VECTOR_BINS if name in SKETCHES else BINS) for column in values.T]
    counts = [_count(column, inner) for column, inner in zip(values.T, edges, strict=True)]
    bins = [Bins(edges=inner, counts=found.tolist()) for inner, found in zip(edges, counts, strict=True)]
    return Feature(bins=bins, names=names)


def _edges(values: Doubles, bins: int) -> list[float]:
    """Quantiles, and one edge on each side of all values: what lies beyond is new."""
    if not len(values):
        return [0.0]
    inner = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return sorted({float(np.nextafter(values.min(), -np.inf)), *inner.tolist(), float(values.max())})


def _count(values: Doubles, edges: Sequence[float]) -> npt.NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


# --- counting ---------------------------------------------------------------------------------------------------------


class Counts:
    """Texts counted in a profile's bins; of a size of its own, however many they are."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.texts = 0
        self.truncated = 0
        self.confidence = Moments()
        self.bins = {
            name: [np.zeros(len(bins.counts), dtype=np.int64) for bins in feature.bins]
            for name, feature in profile.features.items()
        }

    def add(self, seen: Sequence[Seen], card: ModelCard) -> None:
        """Count texts, at least one."""
        for name, values in readings(seen, card, self._profile.vocabulary).items():
            for held, bins, column in zip(self.bins[name], self._profile.features[name].bins, values.T, strict=True):
                held += _count(column, bins.edges)
        sure = confidences(seen)
        self.confidence = self.confidence.plus(sure[~np.isnan(sure)])
        self.texts += len(seen)
        self.truncated += sum(isinstance(one.answer, Prediction) and one.answer.truncated for one in seen)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "texts": self.texts,
            "truncated": self.truncated,
            "confidence": self.confidence.model_dump(),
            "counts": {name: [held.tolist() for held in bins] for name, bins in self.bins.items()},
        }

    def join(self, other: Mapping[str, Any]) -> None:
        """Add what `to_json` of counts in the same bins gave.

        Raises:
            KeyError, TypeError, ValueError: it did not give that.
        """
        bins = {name: [np.array(held, dtype=np.int64) for held in other["counts"][name]] for name in self.bins}
        confidence = Moments(**other["confidence"])
        shapes = {name: [held.shape for held in found] for name, found in self.bins.items()}
        if shapes != {name: [held.shape for held in found] for name, found in bins.items()}:
            raise ValueError("counts are of other bins")
        self.texts += int(other["texts"])
        self.truncated += int(other["truncated"])
        self.confidence = self.confidence.joined(confidence)
        for name, held in self.bins.items():
            for mine, theirs in zip(held, bins[name], strict=True):
                mine += theirs

    def shift(self, name: str) -> tuple[float, float | None]:
        """PSI, and KS where bins have an order, of a feature against the profile; the largest of its distributions.

        0 where a feature has no values here or there.
        """
        feature = self._profile.features[name]
        pairs = [
            (bins.counts, held.tolist())
            for bins, held in zip(feature.bins, self.bins[name], strict=True)
            if sum(bins.counts) and held.sum()
        ]
        index = max((psi_of_counts(*pair) for pair in pairs), default=0.0)
        return index, None if feature.names else max((ks_of_counts(*pair) for pair in pairs), default=0.0)
