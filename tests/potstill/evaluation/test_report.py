from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.config.evaluation_params import Evaluate
from potstill.evaluation.gate_checks import Check
from potstill.evaluation.gates import Verdict
from potstill.evaluation.naming import MODELS
from potstill.evaluation.pages import plots
from potstill.evaluation.pages.figures import Figures, confusions, label_bars
from potstill.evaluation.pages.report import disagreements, render_report
from potstill.evaluation.pages.verdict_page import PLACEHOLDER, with_verdict
from potstill.evaluation.summary import Answers, compare, score
from potstill.evaluation.teacher_gain import Seed, prove
from potstill.scores.metrics import confusion_matrix

ATTACK = "<script>alert('1')</script> & \"quotes\" {{ 7 * 7 }}"
NAMES = ["<b>bad</b>", "正面评价的标签名称很长很长很长"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


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
        **EVIDENCE,
        "models": {name: score(labels, models[name], settings) for name in MODELS},
        "comparison": compare(labels, models, "int8", settings, seed=0) | {"speedup": 6.0},
    } | more
    controls = {"pretrained": models["control"], "initialised": models["initialised"]}
    seeds = [Seed(seed, {"student": models["int8"], **controls}) for seed in (17, 18)]
    metrics["proof"] = prove(labels, models["teacher"], seeds, settings, bootstrap_seed=0)
    for name in ("teacher", "student", "int8"):
        metrics["models"][name] |= {"p50_ms": 1.0, "p99_ms": 2.0, "texts_per_second": 100.0}
    figure = plots.accuracy_against(metrics["models"], "megabytes", "MB")
    counts = {name: confusion_matrix(labels, models[name].predictions, 2) for name in MODELS}
    return render_report(
        project="tiny",
        metrics=metrics,
        figures=Figures(
            figure,
            figure,
            dict.fromkeys(MODELS, figure),
            confusions=confusions(counts, NAMES),
            labels=label_bars(dict.fromkeys(MODELS, np.array([0.25, 1.0])), NAMES),
            coverage=plots.accuracy_coverage(ABSTENTION, "int8"),
        ),
        failures=FAILURES,
        abstention=f"a threshold {ATTACK}",
        examples=disagreements([ATTACK] * 60, labels, models["teacher"], models["int8"], NAMES, 5),
        splits={"train": {"rows": 1234, "tokens": 5, "truncated": 0}},
        lineage={"data/prepared": "ab" * 32},
    )


def _slice(name: str, rows: int, difference: float, outcome: str) -> dict[str, Any]:
    compared = {"outcome": outcome, "difference": difference, "low": difference - 0.02, "high": difference + 0.02}
    rivals = {rival: compared | {"p_value": 0.1, "adjusted_p_value": 0.2} for rival in ("teacher", "control")}
    return {"name": name, "rows": rows, "score": 0.8, "low": 0.77, "high": 0.83, "rivals": rivals}


def _failures(rate: float | None) -> dict[str, Any]:
    ends = {f"failure_rate{end}": rate for end in ("", "_low", "_high")}
    return {"rows": 100 if rate else 0, "failures": 100 * (rate or 0), **ends}


EVIDENCE: dict[str, Any] = {
    "slices": {
        "comparisons": 6,
        "false_discovery_rate": 0.05,
        "min_rows": 50,
        "not_judged": {ATTACK: 3},
        "slices": [
            _slice(ATTACK, 1200, -0.05, "LOSES"),
            _slice("标签 = 很长很长很长的名称", 800, 0.04, "BEATS"),
            _slice("length 120 to 340", 60, 0.001, "NO DIFFERENCE"),
        ],
    },
    "behaviour": {
        "tests": {
            "case_lower": {
                "kind": "INV",
                "direction": None,
                "models": {"int8": _failures(0.25), "teacher": _failures(0.1)},
                "gains": {"teacher": {"outcome": "LOSES", "difference": -0.15, "low": -0.2, "high": -0.1}},
            },
            ATTACK: {
                "kind": "DIR",
                "direction": "falls",
                "models": {"int8": _failures(None), "teacher": _failures(None)},
                "gains": {},
            },
        }
    },
}
FAILURES = {
    "case_lower": {
        "int8": [
            {
                **{"original": ATTACK, "text": ATTACK.lower() + "  x", "expected": None, "change": 0.4},
                **{"before": "bad", "after": ATTACK, "scores_before": [0.9, 0.1], "scores_after": [0.2, 0.8]},
            },
            {
                **{"original": None, "text": ["first " + ATTACK, "second"], "expected": ["bad", "good"], "change": 0.4},
                **{"before": None, "after": [], "scores_before": [], "scores_after": [0.2, 0.8]},
            },
        ]
    }
}
ABSTENTION = {
    "target": 0.95,
    "test": {"coverage": 0.6, "right": 0.97},
    "curve": {"coverage": [0.1, 0.5, 1.0], "accuracy": [1.0, 0.98, 0.86]},
}


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
    assert not tags.seen & {"script", "link", "img", "iframe"}
    assert "<b>bad" not in page
    assert "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &#34;quotes&#34; {{ 7 * 7 }}" in page
    assert "&lt;b&gt;bad&lt;/b&gt;" in page
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    for expected in (
        "1,234",
        "ab" * 32,
        "the pretrained control:",
        "the initialised control:",
        "正面评价的标签名称很长很长很长",
        "2 training seeds",
        "95% interval",
        "ships",
        "6.0×",
    ):
        assert expected in page


