"""The entities of a text: a tag for each of its units, predicted by the token that represents it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.errors import LabelError, OneClassError
from potstill.kinds.definitions.kind import Head, Names, share_moments
from potstill.kinds.definitions.single_label import SoftmaxKind, count_classes, same_class
from potstill.labels.offsets import IGNORED, UNSEEN, flat_labels, has_own_token, unit_classes, unit_states
from potstill.labels.tags import Unit, entities_of, split_tag, tag_set, types_named
from potstill.scores import metrics
from potstill.scores.calibration import fit_temperature
from potstill.scores.entities import EntityCounts, count_entities
from potstill.scores.metrics import Counts, Doubles, Flags, Floats, Labels, Reliability
from potstill.scores.probabilities import softmax
from potstill.scores.scoring import Scoring
from potstill.scores.statistics import Moments

if TYPE_CHECKING:
    import pyarrow as pa

    from potstill.labels.windows import TextWindow


@dataclass(frozen=True)
class Entity:
    """An entity in a text: its type, its characters (`end` exclusive), and the mean probability of its units' tags."""

    type: str
    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True)
class Tagging:
    """The entities of one text.

    Attributes:
        entities: in order.
        windows: the number of windows in which the text was read.
        confidence: the calibrated probability of all tags together, as if they were independent.
    """

    entities: list[Entity]
    windows: int
    confidence: float


def entity_f1(logits: Floats, labels: Labels) -> float:
    """Compute micro F1 by entity over the tokens that represent units.

    Args:
        logits: [answers, classes].
        labels: [texts] objects: the token labels of each text (`TokenDataset.whole_labels`).
    """
    return _entity_counts(logits, labels).f1


class TokenClassification(SoftmaxKind):
    """The entities of a text; each token that represents a unit is one class of several."""

    name = "token_classification"
    short_name = "entities"
    form = "entities"
    head = Head("token classifier", "AutoModelForTokenClassification", "ForTokenClassification")
    scoring = Scoring("f1", "entity F1", entity_f1, same_class)
    table_columns = (("pre-\ncision", "precision"), ("re-\ncall", "recall"))
    score_names = {"f1": "F1", "precision": "precision", "recall": "recall", "macro_f1": "macro F1"}
    figures = ("reliability", "labels")
    label_kinds = ("tags", "spans", "words")
    limits = ("min_macro_f1", "max_ece")
    # An entity is compared by its characters, so they must not move.
    unfit_perturbations = (
        "typo_drop", "typo_double", "punctuation_dropped", "punctuation_doubled", "space_doubled", "space_around",
        "space_stripped", "negation", "names", "neutral_url", "neutral_before", "character_doubled",
    )  # fmt: skip

    def output_names(self, values: Sequence[Any], declared: Names | None) -> list[str | int]:
        """Return O, then B and I of each type."""
        types = set(_types(values))
        known = [str(kind) for kind in declared or ()]
        if not types:
            raise OneClassError("none of the labelled rows has an entity; check prepare.label")
        if known and (unknown := sorted(types - set(known))):
            raise LabelError(
                f"the data has entities of type {unknown[0]!r}, which is not one of prepare.labels "
                f"({', '.join(known)}); declare the type, or correct the rows"
            )
        return [*tag_set(known or sorted(types))]

    def classes(self, value: Any) -> tuple[str, ...]:
        return tuple(sorted(_types([value])))

    def class_names(self, labels: Names) -> Names:
        return types_named(labels)

    def stored_classes(self, value: Any, labels: Names) -> tuple[str, ...]:
        types = {split_tag(str(labels[tag]))[1] for _, _, tag in value} - {""}
        return tuple(sorted(types))

    def counts(self, values: Sequence[Any], labels: Names) -> dict[str, Any]:
        """Count the rows with an entity of each type, as classes, and the entities of each type."""
        tags = [[unit.tag for unit in units] for units in values if units is not None]
        entities = Counter(entity.type for row in tags for entity in entities_of(row))
        return count_classes(list(_types(values)), types_named(labels)) | {"entities": dict(sorted(entities.items()))}

    def column(self, values: Sequence[Any], labels: Names) -> pa.Array:
        """Make a column of lists with start, end and tag index of each unit."""
        import pyarrow as pa

        index = {str(tag): at for at, tag in enumerate(labels)}
        rows = [units and [[unit.start, unit.end, index[unit.tag]] for unit in units] for units in values]
        return pa.array(rows, pa.list_(pa.list_(pa.int32(), 3)))

    def token_column(self, outputs: int) -> pa.DataType:
        import pyarrow as pa

        return pa.list_(pa.int16())

    def moments(self, gold: Any, logits: Any) -> Moments:
        moments: Moments = gold.moments(logits)
        return moments

    def dev_moments(self, labels: Labels, logits: Any) -> Moments:
        return _entity_counts(logits, labels).moments()

    def agreement_moments(self, labels: Labels, first: Any, second: Any) -> Moments:
        """Compute the share of tokens with the same tag, from counts of each text."""
        lengths = _answer_counts(labels)
        equal = first.argmax(axis=1) == second.argmax(axis=1)
        ends = np.cumsum(lengths)
        before = np.concatenate([[0], np.cumsum(equal)])
        return share_moments(before[ends] - before[ends - lengths], lengths)

    def score(self, gold: Any, logits: Any) -> float:
        return self.moments(gold, logits).values[self.scoring.key]

    def scores(self, gold: Any, logits: Any, *, replicates: int, confidence: float) -> dict[str, float]:
        """Compute scores by entity; the point estimates are those of the library `seqeval`."""
        scores = super().scores(gold, logits, replicates=replicates, confidence=confidence)
        library: dict[str, float] = gold.library_scores(logits)
        return scores | library

    def class_f1(self, gold: Any, logits: Any) -> Doubles:
        f1: Doubles = gold.counts(logits.argmax(axis=1)).types()
        return f1

    def temperature(self, logits: Floats, labels: Labels) -> float | None:
        """Fit T of softmax(logits / T); each token that represents a unit is a row."""
        return fit_temperature(logits, _token_classes(labels).astype(np.int64))

    def reliability(self, gold: Any, probabilities: Doubles, bins: int) -> Reliability:
        """Compare confidence with accuracy, token by token."""
        return metrics.reliability(gold.token_classes, probabilities, bins)

    def confidence(self, gold: Any, logits: Any, temperature: float) -> tuple[Doubles, Flags]:
        counts = gold.counts(logits.argmax(axis=1))
        right: Flags = ((counts.right == counts.predicted) & (counts.right == counts.gold)).all(axis=1)
        surest = metrics.log_softmax(logits, temperature).max(axis=1)
        sums = [row.sum() for row in gold.answers_by_row(surest)]
        return np.exp(np.array(sums, dtype=np.float64)), right


