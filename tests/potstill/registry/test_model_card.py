from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from potstill.errors import StoreError
from potstill.registry import tracking
from potstill.registry.model_card import (
    DESCRIPTION_CHARACTERS,
    Lineage,
    Teacher,
    escape,
    render_card,
    render_description,
)
from potstill.registry.promotion import Registry
from potstill.registry.versions import PARAMS
from tests.postgres import need_postgres, postgres
from tests.registries import PROJECT, add_version

MODEL = {
    "accuracy": 0.867, "accuracy_low": 0.851, "accuracy_high": 0.881, "ece": 0.02, "megabytes": 17.5, "p50_ms": 4.3,
    "p99_ms": 6.0,
}  # fmt: skip
METRICS: dict[str, Any] = {
    "task": "single_label", "shipped": "int8", "rows": 2000, "confidence": 0.95,
    "models": {"teacher": {**MODEL, "accuracy": 0.87}, "int8": MODEL, "control": MODEL, "initialised": MODEL,
               "tfidf": MODEL},
    "comparison": {"control": {"difference": 0.011, "low": 0.002, "high": 0.02}},
    "proof": {"verdicts": {"initialised": {"difference": 0.1, "low": 0.08, "high": 0.12}}},
}  # fmt: skip
VERDICT: dict[str, Any] = {
    "passed": True, "sentence": "passed: all 2 gates", "champion": {"accuracy": 0.86},
    "checks": [
        {"name": "scored", "passed": True, "sentence": "the candidate was scored"},
        {"name": "min_accuracy", "passed": False, "sentence": "accuracy 0.1 is below"},
    ],
}  # fmt: skip
LINEAGE = Lineage(
    project="reviews", candidate="a" * 64, bento="potstill-reviews:0123456789ab", commit="b" * 40, is_clean=False,
    lock_sha256="c" * 64, data={"data/raw": "d" * 32 + ".dir"}, teacher=Teacher("owner/name@" + "e" * 40, "owner/name"),
    labels=["negative", "positive"], max_length=128, champion="3",
)  # fmt: skip


