"""Distributions of a model's inputs and answers: the profile of the test texts, and counts of traffic in its bins.

The evaluation builds the profile, which goes into the Bento. The service counts its traffic in the same bins
(potstill/serving/watcher.py). The comparison of both says whether the traffic still looks like the test texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator
from tokenizers import Tokenizer

from potstill.artifacts import sha256_value
from potstill.config.base import Strict
from potstill.data.divergence import ks_of_counts, psi_of_counts
from potstill.errors import ModelError
from potstill.inference.runtime import ModelCard, Prediction, Student, Text, Tokens, Work, characters
from potstill.inference.sketch import signs
from potstill.kinds.definitions.kind import Form
from potstill.kinds.definitions.question_answering import Reply
from potstill.kinds.definitions.token_classification import Tagging
from potstill.kinds.task_names import TaskKind
from potstill.labels.tags import types_named

Doubles = npt.NDArray[np.float64]
Answer = Prediction | Tagging | Reply

# Bins of equal share. Two further bins hold what is below and above all values of the test texts.
BINS = 20
VECTOR_BINS = 10
# Features that are sketches; their bins are `VECTOR_BINS`.
SKETCHES = ("vector", "embedding")


@dataclass(frozen=True)
class Observation:
    """A text with its tokens and the model's answer.

    Attributes:
        text: a text or a pair.
        ids: token ids, special ones included; of a text that was read in windows, those of all windows.
        answer: the model's answer.
    """

    text: Text
    ids: Sequence[int]
    answer: Answer


class Bins(Strict):
    """Counts of values between edges: bin i holds values above edge i - 1 and up to edge i."""

    edges: list[float]
    counts: list[Annotated[int, Field(ge=0)]]

    @model_validator(mode="after")
    def _edges_are_between_the_bins(self) -> Self:
        if len(self.counts) != len(self.edges) + 1 or sorted(set(self.edges)) != self.edges:
            raise ValueError(f"{len(self.edges)} edges and {len(self.counts)} counts do not match")
        return self


class Feature(Strict):
    """A feature of a text or an answer: one distribution, or several of a kind (one a label, one a direction).

    `names` are those of the bins if they stand for classes without an order.
    """

    bins: Annotated[list[Bins], Field(min_length=1)]
    names: list[str] = Field(default=[])


class Moments(Strict):
    """The number, sum and sum of squares of values."""

    rows: Annotated[int, Field(ge=0)] = 0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float:
        """The mean; at least one value is needed."""
        return self.total / self.rows

    @property
    def variance(self) -> float:
        """The unbiased variance; 0 for fewer than two values."""
        if self.rows < 2:
            return 0.0
        return max(self.squares - self.rows * self.mean**2, 0.0) / (self.rows - 1)

    def with_values(self, values: Doubles) -> Moments:
        """Add values [n]."""
        return self.merged(Moments(rows=len(values), total=float(values.sum()), squares=float(np.square(values).sum())))

    def merged(self, other: Moments) -> Moments:
        """Add the values of other moments."""
        return Moments(
            rows=self.rows + other.rows, total=self.total + other.total, squares=self.squares + other.squares
        )


class Vocabulary(Strict):
    """Token ids of a tokenizer: the one for unknown tokens, if it has one, and the special ones."""

    unknown: int | None
    special: list[int]


class Correctness(Strict):
    """How correct the answers to the test texts are, over those with a confidence.

    `share` has the correct share of each answer, `gap` that share minus the confidence.
    """

    share: Moments
    gap: Moments


class Profile(Strict):
    """`profile.json`: the distributions of the test texts (docs/watching.md).

    `candidate` is the sha256 of the serving folder's manifest. `confidence` is null for a model without confidences,
    `right` for one whose confidences are not calibrated.
    """

    format: Literal[1] = 1
    task: TaskKind
    candidate: str
    texts: Annotated[int, Field(gt=0)]
    vocabulary: Vocabulary
    features: Annotated[dict[str, Feature], Field(min_length=1)]
    confidence: Moments | None
    right: Correctness | None

    def expected(self, confidence: Moments) -> float | None:
        """Estimate the accuracy from confidences (`evaluation.drift.Estimate`); None if they are missing or not
        calibrated.
        """
        if self.right is None or not self.right.gap.rows or not confidence.rows:
            return None
        return confidence.mean + self.right.gap.mean

    @cached_property
    def sum(self) -> str:
        """The sha256 of the profile; windows of counts name the profile whose bins they have."""
        return sha256_value(self.model_dump(mode="json"))


def read_profile(path: Path, candidate: str) -> Profile:
    """Read the profile of a model.

    Args:
        path: the file.
        candidate: the model that it has to belong to.

    Raises:
        ModelError: the file is not in this format, or belongs to another model.
    """
    profile = parse_profile(path.read_bytes(), str(path))
    if profile.candidate != candidate:
        raise ModelError(f"{path} is the profile of another model; run the evaluate stage again")
    return profile


def parse_profile(content: bytes, source: str) -> Profile:
    """Parse a profile; `source` names it in the message.

    Raises:
        ModelError: the content is not in this format.
    """
    try:
        return Profile.model_validate_json(content)
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(map(str, item["loc"]))
        raise ModelError(f"{source} is no profile of this version ({key}: {item['msg']}); evaluate again") from error


def build_profile(
    observations: Sequence[Observation],
    card: ModelCard,
    tokenizer: Tokenizer,
    candidate: str,
    correct_shares: Doubles | None,
) -> Profile:
    """Build the profile of the texts that a model was evaluated on.

    Args:
        observations: [texts], not empty.
        card: the model's card.
        tokenizer: the model's tokenizer.
        candidate: sha256 of the serving folder's manifest.
        correct_shares: [texts] the correct share of each answer, NaN for an answer without confidence; None if
            confidences are not calibrated.
    """
    vocabulary = read_vocabulary(tokenizer)
    values_by_feature = feature_values(observations, card, vocabulary)
    features = {name: _feature(name, values, _names(name, card)) for name, values in values_by_feature.items()}
    scores = confidences(observations)
    has_score = ~np.isnan(scores)
    correctness = None
    if correct_shares is not None:
        shares = correct_shares[has_score]
        gaps = shares - scores[has_score]
        correctness = Correctness(share=Moments().with_values(shares), gap=Moments().with_values(gaps))
    return Profile(
        task=card.kind,
        candidate=candidate,
        texts=len(observations),
        vocabulary=vocabulary,
        features=features,
        confidence=Moments().with_values(scores[has_score]) if has_score.any() else None,
        right=correctness,
    )


def read_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Read the special ids of a tokenizer, and the id that its model gives to unknown tokens."""
    model = json.loads(tokenizer.to_str())["model"]
    unknown = model.get("unk_id")
    if model.get("unk_token") is not None:
        unknown = tokenizer.token_to_id(model["unk_token"])
    special = [id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special and id_ != unknown]
    return Vocabulary(unknown=unknown, special=sorted(special))