def tagging(
    text: str,
    units: Sequence[Unit],
    windows: Sequence[TextWindow],
    logits: Sequence[Floats],
    labels: Names,
    temperature: float,
) -> Tagging:
    """Decode the logits [tokens, tags] of a text's windows into its entities."""
    token_classes = []
    confidences = []
    log_confidence = 0.0
    for window, values in zip(windows, logits, strict=True):
        answers = values[window.tokens[has_own_token(window.tokens)]]
        token_classes.append(answers.argmax(axis=1))
        log_confidence += float(metrics.log_softmax(answers, temperature).max(axis=1).sum())
        highest = softmax(values, temperature).max(axis=1)
        # Units that share a token share its probability; a unit without a token has none.
        confidences.append(np.where(window.tokens == UNSEEN, 0.0, highest[window.tokens]))
    states = np.concatenate([unit_states(window.tokens) for window in windows])
    classes = unit_classes(np.concatenate(token_classes), states)
    scores = np.concatenate(confidences)
    tags = [str(labels[index]) for index in classes.tolist()]
    entities = []
    for kind, first, last in entities_of(tags):
        start = units[first].start
        end = units[last - 1].end
        entities.append(Entity(kind, start, end, text[start:end], float(scores[first:last].mean())))
    return Tagging(entities, len(windows), math.exp(log_confidence))


def _entity_counts(logits: Floats, labels: Labels) -> EntityCounts:
    """Count entities over the tokens that represent units; see `entity_f1` for the arguments."""
    return count_entities(_token_classes(labels), logits.argmax(axis=1), _answer_counts(labels), logits.shape[1] // 2)


def _answer_counts(labels: Labels) -> Counts:
    """Count the tokens that represent units [texts]."""
    return np.array([(row != IGNORED).sum() for row in labels], dtype=np.int64)


def _token_classes(labels: Labels) -> Labels:
    """Return the gold classes [answers] of the tokens that represent units."""
    flat = flat_labels(labels)
    classes: Labels = flat[flat != IGNORED]
    return classes


def _types(values: Iterable[Any]) -> Iterator[str]:
    """Yield the types of entities in each row, each once a row."""
    for units in values:
        yield from {split_tag(unit.tag)[1] for unit in units or ()} - {""}
