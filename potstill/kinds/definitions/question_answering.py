"""An answer to a question: a span of a context, chosen by its first and its last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.kinds.definitions.kind import Head, Kind, Names, share_moments
from potstill.kinds.definitions.single_label import count_classes
from potstill.labels.windows import Window, best_spans
from potstill.scores import metrics
from potstill.scores.metrics import Doubles, Floats, Labels
from potstill.scores.probabilities import softmax
from potstill.scores.scoring import Scoring
from potstill.scores.statistics import Moments

if TYPE_CHECKING:
    import pyarrow as pa

# The two counts of questions in a report.
ANSWER, NO_ANSWER = "answer", "no answer"


@dataclass(frozen=True)
class Reply:
    """The answer to one question.

    Attributes:
        answer: a part of the context; None if the context has no answer.
        start: first character of the answer; 0 without an answer.
        end: the character after its last.
        score: its share of the probability of the best spans, "no answer" included if that is possible.
        windows: number of windows in which the context was read.
    """

    answer: str | None
    start: int
    end: int
    score: float
    windows: int


def token_span_f1(logits: Labels, labels: Labels) -> float:
    """Compute the mean over the windows of the F1 of the tokens in the predicted and the gold span.

    The predicted span is the best one that does not end before it starts, or "no answer": the first token, which is
    also the gold span of a window without the answer. Weights are selected by it; `QuestionAnswering.score` judges the
    answers that users read.

    Args:
        logits: [rows] objects, each [tokens, 2].
        labels: [rows] SPAN.
    """
    return float(np.mean(_token_f1(logits, labels)))


def _token_f1(logits: Labels, labels: Labels) -> Doubles:
    """Compute the F1 of each window [rows]; see `token_span_f1`."""
    pairs = zip(logits, labels, strict=True)
    return np.array([_overlap(best_tokens(row), (gold["start"], gold["end"])) for row, gold in pairs])


def best_tokens(logits: Floats) -> tuple[int, int]:
    """Find the first and last token of the best span of logits [tokens, 2]; the first token alone is "no answer"."""
    starts, ends = logits[1:, 0], logits[1:, 1]
    # The best start up to each end.
    best = np.maximum.accumulate(starts)
    end = int(np.argmax(best + ends))
    if best[end] + ends[end] <= logits[0].sum():
        return 0, 0
    return int(np.argmax(starts[: end + 1])) + 1, end + 1


def _overlap(span: tuple[int, int], gold: tuple[int, int]) -> float:
    shared = min(span[1], gold[1]) - max(span[0], gold[0]) + 1
    return 2 * max(shared, 0) / (span[1] - span[0] + gold[1] - gold[0] + 2)


def _same_spans(first: Labels, second: Labels) -> float:
    """Compute the share of windows in which two models predict the same span."""
    return float(np.mean(_equal_spans(first, second)))


def _equal_spans(first: Labels, second: Labels) -> list[bool]:
    """Return [windows] whether two models predict the same span."""
    return [
        best_tokens(logits) == best_tokens(second_logits) for logits, second_logits in zip(first, second, strict=True)
    ]


class QuestionAnswering(Kind):
    """An answer to a question."""

    name = "question_answering"
    short_name = "answers"
    form = "span"
    head = Head("model of questions", "AutoModelForQuestionAnswering", "ForQuestionAnswering")
    outputs = ("start_logits", "end_logits")
    scoring = Scoring("f1", "answer F1", token_span_f1, _same_spans)
    table_columns = (("exact\nmatch", "exact_match"),)
    score_names = {"f1": "F1", "exact_match": "exact match"}
    has_classes = False
    # The names and numbers of a question decide its answer.
    unfit_perturbations = ("negation", "names", "numbers")
    no_confidence = "whose scores are no calibrated probabilities"
    label_kinds = ("answers",)

    def output_names(self, values: Sequence[Any], declared: Names | None) -> list[str | int]:
        return ["start", "end"]

    def classes(self, value: Any) -> tuple[str, ...]:
        return (ANSWER,) if value else ()

    def class_names(self, labels: Names) -> Names:
        return [ANSWER]

    def stored_classes(self, value: Any, labels: Names) -> tuple[str, ...]:
        return (ANSWER if value else NO_ANSWER,)

    def counts(self, values: Sequence[Any], labels: Names) -> dict[str, Any]:
        """Count the questions with and without an answer."""
        answered = [ANSWER if spans else NO_ANSWER for spans in values if spans is not None]
        return count_classes(answered, [ANSWER, NO_ANSWER])

    def column(self, values: Sequence[Any], labels: Names) -> pa.Array:
        """Make a column of lists with start and end of each gold answer."""
        import pyarrow as pa

        rows = [spans if spans is None else [[span.start, span.end] for span in spans] for spans in values]
        return pa.array(rows, pa.list_(pa.list_(pa.int32(), 2)))

    def token_column(self, outputs: int) -> pa.DataType:
        import pyarrow as pa

        return pa.struct([("start", pa.int32()), ("end", pa.int32())])

    def moments(self, gold: Any, logits: Any) -> Moments:
        moments: Moments = gold.moments(logits)
        return moments

    def dev_moments(self, labels: Labels, logits: Any) -> Moments:
        """Compute `token_span_f1`, a row a window."""
        return Moments(_token_f1(logits, labels)[:, None], {self.scoring.key: lambda sums, rows: sums[..., 0] / rows})

    def agreement_moments(self, labels: Labels, first: Any, second: Any) -> Moments:
        return share_moments(_equal_spans(first, second))

    def score(self, gold: Any, logits: Any) -> float:
        return self.moments(gold, logits).values[self.scoring.key]

    def distance(self, teacher: Any, student: Any, temperatures: tuple[float, float]) -> dict[str, float]:
        """Compute KL(teacher || student) of the choice of a token, the mean over start, end and windows, in nats."""
        return {"kl": float(np.mean([_span_kl(*window) for window in zip(teacher, student, strict=True)]))}


def reply(context: str, windows: Sequence[Window], logits: Sequence[Floats], *, no_answer: bool) -> Reply:
    """Choose the best answer over the windows of a context.

    Args:
        context: the text that the windows' offsets refer to.
        windows: the windows in order.
        logits: of each window, [tokens, 2]: start and end.
        no_answer: whether "no answer" is possible; it wins if it scores at least as much as every span.
    """
    spans, null_score = best_spans(
        windows, [window_logits[:, 0] for window_logits in logits], [window_logits[:, 1] for window_logits in logits]
    )
    scores = [span.score for span in spans] + ([null_score] if no_answer or not spans else [])
    shares = softmax(np.array(scores), 1.0)
    if not spans or (no_answer and null_score >= spans[0].score):
        return Reply(None, 0, 0, float(shares[-1]), len(windows))
    start, end, _ = spans[0]
    # Some tokenizers count the space before a word to its token.
    answer = context[start:end].strip() or context[start:end]
    start = context.index(answer, start)
    return Reply(answer, start, start + len(answer), float(shares[0]), len(windows))


def _span_kl(teacher: Floats, student: Floats) -> float:
    """Return the mean over start and end of KL(teacher || student) over a window's tokens, of [tokens, 2] logits."""
    return metrics.kl_divergence(metrics.log_softmax(teacher.T), metrics.log_softmax(student.T))