def answer_all(student: Student, texts: Sequence[Text]) -> list[Any]:
    """Answer each text as the service does: [texts]."""
    rows: Any = texts
    if student.card.form == "entities":
        return student.tag(rows)
    if student.card.form == "span":
        return student.answer(rows)
    return student.predict(rows)


def observe(student: Student, texts: Sequence[Text]) -> list[Observation]:
    """Answer each text as the service does, and keep its tokens: [texts]."""
    rows: Any = texts
    prepare: dict[Form, Callable[[Any], Work[Any]]] = {"entities": student.tag_work, "span": student.answer_work}
    work = prepare.get(student.card.form, student.predict_work)(rows)
    return observations(texts, work.rows, work.finish(student.compute(work.rows)))


def observations(texts: Sequence[Text], rows: Sequence[Tokens], answers: Sequence[Answer]) -> list[Observation]:
    """Join each text with its tokens and its answer: [texts]. A text that was read in windows has a row for each."""
    waiting = iter(rows)
    joined = []
    for text, answer in zip(texts, answers, strict=True):
        text_rows = islice(waiting, 1 if isinstance(answer, Prediction) else answer.windows)
        joined.append(Observation(text, list(chain.from_iterable(row.ids for row in text_rows)), answer))
    return joined


# --- features ---------------------------------------------------------------------------------------------------------


