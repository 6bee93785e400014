from __future__ import annotations

import base64
import hashlib
import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from potstill.evaluation.naming import MODELS
from potstill.evaluation.pages.decision_page import PLACEHOLDER, SLOTS, Decision, slot, with_bento, with_decision
from tests.potstill.evaluation.sample_report import (
    ATTACK,
    FORMULA,
    finished_page,
    sample_decision,
    sample_metrics,
    sample_page,
)


@pytest.fixture(scope="module")
def page() -> str:
    return sample_page()


@pytest.fixture(scope="module")
def finished() -> str:
    return finished_page(True, False)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in {"meta", "path", "use", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"path", "use"}:
            assert self.open.pop() == tag


def test_the_page_says_what_a_trimmed_vocabulary_changes(page: str) -> None:
    assert "trimmed vocabulary" not in page
    changed = {"train": {"tokens": 0.01, "rows": 0.125}, "dev": {"tokens": 0.02, "rows": 0.25}}
    trimmed = sample_page(vocabulary={"tokens": 4177, "of": 30522, "changed": changed})
    assert "4,177 of 30,522 tokens" in trimmed
    assert (
        "1.0% of the tokens and 12.5% of the rows of train, 2.0% of the tokens and 25.0% of the rows of dev." in trimmed
    )


def test_the_page_is_balanced_self_contained_and_escaped(page: str, finished: str) -> None:
    for text in (page, finished):
        tags = _Tags()
        tags.feed(text)
        assert not tags.open
        assert not set(tags.seen) & {"link", "img", "iframe", "object", "form"}
        assert tags.seen.count("script") == 1
        assert "<b>bad" not in text
        assert "<i>dull" not in text
        assert ATTACK[:30] not in text
        assert f"{FORMULA} {ATTACK}" in html.unescape(text)
        links = set(re.findall(r"https?://[^\"' ]+", text))
        assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert len(finished) < 3_000_000
    for expected in (
        "1,234",
        "ab" * 32,
        "the pretrained control:",
        "the initialised control:",
        "正面评价的标签名称很长很长很长",
        "&lt;b&gt;bad&lt;/b&gt;",
        "2 training seeds",
        "95% interval",
        "6.0×",
    ):
        assert expected in page


def test_no_script_but_the_pages_own_may_run(page: str) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0]
    assert policy.startswith("default-src &#39;none&#39;;")
    assert f"script-src &#39;sha256-{allowed}&#39;" in policy.replace("&#43;", "+").replace("&#61;", "=")


def test_slices_behaviour_and_abstention_are_shown(page: str) -> None:
    for expected in (
        "-5.0 (-7.0 to -3.0) worse",
        "+4.0 (+2.0 to +6.0) better",
        "标签 = 很长很长很长的名称",
        "case_lower (INV)",
        "(DIR, falls)",
        "25.0 (25.0 to 25.0)",
        "bad 0.90",
        "(about bad, good)",
        "Accuracy over coverage",
    ):
        assert expected in page
    assert ">Slices</h2>" not in sample_page(slices={}, behaviour={})


def test_classes_cut_texts_words_and_curves_are_shown(page: str) -> None:
    for expected in (
        "Precision: how often a predicted class is right",
        "Recall: how many of a class are found",
        "cut texts (45), %",
        "&lt;i&gt;dull&lt;/i&gt;</mark>",
        'class="against"',
        "Learning curve, distill",
        "The candidate's surest errors",
    ):
        assert expected in page
    bare = sample_page(classes={}, truncation={"max_length": 128, "rows": 0, "share": 0.0})
    assert "Precision:" not in bare
    assert "Texts that are cut" not in bare


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        ([True, True], "The gate passed this candidate: all 2 checks hold. BEATS the pretrained control."),
        ([True, False], "The gate refused this candidate, so it does not ship: 1 of 2 checks failed."),
    ],
)
def test_the_page_says_what_the_gate_said(page: str, passed: list[bool], expected: str) -> None:
    shown = with_decision(page, sample_decision(*passed))
    assert expected in shown
    assert "the test split has judged &lt;50&gt; times." in shown
    assert shown.count("<li>0.2 is &lt;above&gt; 0.1 (max_1)</li>") == passed.count(False)
    assert not [name for name in SLOTS if slot(name) in shown]
    assert ("Do not promote." in shown) == (False in passed)


