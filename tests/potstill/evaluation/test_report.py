from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from potstill.config import Evaluate
from potstill.evaluation import plots
from potstill.evaluation.gates import Check, Verdict
from potstill.evaluation.naming import MODELS
from potstill.evaluation.proof import Seed, prove
from potstill.evaluation.report import disagreements, render_report
from potstill.evaluation.summary import Answers, compare, score
from potstill.evaluation.verdict_page import PLACE, with_verdict

ATTACK = "<script>alert('1')</script> & \"quotes\" {{ 7 * 7 }}"
NAMES = ["<b>bad</b>", "good"]


def _answers(seed: int) -> Answers:
    logits = np.random.default_rng(seed).normal(size=(60, 2)).astype(np.float32)
    return Answers(logits, 1.0, 1000, 1_000_000)


def _page(models: dict[str, Answers], **more: Any) -> str:
    labels, settings = np.arange(60) % 2, Evaluate(bootstrap=200)
    metrics: dict[str, Any] = {
        "shipped": "int8",
        "rows": 60,
        "confidence": 0.95,
        "calibration_bins": 15,
        "models": {name: score(labels, models[name], settings) for name in MODELS},
        "comparison": compare(labels, models, "int8", settings, seed=0) | {"speedup": 6.0},
    } | more
    controls = {"pretrained": models["control"], "initialised": models["initialised"]}
    seeds = [Seed(seed, {"student": models["int8"], **controls}) for seed in (17, 18)]
    metrics["proof"] = prove(labels, models["teacher"], seeds, settings, bootstrap_seed=0)
    for name in ("teacher", "student", "int8"):
        metrics["models"][name] |= {"p50_ms": 1.0, "p99_ms": 2.0, "texts_per_second": 100.0}
    figure = plots.accuracy_against(metrics["models"], "megabytes", "MB")
    return render_report(
        project="tiny",
        metrics=metrics,
        figures=dict.fromkeys(("size", "latency", "reliability", "confusion"), figure),
        examples=disagreements([ATTACK] * 60, labels, models["teacher"], models["int8"], NAMES, 5),
        splits={"train": {"rows": 1234, "tokens": 5, "truncated": 0}},
        lineage={"data/prepared": "ab" * 32},
    )


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in {"meta", "path", "use"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "use"}:
            assert self.open.pop() == tag


def test_the_page_says_what_a_trimmed_vocabulary_changes() -> None:
    models = {name: _answers(seed) for seed, name in enumerate(MODELS)}
    assert "trimmed vocabulary" not in _page(models)
    changed = {"train": {"tokens": 0.01, "rows": 0.125}, "dev": {"tokens": 0.02, "rows": 0.25}}
    page = _page(models, vocabulary={"tokens": 4177, "of": 30522, "changed": changed})
    assert "4,177 of 30,522 tokens" in page
    assert "1.0% of the tokens and 12.5% of the rows of train, 2.0% of the tokens and 25.0% of the rows of dev." in page


def test_the_page_is_balanced_self_contained_and_escaped() -> None:
    page = _page({name: _answers(seed) for seed, name in enumerate(MODELS)})
    tags = _Tags()
    tags.feed(page)
    assert not tags.open
    assert not tags.seen & {"script", "link", "img", "iframe", "b"}
    assert "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &#34;quotes&#34; {{ 7 * 7 }}" in page
    assert "&lt;b&gt;bad&lt;/b&gt;" in page
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    for expected in (
        "1,234",
        "ab" * 32,
        "the pretrained control:",
        "the initialised control:",
        "2 training seeds",
        "95% interval",
        "ships",
        "6.0×",
    ):
        assert expected in page


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        (None, "The gate has not judged this candidate yet."),
        ([True, True], "The gate passed this candidate: all 2 checks hold.</strong> BEATS the pretrained control."),
        ([True, False], "The gate refused this candidate, so it does not ship: 1 of 2 checks failed."),
    ],
)
def test_the_page_says_what_the_gate_said(checks: list[bool] | None, expected: str) -> None:
    page = _page({name: _answers(seed) for seed, name in enumerate(MODELS)})
    made = [Check("max_ece", 0.2, 0.1, passed, "0.2 is <above> 0.1") for passed in checks or []]
    shown = with_verdict(page, None if checks is None else Verdict(tuple(made), "BEATS the pretrained control"))
    assert expected in shown
    assert shown.count("<li>0.2 is &lt;above&gt; 0.1</li>") == (checks or []).count(False)
    assert PLACE not in shown
    tags = _Tags()
    tags.feed(shown)
    assert not tags.open


def test_models_that_agree_everywhere_have_no_examples() -> None:
    assert "They agree on every test text." in _page(dict.fromkeys(MODELS, _answers(1)))


def test_the_surest_disagreements_come_first() -> None:
    def answers(*margins: float) -> Answers:
        return Answers(np.array([[margin, 0.0] for margin in margins]), 1.0, 1, 1)

    texts, labels = ["same", "unsure", "sure", "half sure"], np.array([0, 0, 1, 1])
    found = disagreements(texts, labels, answers(5, 0.1, 4, 3), answers(5, -0.1, -4, -0.5), ["no", "yes"], 2)
    assert [example.text for example in found] == ["sure", "half sure"]
    assert (found[0].gold, found[0].teacher, found[0].student) == ("yes", "no", "yes")
    assert found[0].teacher_probability == found[0].student_probability > 0.98
