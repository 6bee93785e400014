"""The answers of an output that are explained, the least certain and the most alarming: which words they rest on.

Each window names its candidates among its facts, as many as are explained at most. So the choice among all of them
needs no second look at the input, and no more memory for more rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from potstill.errors import ParamsError
from potstill.inference.certainty import answer_confidence
from potstill.inference.occlusion import Occlusion
from potstill.inference.profile import Observation
from potstill.inference.runtime import ModelCard, Prediction, Student, Text
from potstill.prediction.window_tally import Facts
from potstill.progress import progress

LEAST_CERTAIN = "least certain"
MOST_ALARMING = "most alarming"


class Candidate(NamedTuple):
    """An answer that may be explained; the smallest are.

    Attributes:
        rank: the confidence of the answer, or minus the probability of the label that alarms.
        row: of the output, from 1.
        text: a text or a pair.
        file: the file of the row.
    """

    rank: float
    row: int
    text: Text
    file: str


@dataclass(frozen=True)
class ExplanationPlan:
    """The answers to explain.

    Attributes:
        count: most answers of each kind.
        alarm: index in the model card of the label whose probability alarms; None: none does.
        words: most words, or runs of words, that are removed from a text.
    """

    count: int
    alarm: int | None
    words: int

    def candidates(self, observed: Sequence[Observation], texts: Sequence[Text]) -> Facts:
        """Choose the candidates of a window: kind -> rank, row and text of each.

        Args:
            observed: the different texts of the window with their answers.
            texts: [rows] all its texts.
        """
        ranks = {LEAST_CERTAIN: [answer_confidence(item.answer) for item in observed]}
        if self.alarm is not None:
            answers = [item.answer for item in observed if isinstance(item.answer, Prediction)]
            ranks[MOST_ALARMING] = [-answer.probabilities[self.alarm] for answer in answers]
        return {kind: self._smallest_of_window(values, observed, texts) for kind, values in ranks.items()}

    def _smallest_of_window(
        self, ranks: Sequence[float], observed: Sequence[Observation], texts: Sequence[Text]
    ) -> list[tuple[float, int, Text]]:
        chosen = heapq.nsmallest(self.count, range(len(ranks)), key=ranks.__getitem__)
        return [(ranks[index], texts.index(observed[index].text), observed[index].text) for index in chosen]

    def choose(self, windows: Iterable[Facts]) -> dict[str, list[Candidate]]:
        """Choose among the candidates of all windows.

        Args:
            windows: the facts of the windows, in order.

        Returns:
            Kind -> at most `count` different texts, the least certain or most alarming first.
        """
        chosen: dict[str, list[Candidate]] = {}
        rows = 0
        for facts in windows:
            for kind, candidates in facts["candidates"].items():
                chosen[kind] = self._smallest([*chosen.get(kind, ()), *_numbered(candidates, rows, facts["file"])])
            rows += facts["rows"]
        return chosen

    def _smallest(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the smallest, of equal texts the first in the output."""
        different = {candidate.text: candidate for candidate in reversed(candidates)}
        return heapq.nsmallest(self.count, different.values())


def plan_explanations(card: ModelCard, count: int, alarm: str | None, words: int) -> ExplanationPlan:
    """Check what is asked for, and return the plan.

    Args:
        card: the model card.
        count: most answers of each kind.
        alarm: the label whose probability alarms; None: none does.
        words: most words, or runs of words, that are removed from a text.

    Raises:
        ParamsError: the model's answers are not classes or labels, or it has no such label.
    """
    if card.form not in ("class", "labels"):
        raise ParamsError(f"--explain needs a model of classes or labels; this one is for {card.kind}: run without it")
    names = list(map(str, card.labels))
    if alarm is not None and alarm not in names:
        raise ParamsError(
            f"the model has no label {alarm!r} that could alarm; name one of {', '.join(names)} (--alarm, or "
            "predict.alarm)"
        )
    return ExplanationPlan(count, None if alarm is None else names.index(alarm), words)


def explain_rows(plan: ExplanationPlan, windows: Iterable[Facts], student: Student) -> Iterator[dict[str, Any]]:
    """Yield the chosen answers with the weights of their words, as plain values.

    Args:
        plan: what is explained.
        windows: the facts of all windows, in order.
        student: the model.
    """
    chosen = [(kind, candidate) for kind, candidates in plan.choose(windows).items() for candidate in candidates]
    with progress("explain", len(chosen), "answers") as bar:
        for kind, candidate in chosen:
            yield _explained(kind, candidate, plan, student)
            bar.advance(1)


def _explained(kind: str, candidate: Candidate, plan: ExplanationPlan, student: Student) -> dict[str, Any]:
    """Explain an answer, with the names that `/v1/explain` of the service has."""
    occlusion = Occlusion(candidate.text, plan.words)
    predictions = student.predict(occlusion.texts)
    label = plan.alarm if kind == MOST_ALARMING else _uncertain_label(predictions[0], student.card)
    explanation = occlusion.explain(predictions, label)
    return {
        "file": candidate.file,
        "row": candidate.row,
        "chosen": kind,
        "confidence": answer_confidence(predictions[0]),
        "text": candidate.text,
        "label": str(student.card.labels[explanation.index]),
        "score": explanation.score,
        "weights": [asdict(word) for word in explanation.words],
        "truncated": explanation.truncated,
    }


def _uncertain_label(whole: Prediction, card: ModelCard) -> int | None:
    """Return the index of the label to explain in an answer that is not certain; None: the most probable one."""
    if card.form == "class":
        return None
    return min(range(len(card.labels)), key=lambda index: abs(whole.probabilities[index] - 0.5))


def _numbered(candidates: Sequence[Sequence[Any]], rows_before: int, file: str) -> Iterator[Candidate]:
    """Read the candidates of a window from its facts, and number their rows as those of the output."""
    for rank, row, text in candidates:
        yield Candidate(rank, rows_before + row + 1, text if isinstance(text, str) else tuple(text), file)