def test_before_the_gate_the_page_has_no_verdict(page: str) -> None:
    shown = with_decision(page, Decision(sample_metrics()))
    assert "The gate has not judged this candidate yet." in shown
    assert PLACEHOLDER not in shown
    assert "2026-11-29 12:00 UTC" in shown
    assert "minus it" in shown
    assert "potstill review" not in shown
    assert "champion and candidate" not in shown


def test_the_run_is_named(finished: str) -> None:
    for expected in (
        "2026-11-29 12:00 UTC",
        "A processor with a long name",
        "cccccccccccc</code> with uncommitted changes",
        "<dd>potstill-tiny:abc</dd>",
        "potstill serve --tag potstill-tiny:abc",
        "dddddddddddd",
        "owner/teacher@1111",
        "apache-2.0",
        "ffffffffffff",
        "version 3",
        "All 50 expectations of the data hold. Prepare removed 12 (copies).",
        "63.2",
        "note: &lt;script&gt;",
    ):
        assert expected in finished


def test_commands_name_the_candidate_by_its_bento_and_other_words_stay_as_they_are() -> None:
    decision = sample_decision(True)
    assert decision.facts is not None
    facts = replace(decision.facts, params="note: a challenger")
    page = with_decision(sample_page(), replace(decision, facts=facts))
    assert "potstill promote <!-- candidate -->challenger --reason" in page
    packaged = with_bento(page, "potstill-tiny:abc")
    for command in ("review", "promote", "veto", "trace"):
        assert f"potstill {command} potstill-tiny:abc" in packaged
    assert "note: a challenger" in packaged


def test_the_champion_is_compared_and_the_rows_that_differ_are_listed(finished: str) -> None:
    assert "Champion, version 3" in finished
    assert 'id="champion">Where champion and candidate differ' in finished
    assert "Slices against the champion" in finished
    assert "-6.0 (-8.0 to -4.0) worse" in finished
    rows = finished[finished.index('id="champion"') : finished.index('id="rows"')]
    assert {"gained", "lost"} <= set(re.findall(r'<td data-title="change">([^<]*)</td>', rows))


def test_models_that_agree_everywhere_have_no_rows_that_differ() -> None:
    page = sample_page((9.0, 9.0))
    assert "They agree on every test text." in page
    assert "It is right on every test text." in page


def test_a_model_has_one_name_in_every_table(page: str) -> None:
    cells = set(re.findall(r"<td[^>]*>([^<]*)</td>", page)) | set(re.findall(r"<h3>([^<]*)</h3>", page))
    assert {*MODELS.values(), "Student"} <= cells
    assert not {"Control", "control", "pretrained", "initialised", "student"} & cells


def test_a_model_without_a_title_is_drawn_by_its_name(page: str) -> None:
    metrics = sample_metrics()
    shown = with_decision(page, Decision({**metrics, "models": metrics["models"] | {"other": {"accuracy": 0.5}}}))
    assert "<td>other</td>" in shown


class _Columns(HTMLParser):
    """The tables that become lists on a narrow screen: what their cells say of themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str | None]] = []
        self.stacked = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.stacked = "stack" in str(dict(attrs).get("class"))
        elif tag == "tr":
            self.rows.append([])
        elif tag == "td" and self.stacked:
            self.rows[-1].append(dict(attrs).get("data-title"))


def test_on_a_narrow_screen_every_cell_names_its_column(finished: str) -> None:
    columns = _Columns()
    columns.feed(finished)
    rows = [row for row in columns.rows if row]
    titles = ["accuracy, % (95% interval)", "macro F1", "ECE", "parameters", "MB", "p50 ms", "p99 ms", "texts/s"]
    assert ["", *titles] in rows
    assert all(title for row in rows for title in row[1:])