def test_slices_behaviour_and_abstention_are_shown() -> None:
    page = _page({name: _answers(seed) for seed, name in enumerate(MODELS)})
    for expected in (
        "-5.0 (-7.0 to -3.0) worse",
        "+4.0 (+2.0 to +6.0) better",
        "标签 = 很长很长很长的名称",
        "case_lower (INV)",
        "(DIR, falls)",
        "25.0 (25.0 to 25.0)",
        "no cases",
        "bad 0.90",
        "(about bad, good)",
        "Accuracy over coverage",
    ):
        assert expected in page
    assert "Slices" not in _page({name: _answers(seed) for seed, name in enumerate(MODELS)}, slices={}, behaviour={})


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
    gate_checks = [Check("max_ece", 0.2, 0.1, passed, "0.2 is <above> 0.1") for passed in checks or []]
    verdict = Verdict(tuple(gate_checks), "BEATS the pretrained control", "the test split has judged <50> times")
    shown = with_verdict(page, None if checks is None else verdict)
    assert ("the test split has judged &lt;50&gt; times." in shown) == (checks is not None)
    assert expected in shown
    assert shown.count("<li>0.2 is &lt;above&gt; 0.1</li>") == (checks or []).count(False)
    assert PLACEHOLDER not in shown
    tags = _Tags()
    tags.feed(shown)
    assert not tags.open


def test_models_that_agree_everywhere_have_no_examples() -> None:
    assert "They agree on every test text." in _page(dict.fromkeys(MODELS, _answers(1)))


def test_the_surest_disagreements_come_first() -> None:
    def answers(*margins: float) -> Answers:
        return Answers(np.array([[margin, 0.0] for margin in margins]), 1.0, 1, 1)

    texts, labels = ["same", "unsure", "sure", "half sure"], np.array([0, 0, 1, 1])
    differing = disagreements(texts, labels, answers(5, 0.1, 4, 3), answers(5, -0.1, -4, -0.5), ["no", "yes"], 2)
    assert [example.text for example in differing] == ["sure", "half sure"]
    assert (differing[0].gold, differing[0].teacher, differing[0].student) == ("yes", "no", "yes")
    assert differing[0].teacher_probability == differing[0].student_probability > 0.98


def test_a_model_has_one_name_in_every_table() -> None:
    page = _page({name: _answers(seed) for seed, name in enumerate(MODELS)})
    cells = set(re.findall(r"<td[^>]*>([^<]*)</td>", page)) | set(re.findall(r"<h3>([^<]*)</h3>", page))
    assert {*MODELS.values(), "Student"} <= cells
    assert not {"Control", "control", "pretrained", "initialised", "student"} & cells


class _Columns(HTMLParser):
    """The tables that become lists on a narrow screen: what their cells say of themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.rows: list[list[str | None]] = []
        self.stacked = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.stacked = "stack" in str(dict(attrs).get("class"))
        elif tag == "tr":
            self.rows.append([])
        elif tag == "td" and self.stacked:
            self.rows[-1].append(dict(attrs).get("data-title"))


def test_on_a_narrow_screen_every_cell_names_its_column() -> None:
    columns = _Columns()
    columns.feed(_page({name: _answers(seed) for seed, name in enumerate(MODELS)}))
    rows = [row for row in columns.rows if row]
    assert [
        "",
        "accuracy, % (95% interval)",
        "macro F1",
        "ECE",
        "parameters",
        "MB",
        "p50 ms",
        "p99 ms",
        "texts/s",
    ] in rows
    assert all(title for row in rows for title in row[1:])


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_of_the_page_is_wider_than_the_screen(tmp_path: Path, width: int) -> None:
    """Measured in a browser: what its layout says, in a frame of that width."""
    script = "document.title = [...document.querySelectorAll('main *')].filter(element => !element.closest('.wide') && "
    script += "element.getBoundingClientRect().right > innerWidth + 1).map(element => element.outerHTML.slice(0, 80))"
    page = _page({name: _answers(seed) for seed, name in enumerate(MODELS)})
    assert "正面" in page
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    (tmp_path / "frame.html").write_text(
        f"<iframe src='page.html' style='width:{width}px;height:900px' onload=\"document.title = "
        "'wide: ' + this.contentDocument.title\"></iframe>",
        encoding="utf-8",
    )
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{tmp_path}/frame.html"], capture_output=True, text=True, timeout=60)
    assert "<title>wide: </title>" in done.stdout, done.stdout[:2000]