def feature_values(observations: Sequence[Observation], card: ModelCard, vocabulary: Vocabulary) -> dict[str, Doubles]:
    """Compute the values [n, k] of each feature; n is the number of texts unless texts can have none or several."""
    return _text_features(observations, vocabulary) | _answer_features(observations, card)


def confidences(observations: Sequence[Observation]) -> Doubles:
    """Compute the confidence of each answer [texts], NaN where it has none.

    It depends on the task. single_label: the probability of the class. multi_label: the mean probability of the
    decisions, one a label. token_classification: the mean score of the entities. question_answering: the score of the
    answer. regression: none.
    """
    return np.array([_confidence(observation.answer) for observation in observations], dtype=np.float64)


def _confidence(answer: Answer) -> float:
    if isinstance(answer, Reply):
        return answer.score
    if isinstance(answer, Tagging):
        scores = [entity.score for entity in answer.entities]
        return sum(scores) / len(scores) if scores else np.nan
    if isinstance(answer.label, list):
        return sum(max(p, 1 - p) for p in answer.probabilities) / len(answer.probabilities)
    return max(answer.probabilities, default=np.nan)


def _text_features(observations: Sequence[Observation], vocabulary: Vocabulary) -> dict[str, Doubles]:
    texts = len(observations)
    lengths = np.array([len(observation.ids) for observation in observations])
    all_ids = chain.from_iterable(observation.ids for observation in observations)
    ids = np.fromiter(all_ids, np.int64, int(lengths.sum()))
    rows = np.repeat(np.arange(texts), lengths)
    is_word = ~np.isin(ids, vocabulary.special)
    ids = ids[is_word]
    rows = rows[is_word]
    word_counts = np.maximum(np.bincount(rows, minlength=texts), 1)
    unknown_id = -1 if vocabulary.unknown is None else vocabulary.unknown
    unknown_counts = np.bincount(rows, ids == unknown_id, texts)
    return {
        "characters": _column([characters(observation.text) for observation in observations]),
        "tokens": _column(lengths),
        "unknown": _column(unknown_counts / word_counts),
        "vector": _sketch(ids, rows, texts) / np.sqrt(word_counts)[:, None],
    }


def _sketch(ids: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], texts: int) -> Doubles:
    """Sum the signs of the tokens of each text in each direction: [texts, directions]."""
    return np.stack([np.bincount(rows, column, texts) for column in signs(ids)], axis=1)


def _answer_features(observations: Sequence[Observation], card: ModelCard) -> dict[str, Doubles]:
    answers: list[Any] = [observation.answer for observation in observations]
    features: dict[str, Doubles] = {}
    if card.embedding:
        features["embedding"] = np.array([answer.sketch for answer in answers], dtype=np.float64)
    if card.form == "number":
        return features | {"number": _column([answer.label for answer in answers])}
    features["confidence"] = _column(_known(confidences(observations)))
    if card.form == "span":
        answered = [answer.answer is not None for answer in answers]
        return features | {"answered": _column(answered), "windows": _column([answer.windows for answer in answers])}
    if card.form == "entities":
        type_index = {name: index for index, name in enumerate(_names("label", card))}
        types = [type_index[entity.type] for answer in answers for entity in answer.entities]
        return features | {"entities": _column([len(answer.entities) for answer in answers]), "label": _column(types)}
    if card.form == "labels":
        flags = [[label in answer.label for label in card.labels] for answer in answers]
        return features | {"label": np.array(flags, dtype=np.float64).reshape(len(answers), -1)}
    label_index = {label: index for index, label in enumerate(card.labels)}
    return features | {"label": _column([label_index[answer.label] for answer in answers])}


def _known(scores: Doubles) -> Doubles:
    return scores[~np.isnan(scores)]


