from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from potstill.artifacts import file_sums
from potstill.config.validate_params import Validate
from potstill.data.cleaning import DAMAGE
from potstill.data.validation.expectations import build_suites, label_names, run_suites, text_lengths
from potstill.data.validation.profiles import build_profile
from tests.conftest import generate_rows

LABELS = ["negative", "positive"]
PARAMS = Validate(
    min_rows={"train": 50, "dev": 10, "test": 10}, min_per_class=5, characters=[3, 500], max_class_share=0.7
)
Splits = dict[str, pd.DataFrame]


def good_splits() -> Splits:
    rows = generate_rows(140)
    bounds = {"train": (0, 100), "dev": (100, 120), "test": (120, 140)}
    splits = {name: frame(rows[first:last], name) for name, (first, last) in bounds.items()}
    return splits | {"transfer": frame([], "transfer")}


def frame(rows: list[tuple[str, str]], name: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": pd.Series([f"{name}{index}" for index in range(len(rows))], dtype=str),
            "text": pd.Series([text for text, _ in rows], dtype=str),
            "label": pd.Series([LABELS.index(label) for _, label in rows], dtype="float64" if not rows else "int64"),
        }
    )


def failures(splits: Splits, accepted: dict[str, Any] | None = None) -> tuple[str, ...]:
    return run_suites(build_suites(splits, LABELS, PARAMS, accepted or {}), None, "data").failures


@pytest.mark.slow
def test_good_data_passes_and_gives_the_same_bytes_again(tmp_path: Path) -> None:
    results = [run_suites(build_suites(good_splits(), LABELS, PARAMS, {}), tmp_path / name, "data") for name in "ab"]
    assert results[0].failures == ()
    assert results[0] == results[1]
    assert file_sums(tmp_path / "a") == file_sums(tmp_path / "b")
    assert {"train", "dev-classes", "leakage"} <= results[0].result["suites"].keys()


@pytest.mark.slow
def test_data_docs_connect_nowhere(tmp_path: Path) -> None:
    run_suites(build_suites(good_splits(), LABELS, PARAMS, {})[:1], tmp_path / "docs", "data")
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert (tmp_path / "docs" / "index.html") in pages
    for path in [*pages, *(tmp_path / "docs").rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"""(src=["']?|<link[^>]*href=["']?|url\(["']?|@import\s+["']?)https?:""", text), path
        sheet = re.search(r'<link rel="stylesheet" href="([^"]*potstill\.css)">', text)
        assert path.suffix == ".css" or (sheet and (path.parent / sheet[1]).exists())


def empty(splits: Splits) -> None:
    splits["dev"] = splits["dev"].iloc[:0]


def null_text(splits: Splits) -> None:
    splits["train"].loc[3, "text"] = None


def unknown_label(splits: Splits) -> None:
    splits["test"].loc[0, "label"] = 2


def long_text(splits: Splits) -> None:
    splits["test"].loc[1, "text"] = "x" * 501


def damage(splits: Splits) -> None:
    splits["train"].loc[0, "text"] = "the cafÃ© was nice"


def duplicate(splits: Splits) -> None:
    splits["dev"].loc[0, "text"] = splits["dev"].loc[1, "text"].upper()


def leak(splits: Splits) -> None:
    splits["train"].loc[0, "text"] = splits["test"].loc[0, "text"]


def unbalanced(splits: Splits) -> None:
    splits["train"]["label"] = [0] * 80 + [1] * 20


def rare(splits: Splits) -> None:
    splits["test"]["label"] = [0] * 17 + [1] * 3


def labelled_transfer(splits: Splits) -> None:
    splits["transfer"] = frame([("a text with a label", "positive")], "transfer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (empty, r"dev: enough rows: observed 0, wanted at least 10"),
        (null_text, r"train: a text in every row: observed 1 of 100 rows that fail"),
        (unknown_label, r"test: labels of the set: observed 1 of 20 rows that fail, such as '2'"),
        (long_text, r"test: characters of a text: observed 1 of 20 rows .* wanted at least 3 and at most 500"),
        (damage, r"train: undamaged encoding of text .*'the cafÃ© was nice', wanted at most 0.10% of rows"),
        (duplicate, r"dev: distinct texts: observed 2 of 20 rows"),
        (leak, r"leakage: texts in both train and test: observed 1, wanted at most 0"),
        (unbalanced, r"train-classes: share of the largest class, 'negative': observed 0.8, wanted at most 0.7"),
        (rare, r"test-classes: rows of the smallest class, 'positive': observed 3, wanted at least 5"),
        (labelled_transfer, r"transfer: no labels: observed 1 of 1 rows"),
    ],
)
def test_failing_expectation_is_one_sentence(spoil: Callable[[Splits], None], words: str) -> None:
    splits = good_splits()
    spoil(splits)
    assert re.match(words, failures(splits)[0])


@pytest.mark.slow
def test_all_failures_are_named_at_once_each_with_its_key() -> None:
    splits = good_splits()
    for spoil in (empty, long_text, damage, unbalanced):
        spoil(splits)
    message = failures(splits)
    keys = ("min_rows.dev", "characters", "max_damaged_share", "max_class_share", "min_per_class")
    for key in keys:
        assert any(f"validate.{key}" in sentence for sentence in message), key
    assert any("below it are 'negative' 0, 'positive' 0: give more rows" in sentence for sentence in message)


@pytest.mark.slow
def test_change_against_the_accepted_profile() -> None:
    splits = good_splits()
    profile = build_profile(text_lengths(splits), label_names(splits, LABELS))
    assert failures(splits, profile) == ()
    splits["train"]["text"] += " and then some more words of it again and again"
    (failure,) = failures(splits, profile)
    assert failure.startswith("change: population stability index of train length against the last accepted data")


@pytest.mark.parametrize("text", ["cafÃ©", "itâ€™s", "\ufffd", "ðŸ˜€", "Â£5", "ï»¿x"])
def test_damage_is_seen(text: str) -> None:
    assert re.search(DAMAGE, text)


@pytest.mark.parametrize("text", ["café", "it’s", "NÃO", "Âge", "£5", "😀", "naïve Noël", "Ã e Â", "«Ça» où"])
def test_ordinary_letters_are_not_damage(text: str) -> None:
    assert not re.search(DAMAGE, text)
