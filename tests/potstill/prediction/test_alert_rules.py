"""Rules over counts, as tables."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from potstill.config.alerts_params import Alerts
from potstill.errors import LabelError, ParamsError
from potstill.inference.profile import Counts, observe
from potstill.inference.runtime import Student
from potstill.prediction.alert_rules import answer_counts, check_rules, judge
from potstill.prediction.alerting import Alert, Alerting, FileCounts
from tests.potstill.prediction.models import TEXTS, tiny_model

SHARE = {"kind": "share", "label": "bad", "above": 0.4}
RISE = {"kind": "rise", "label": "bad", "by": 0.1}
CONFIDENCE = {"kind": "confidence", "below": 0.7}


def rule_of(**values: Any) -> Any:
    return Alerts.model_validate({"rules": {"name": values}}).rules["name"]


def counts(texts: int, bad: int, confidence: float = 0.9) -> defaultdict[str, float]:
    known = {"texts": texts, "labels": texts, "label bad": bad, "confidences": texts, "confidence": texts * confidence}
    return defaultdict(float, known)


@pytest.mark.parametrize(
    ("rule", "window", "day", "said"),
    [
        (SHARE, counts(100, 41), counts(0, 0), "41.0% of 100 answers are bad, above 40.0%"),
        (SHARE, counts(100, 40), counts(0, 0), None),
        (SHARE, counts(99, 99), counts(0, 0), None),
        (SHARE, counts(0, 0), counts(0, 0), None),
        (RISE, counts(400, 160), counts(4000, 800), "40.0% of 400 answers are bad, 20.0% on the day before; more than "
         "10.0 points above"),
        (RISE, counts(400, 120), counts(4000, 800), None),  # by the limit and no more
        (RISE, counts(100, 31), counts(4000, 800), None),  # within three standard deviations: 12.1 points
        (RISE, counts(100, 33), counts(4000, 800), "33.0% of 100 answers are bad, 20.0% on the day before; more than "
         "10.0 points above"),
        (RISE, counts(400, 160), counts(99, 0), None),
        (RISE, counts(400, 400), counts(400, 400), None),
        (CONFIDENCE, counts(100, 0, 0.69), counts(0, 0), "the mean confidence of 100 texts is 0.690, below 0.700"),
        (CONFIDENCE, counts(100, 0, 0.71), counts(0, 0), None),
        (CONFIDENCE, counts(100, 0) | {"confidences": 0}, counts(0, 0), None),
        (SHARE, counts(100, 0) | {"labels": 0}, counts(0, 0), None),
    ],
)  # fmt: skip
def test_a_rule_says_what_breaks_it(rule: dict[str, Any], window: Any, day: Any, said: str | None) -> None:
    finding = judge(rule_of(**rule), window, day, 100)
    assert (finding and finding.sentence) == said


def test_counts_are_those_of_the_answers(tiny_base: Path, tmp_path: Path) -> None:
    model = tiny_model(tiny_base, tmp_path / "serving", variant="fp32")
    observed = observe(Student(model.serving, 1), TEXTS[:30])
    counted = Counts(model.profile)
    counted.add(observed, model.card)
    labels = [str(observation.answer.label) for observation in observed]  # type: ignore[union-attr]
    scores = [max(observation.answer.probabilities) for observation in observed]  # type: ignore[union-attr]
    assert answer_counts(counted, model.card, model.profile) == {
        "texts": 30,
        "labels": 30,
        "label negative": labels.count("negative"),
        "label positive": labels.count("positive"),
        "confidences": 30,
        "confidence": pytest.approx(sum(scores)),
    }
    check_rules(Alerts.model_validate({"rules": {"a": {**SHARE, "label": "negative"}}}), model.card, model.profile)
    with pytest.raises(LabelError, match=r"rules\.a: the model has no label 'bad', but negative, positive"):
        check_rules(Alerts.model_validate({"rules": {"a": SHARE}}), model.card, model.profile)
    number = model.profile.model_copy(update={"features": {}, "confidence": None})
    with pytest.raises(ParamsError, match=r"rules\.a: the model has no labels; remove the rule"):
        check_rules(Alerts.model_validate({"rules": {"a": SHARE}}), model.card, number)
    with pytest.raises(ParamsError, match=r"rules\.a: the model has no confidence; remove the rule"):
        check_rules(Alerts.model_validate({"rules": {"a": CONFIDENCE}}), model.card, number)


def test_the_day_before_is_that_before_the_window(tiny_base: Path, tmp_path: Path) -> None:
    """Windows of 12 hours: each has two windows before it in its day, and only those count."""
    model = tiny_model(tiny_base, tmp_path / "serving", variant="fp32")
    observed = observe(Student(model.serving, 1), TEXTS)
    by_label = {
        label: [item for item in observed if str(item.answer.label) == label]  # type: ignore[union-attr]
        for label in ("negative", "positive")
    }
    told: list[Alert] = []
    rules = {"rules": {"more": {**RISE, "label": "negative"}}, "window_minutes": 720, "min_texts": 10}

    def add(window: int, label: str) -> None:
        counted = Counts(model.profile)
        counted.add(by_label[label][:20], model.card)
        store = FileCounts(tmp_path / "alerts.json")
        alerting = Alerting(Alerts.model_validate(rules), model.card, model.profile, store, told.append)
        alerting.count(alerting.start_of(43_200 * window + 5), counted)
        alerting.judge()

    for window, label in enumerate(["positive", "positive", "negative", "negative", "negative", "negative"]):
        add(window, label)
    # In window 2 of two positive ones before it, in window 3 of one of two, then of none.
    assert [alert.start // 43_200 for alert in told] == [2, 3]
    assert told[0].sentence == (
        "more: 100.0% of 20 answers are negative, 0.0% on the day before; more than 10.0 points above "
        "(1970-01-02 00:00 to 12:00 UTC)"
    )
