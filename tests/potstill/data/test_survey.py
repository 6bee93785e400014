"""Surveys each case of tests/cases as `potstill init` does: the proposal, and data that meets its limits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from potstill.config.prepare_params import Prepare
from potstill.config.validate_params import Validate
from potstill.config.yaml_file import parse_section
from potstill.data.preparation import prepare
from potstill.data.proposals.proposal import DataOptions
from potstill.data.proposals.survey import Survey, survey
from potstill.data.validation.expectations import build_suites, run_suites
from potstill.errors import PotstillError, SmallClassError
from tests.conftest import generate_rows, write_csv

CASES = Path(__file__).parents[2] / "cases"
TAGS = ("O", "B-PER", "I-PER", "B-LOC")


def failures(folder: Path, data: Path, read: Survey) -> tuple[str, ...]:
    """Run the stages prepare and validate with the proposed sections, and return the failures."""
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "data").symlink_to(data if data.is_dir() else data.parent)
    table = read.section["tables"][0] | ({} if data.is_dir() else {"files": data.name})
    params = parse_section("prepare", Prepare, read.section | {"tables": [table]})
    prepared = prepare(folder / "raw", params)
    assert {split: len(rows) for split, rows in prepared.splits.items()} == {
        split: len(rows) for split, rows in read.splits.items()
    }
    frames = {split: prepared.table(split).to_pandas() for split in prepared.splits}
    limits = parse_section("validate", Validate, read.limits)
    labels = [str(label) for label in prepared.labels]
    return run_suites(build_suites(frames, labels, limits, {}, params.task), None, "data").failures


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("d01/spam.csv", {"text": ["v2"], "label": ["v1"]}, {"task": "single_label", "text": "v2"}),
        ("d02/umfrage.csv", {}, {"task": "single_label"}),
        ("d02b/umfrage.csv", {}, {"task": "single_label"}),
        ("d03/doccano.jsonl", {}, {"task": "single_label"}),
        ("d03c/ls.csv", {}, {"task": "multi_label"}),
        ("d03e/prodigy.jsonl", {"unlabelled": "leave_out"}, {"task": "single_label", "unlabelled": "leave_out"}),
        ("d04/multi.csv", {}, {"task": "multi_label"}),
        ("d07", {}, {"task": "single_label"}),
        ("d08/reviews.csv.gz", {}, {"task": "single_label"}),
        ("d10/imdb.csv", {}, {"task": "single_label"}),
        ("d11/clinc.csv", {}, {"task": "single_label"}),
        ("d11b/banking.csv", {}, {"task": "single_label"}),
        ("d23/train.conll", {}, {"task": "token_classification", "text": "tokens"}),
        ("d23b/bioes.jsonl", {}, {"task": "token_classification"}),
        ("d23c/ints.jsonl", {"labels": TAGS}, {"task": "token_classification"}),
        ("d24c/train-v2.0.json", {}, {"task": "question_answering", "text": ["question", "context"]}),
        ("teachers/five.csv", {"task": "regression"}, {"task": "regression"}),
    ],
)
def test_the_task_of_typical_files_is_detected(name: str, options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert survey(CASES / name, DataOptions(**options)).section.items() >= expected.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("d04/multi.csv", {}),
        ("d10/imdb.csv", {}),
        ("d11/clinc.csv", {}),
        ("d23/train.conll", {}),
        ("d24c/train-v2.0.json", {}),
        ("teachers/five.csv", {"task": "regression"}),
    ],
)
def test_data_meets_the_limits_that_follow_from_it(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    read = survey(CASES / name, DataOptions(**options))
    assert failures(tmp_path, CASES / name, read) == ()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("d03e/prodigy.jsonl", {}, "80 with 'answer: ignore'; say what becomes of them: --unlabelled"),
        ("d04/multi.csv", {"task": "single_label"}, "looks like several labels"),
        ("d11/clinc.csv", {"task": "regression"}, "holds no numbers"),
        ("d23c/ints.jsonl", {}, "give their 4 names in order: --labels"),
        ("d01/spam.csv", {"text": ["v3"]}, "no column 'v3'; did you mean"),
        ("d01/spam.csv", {"task": "sentiment"}, "--task 'sentiment' is not known"),
        ("d01/none.csv", {}, "does not exist"),
        ("d01/spam.csv", {"separator": ";;"}, "--sep is ';;'; give the one character"),
    ],
)
def test_ambiguous_data_is_refused_with_a_question(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(PotstillError) as error:
        survey(CASES / name, DataOptions(**options))
    assert words in str(error.value)


def test_given_splits_stay_and_are_named() -> None:
    read = survey(CASES / "d07", DataOptions())
    assert {split: len(rows) for split, rows in read.splits.items()} == {
        "train": 300, "dev": 60, "test": 60, "transfer": 0
    }  # fmt: skip
    assert read.given_splits == ({"train": 300, "dev": 60, "test": 60}, "their names")
    drawn = survey(CASES / "d07", DataOptions(split="draw"))
    assert drawn.given_splits[1] == ""
    assert len(drawn.splits["train"]) not in (300, 0)


@pytest.mark.slow
def test_two_classes_98_to_2(tmp_path: Path) -> None:
    texts = [text for text, _ in generate_rows(3000, seed=5)]
    generator = random.Random(5)
    rare = set(generator.sample(range(3000), 60))
    data = write_csv(
        tmp_path / "d09b.csv", [(text, "bad" if index in rare else "fine") for index, text in enumerate(texts)]
    )
    read = survey(data, DataOptions())
    assert 0.98 < read.limits["max_class_share"] < 1
    assert failures(tmp_path, data, read) == ()


def test_long_texts_set_the_limit_that_they_meet() -> None:
    read = survey(CASES / "d10" / "imdb.csv", DataOptions())
    longest = max(len(row.text) for rows in read.splits.values() for row in rows)
    assert 5_000 < longest < read.limits["characters"][1] < 2 * longest


def test_four_rows_are_refused_with_the_number_that_works(tmp_path: Path) -> None:
    rows = [("one text", "a"), ("another text", "b"), ("a third text", "a"), ("the fourth text", "b")]
    with pytest.raises(SmallClassError, match=r"2 classes: 'a' \(2 rows.*'b' \(2 rows.*a class needs 3 different rows"):
        survey(write_csv(tmp_path / "four.csv", rows), DataOptions())
    more = [*rows, ("a text more", "a"), ("and the sixth", "b")]
    read = survey(write_csv(tmp_path / "six.csv", more), DataOptions())
    assert {split: len(group) for split, group in read.splits.items()}.items() >= {
        "train": 2,
        "dev": 2,
        "test": 2,
    }.items()


def test_a_cell_beyond_the_usual_limit_raises_it(tmp_path: Path) -> None:
    rows = [*generate_rows(200), ("word " * 30_000, "positive")]
    read = survey(write_csv(tmp_path / "long.csv", rows), DataOptions())
    assert read.section["max_cell_characters"] >= 150_000


@pytest.mark.parametrize("name", ["a [1].csv", "it's.csv", "with space*.csv", "Ünïcode?.csv"])
def test_a_file_name_is_a_name(tmp_path: Path, name: str) -> None:
    data = write_csv(tmp_path / name, generate_rows(100))
    write_csv(tmp_path / "a 1.csv", generate_rows(20, seed=3))
    assert sum(map(len, survey(data, DataOptions()).splits.values())) == 100