def _column(values: Sequence[Any] | npt.NDArray[Any]) -> Doubles:
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


def _names(feature: str, card: ModelCard) -> list[str]:
    """Name the classes that the bins of a feature stand for; empty if they are ranges of numbers."""
    if feature == "answered" or (feature == "label" and card.form == "labels"):
        return ["no", "yes"]
    if feature != "label":
        return []
    names = [str(label) for label in card.labels]
    return list(types_named(names)) if card.form == "entities" else names


def _feature(name: str, values: Doubles, names: list[str]) -> Feature:
    if names:
        edges = [[index + 0.5 for index in range(len(names) - 1)]] * values.shape[1]
    else:
        edges = [_edges(column, VECTOR_BINS if name in SKETCHES else BINS) for column in values.T]
    bins = [
        Bins(edges=column_edges, counts=_count(column, column_edges).tolist())
        for column, column_edges in zip(values.T, edges, strict=True)
    ]
    return Feature(bins=bins, names=names)


def _edges(values: Doubles, bins: int) -> list[float]:
    """Compute quantiles and one edge on each side of all values, beyond which a value is new."""
    if not len(values):
        return [0.0]
    inner = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    return sorted({float(np.nextafter(values.min(), -np.inf)), *inner.tolist(), float(values.max())})


def _count(values: Doubles, edges: Sequence[float]) -> npt.NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


# --- counting ---------------------------------------------------------------------------------------------------------


class Counts:
    """Texts counted in the bins of a profile; their size does not depend on the number of texts."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.texts = 0
        self.truncated = 0
        self.confidence = Moments()
        self.bins = {
            name: [np.zeros(len(bins.counts), dtype=np.int64) for bins in feature.bins]
            for name, feature in profile.features.items()
        }

    def add(self, observations: Sequence[Observation], card: ModelCard) -> None:
        """Count texts, at least one."""
        for name, values in feature_values(observations, card, self._profile.vocabulary).items():
            for counts, bins, column in zip(self.bins[name], self._profile.features[name].bins, values.T, strict=True):
                counts += _count(column, bins.edges)
        self.confidence = self.confidence.with_values(_known(confidences(observations)))
        self.texts += len(observations)
        answers = [observation.answer for observation in observations]
        self.truncated += sum(isinstance(answer, Prediction) and answer.truncated for answer in answers)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return {
            "texts": self.texts,
            "truncated": self.truncated,
            "confidence": self.confidence.model_dump(),
            "counts": {name: [counts.tolist() for counts in bins] for name, bins in self.bins.items()},
        }

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add counts in the same bins, given as `to_json` returns them.

        Raises:
            KeyError, TypeError, ValueError: the values are not such counts.
        """
        bins = {name: [np.array(counts, dtype=np.int64) for counts in other["counts"][name]] for name in self.bins}
        confidence = Moments(**other["confidence"])
        if _shapes(bins) != _shapes(self.bins):
            raise ValueError("counts are of other bins")
        self.texts += int(other["texts"])
        self.truncated += int(other["truncated"])
        self.confidence = self.confidence.merged(confidence)
        for name, total in self.bins.items():
            for counts, added in zip(total, bins[name], strict=True):
                counts += added

    def shift(self, name: str) -> tuple[float, float | None]:
        """Compute the PSI of a feature against the profile, and its KS distance if the bins have an order.

        Each is the largest over the feature's distributions, and 0 if either side has no values.
        """
        feature = self._profile.features[name]
        pairs = [
            (bins.counts, counts.tolist())
            for bins, counts in zip(feature.bins, self.bins[name], strict=True)
            if sum(bins.counts) and counts.sum()
        ]
        psi = max((psi_of_counts(*pair) for pair in pairs), default=0.0)
        if feature.names:
            return psi, None
        return psi, max((ks_of_counts(*pair) for pair in pairs), default=0.0)


def _shapes(bins: Mapping[str, list[npt.NDArray[np.int64]]]) -> dict[str, list[tuple[int, ...]]]:
    return {name: [counts.shape for counts in columns] for name, columns in bins.items()}
