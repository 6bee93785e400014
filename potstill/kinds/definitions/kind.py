"""The interface of a kind of task, without torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from potstill.kinds.task_names import TaskKind
from potstill.labels.names import Value
from potstill.scores.metrics import Doubles, Flags, Floats, Labels, Reliability
from potstill.scores.scoring import Scoring
from potstill.scores.statistics import Comparison, Moments, compare_scores

if TYPE_CHECKING:
    import pyarrow as pa

# What an answer is to its reader: a class, the labels that apply, a number, entities of a text, or a span of a context.
Form = Literal["class", "labels", "number", "entities", "span"]
# Names of outputs or classes, as params or data give them.
Names = Sequence[str | int]
# The gold labels and the logits of each training seed of a model.
Side = Sequence[tuple[Any, Any]]
# The name of the score of `Kind.agreement_moments`.
AGREEMENT = "agreement"


@dataclass(frozen=True)
class Head:
    """The head of a task's models.

    Attributes:
        name: the kind of model, in a sentence.
        auto: transformers' Auto class that loads it.
        suffix: how the names of such classes end.
        problem_type: of the config, by which `transformers.pipeline` knows what logits mean; None: its default.
    """

    name: str
    auto: str
    suffix: str
    problem_type: str | None = None


class Kind(ABC):
    """A kind of task.

    Gold labels have the form of the task: rows of labels or, for spans of texts, `GoldTags` or `GoldAnswers` of
    `potstill.evaluation.gold_spans`. Logits are [rows, outputs], or as `predict_logits` returns them.

    Attributes:
        name: in params.
        short_name: for `potstill init --task`; the same name unless it is given.
        card_name: in `model.json`; the same name unless it is given.
        form: of its answers.
        head: of its models.
        outputs: of its ONNX file.
        scoring: the one score by which weights are selected and candidates are judged.
        table_columns: title and key of each score after that one in the table of a run. More would not fit 80 columns.
        score_names: key -> name in the report, for tasks that have several scores with intervals.
        figures: names of the report's figures for this task; `evaluation.pages.task_figures` draws them.
        score_function: turns the logits of a text into the scores of `/predict`: softmax, sigmoid or none.
        label_kinds: values of `prepare.label.kind` that fit.
        limits: limits of the section `gate` that are for some tasks only, this one among them.
        unfit_perturbations: behavioural tests (`evaluate.behaviour.tests`) whose change may change the right answer.
        has_classes: whether labels are classes, whose probabilities can be calibrated.
        no_confidence: the reason why no confidence tells whether a whole answer is right, as a clause; empty where one
            does.
        one_output: whether the head has one output.
    """

    name: ClassVar[TaskKind]
    short_name: ClassVar[str]
    form: ClassVar[Form]
    card_name: ClassVar[str]
    head: ClassVar[Head]
    scoring: ClassVar[Scoring]
    table_columns: ClassVar[tuple[tuple[str, str], ...]]
    label_kinds: ClassVar[tuple[str, ...]]
    limits: ClassVar[tuple[str, ...]] = ()
    score_names: ClassVar[dict[str, str]] = {}
    figures: ClassVar[tuple[str, ...]] = ()
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    score_function: ClassVar[str] = "softmax"
    # A negated sentence has another probability of its class, and only a class is negated.
    unfit_perturbations: ClassVar[tuple[str, ...]] = ("negation",)
    has_classes: ClassVar[bool] = True
    no_confidence: ClassVar[str] = ""
    one_output: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            cls.card_name = cls.__dict__.get("card_name", cls.name)
            cls.short_name = cls.__dict__.get("short_name", cls.name)

    @property
    def marks_spans(self) -> bool:
        """Whether answers are spans of a text."""
        return self.form in ("entities", "span")

    # --- labels -------------------------------------------------------------------------------------------------------

    def settle(self, values: Sequence[Value]) -> Value | None:
        """Choose the label of several copies of a text, which all have one; None: they contradict each other."""
        return values[0] if len(set(values)) == 1 else None

    @abstractmethod
    def output_names(self, values: Sequence[Any], declared: Names | None) -> list[str | int]:
        """Name the model's outputs in order, from the labels of the data and those that params declare."""

    @abstractmethod
    def classes(self, value: Any) -> tuple[str, ...]:
        """List the classes of a label that train, dev and test all have to have; none for a number."""

    def class_names(self, labels: Names) -> Names:
        """List all such classes, from the names of the model's outputs."""
        return labels

    @abstractmethod
    def counts(self, values: Sequence[Any], labels: Names) -> dict[str, Any]:
        """Count the labels of a split for report.json."""

    @abstractmethod
    def column(self, values: Sequence[Any], labels: Names) -> pa.Array:
        """Make the column `label` of `data/prepared` from labels, which are None where a row has none."""

    @abstractmethod
    def token_column(self, outputs: int) -> pa.DataType:
        """Choose the type of the column `label` of `data/tokens`, for models with this number of outputs."""

    def stored_classes(self, value: Any, labels: Names) -> tuple[str, ...]:
        """List the classes of a label as `data/prepared` stores it, by which rows are divided; none for a number."""
        return ()

    # --- scores -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def moments(self, gold: Any, logits: Any) -> Moments:
        """Score logits, in a form from which intervals can be drawn."""

    @abstractmethod
    def distance(self, teacher: Any, student: Any, temperatures: tuple[float, float]) -> dict[str, float]:
        """Compute how far a student's logits are from the teacher's; each temperature is that of one model."""

    def fidelity(self, teacher: Any, student: Any, temperatures: tuple[float, float]) -> dict[str, float]:
        """Compare two models' answers: the agreement first, then `distance`."""
        return {"agreement": self.scoring.agreement(teacher, student)} | self.distance(teacher, student, temperatures)

    def dev_moments(self, labels: Labels, logits: Any) -> Moments:
        """Compute the sums that `scoring` follows from, from the labels of `TokenDataset.whole_labels`."""
        return self.moments(labels, logits)

    @abstractmethod
    def agreement_moments(self, labels: Labels, first: Any, second: Any) -> Moments:
        """Compute the sums that the agreement of two models' logits follows from, on rows as in `dev_moments`."""

    def score(self, gold: Any, logits: Any) -> float:
        """Compute the one score of a model, as users would see it."""
        return self.scoring.score(logits, gold)

    def scores(self, gold: Any, logits: Any, *, replicates: int, confidence: float) -> dict[str, float]:
        """Compute all scores, each with its interval where it has one."""
        return self.moments(gold, logits).with_intervals(replicates=replicates, confidence=confidence)

    def compare(self, first: Side, second: Side, **options: Any) -> tuple[Comparison, list[float]]:
        """Compute one model's score minus another's on the same rows, over all and for each training seed.

        Args:
            first: gold labels and logits for each of its seeds.
            second: the same for the model it is compared with.
            options: of `scores.statistics.compare_scores`.
        """
        key = self.scoring.key
        first_moments, second_moments = (
            [self.moments(gold, logits) for gold, logits in side] for side in (first, second)
        )
        pairs = zip(first_moments, second_moments, strict=True)
        differences = [moments.values[key] - other.values[key] for moments, other in pairs]
        return compare_scores(first_moments, second_moments, key, **options), differences

    def class_f1(self, gold: Any, logits: Any) -> Doubles:
        """Compute the F1 of each class [class_names], for the figure `labels`."""
        raise NotImplementedError(f"a {self.name} task has no F1 of its classes")

    def temperature(self, logits: Floats, labels: Labels) -> float | None:
        """Fit a model's temperature on rows that it was not trained on; None for tasks without one."""
        return None

    # --- answers ------------------------------------------------------------------------------------------------------

    def probabilities(self, logits: Floats, temperature: float) -> Doubles:
        """Compute probabilities [rows, outputs] from logits [rows, outputs]; [rows, 0] for tasks without them."""
        return np.empty((len(logits), 0))

    def evaluated_probabilities(self, logits: Any, temperature: float) -> Doubles:
        """Compute the same for metrics.json and the report."""
        return self.probabilities(logits, temperature)

    def reliability(self, gold: Any, probabilities: Doubles, bins: int) -> Reliability:
        """Compare confidence with accuracy, for tasks with classes."""
        raise NotImplementedError(f"a {self.name} task has no probabilities")

    def confidence(self, gold: Any, logits: Any, temperature: float) -> tuple[Doubles, Flags]:
        """Compute [rows] the calibrated probability of the whole answer to a row, and whether that answer is right.

        Several labels, or the tags of a text: the product of the probabilities of each, as if they were independent;
        right if all are.
        """
        raise ValueError(f"evaluate.abstention does not fit a {self.name} task, {self.no_confidence}")

    def answers(self, logits: Floats, labels: Names) -> list[Any]:
        """Decode logits [rows, outputs] into answers [rows], for tasks with one answer for a whole text."""
        raise NotImplementedError(f"answers of a {self.name} task are spans of a text")


def share_moments(equal: Any, answers: Any = 1) -> Moments:
    """Return the moments of an agreement.

    Args:
        equal: [rows] equal answers of each row.
        answers: [rows] answers of each row, or the same number for all.
    """
    parts = np.broadcast_arrays(np.asarray(equal, np.float64), np.asarray(answers, np.float64))
    columns = np.stack(parts, axis=1)
    return Moments(columns, {AGREEMENT: lambda sums, rows: sums[..., 0] / np.maximum(sums[..., 1], 1)})