class Page(HTMLParser):
    """The tags and the text of a rendered card."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def table_row(card: str, title: str) -> list[str]:
    line = next(line for line in card.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_card_has_the_numbers_of_every_rival_with_intervals() -> None:
    card = render_card(METRICS, VERDICT, LINEAGE)
    assert table_row(card, "**Student INT8")[1] == "86.7 (85.1 to 88.1)"
    assert table_row(card, "Champion, version 3")[1:3] == ["86.0", "+0.7"]
    assert table_row(card, "Teacher")[2] == "-0.3"
    assert table_row(card, "Pretrained")[2] == "+1.1 (+0.2 to +2.0)"
    assert table_row(card, "Initialised")[2] == "+10.0 (+8.0 to +12.0)"
    assert "with uncommitted changes" in card
    assert "They have judged 7 candidates so far." in render_card(METRICS, {**VERDICT, "test_uses": 7}, LINEAGE)
    assert "not named by its folder" in card
    assert LINEAGE.data["data/raw"] in card
    # What failed comes first.
    assert card.index("`min_accuracy`") < card.index("`scored`")


def test_the_metadata_are_those_of_the_hub() -> None:
    metadata = yaml.safe_load(render_card(METRICS, VERDICT, LINEAGE).split("---\n")[1])
    assert (metadata["base_model"], metadata["pipeline_tag"]) == ("owner/name", "text-classification")
    assert not render_description(METRICS, VERDICT, LINEAGE).startswith("---")


def test_a_champion_that_could_not_be_compared_is_told() -> None:
    card = render_card(METRICS, {**VERDICT, "champion": {"problem": "its labels | differ"}}, LINEAGE)
    assert "not comparable | its labels \\| differ" in card


def test_slices_and_the_abstention_of_metrics_are_told() -> None:
    losing = {"outcome": "LOSES", "difference": -0.1, "low": -0.15, "high": -0.05}
    slices = {"slices": [{"name": "label = <b>", "rows": 300, "rivals": {"champion": losing}}]}
    failures = {"failure_rate": 0.05, "failure_rate_low": 0.03, "failure_rate_high": 0.08}
    behaviour = {"tests": {"typos": {"models": {"int8": failures}}}}
    abstention = {"threshold": {"confidence": 0.81}}
    metrics = {**METRICS, "abstention": abstention, "behaviour": behaviour}
    compared = {"accuracy": 0.86, "comparison": losing, "slices": slices}
    card = render_card(metrics, {**VERDICT, "champion": compared}, LINEAGE)
    assert table_row(card, "Champion, version 3")[2] == "-10.0 (-15.0 to -5.0)"
    assert table_row(card, "typos")[1:] == ["5.0 (3.0 to 8.0)", "missing"]
    assert "label = &lt;b&gt;: -10.0 points to the champion on 300 rows (-15.0 to -5.0)" in card
    assert "Below a confidence of 0.8100 a person should decide." in card
    abstaining = render_card(metrics, VERDICT, replace(LINEAGE, abstains=True))
    assert "a person should decide, and the service says `abstained: true`." in abstaining


@pytest.mark.parametrize("metrics", [{}, {"models": {"int8": {}}, "shipped": "int8"}, {"models": None}])
def test_missing_numbers_make_a_card_all_the_same(metrics: dict[str, Any]) -> None:
    assert "# reviews" in render_card(metrics, {}, replace(LINEAGE, champion=None, commit=None, is_clean=None))


def test_a_description_is_no_longer_than_mlflow_takes_it() -> None:
    labels = [f"label {number} {'x' * 60}" for number in range(300)]
    check = {"name": "must_beat", "passed": True, "sentence": "y" * 3000}
    description = render_description(METRICS, {**VERDICT, "checks": [check] * 40}, replace(LINEAGE, labels=labels))
    assert len(description) <= DESCRIPTION_CHARACTERS
    assert "and 280 more" in description
    assert "## Lineage" in description
    assert "## Gate" not in description
    assert description.endswith("`README.md` of this version, with Gate.\n")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_postgresql_takes_a_description_of_that_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_postgres()
    text = "\u4f60" * DESCRIPTION_CHARACTERS
    with postgres() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        version = add_version(Registry(tmp_path, PROJECT), "one", tags={PARAMS: "x" * 50_000})
        store = tracking.client(tmp_path)
        store.update_model_version(PROJECT, version.version, text)
        assert store.get_model_version(PROJECT, version.version).description == text
        with pytest.raises(StoreError):
            store.update_model_version(PROJECT, version.version, f"{text}.")


HOSTILE = [
    "<script>alert(1)</script>", "a | b", "[x](javascript:alert(1))", "`code` ``", "# heading\n\n- item", "1. one",
    "![x](http://x.example/y.png)", "<http://x.example>", "a_b_ *c* ~~d~~", "&lt;", "\\", "- x", "| --- |", "$x$",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_the_data_stay_texts(text: str) -> None:
    check = {"name": text, "passed": False, "sentence": text}
    verdict = {"sentence": text, "checks": [check], "champion": {"problem": text}}
    lineage = replace(LINEAGE, labels=[text], teacher=Teacher(text, None, text))
    harmless = Page(render_card(METRICS, VERDICT, LINEAGE))
    page = Page(render_card({**METRICS, "models": {**METRICS["models"], text: MODEL}}, verdict, lineage))
    assert page.tags <= harmless.tags
    assert page.text.count(" ".join(text.split())) >= 4


@given(st.text(min_size=1))
def test_an_escaped_text_is_read_as_it_was(text: str) -> None:
    shown = " ".join(text.replace("\0", "\ufffd").split())
    rendered = Page(f"| a | b |\n| --- | --- |\n| x {escape(text, 10_000)} | y |\n")
    assert " ".join(rendered.text.split()) == " ".join(f"a b x {shown} y".split())
    assert not rendered.tags & {"a", "img", "em", "strong", "code", "script"}


def test_addresses_are_no_links() -> None:
    for text in ("see http://x.example/", "www.x.example", "HTTPS://X.example", "me@x.example"):
        assert not re.search(r"(?i)https?://|www\.|(?<!\\)@", escape(text))
