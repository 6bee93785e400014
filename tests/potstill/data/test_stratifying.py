from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from potstill.config.prepare_params import Prepare
from potstill.data.preparation import Prepared, prepare
from potstill.data.reading import read_rows
from potstill.data.rows import Row
from potstill.data.splits.stratifying import find_class_seeds, with_seeds
from potstill.data.targets import names_of
from potstill.errors import SmallClassError

CASES = Path("tests/cases")
Texts = Sequence[tuple[str, Any]]


def params(**changes: Any) -> Prepare:
    given = {"tables": [{"source": "s"}], "text": "text", "label": {"kind": "column", "column": "label"}}
    return Prepare.model_validate(given | {"near_duplicate": None} | changes)


def several(**changes: Any) -> Prepare:
    label = {"kind": "column", "column": "label", "separator": ","}
    return params(task="multi_label", label=label, **changes)


def write(folder: Path, rows: Texts) -> Path:
    (folder / "s").mkdir(parents=True, exist_ok=True)
    lines = [f'"{text}","{label}"' for text, label in rows]
    (folder / "s" / "a.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    return folder


def splits(prepared: Prepared) -> dict[str, str]:
    return {row.key: split for split, rows in prepared.splits.items() for row in rows}


def seeds_of(rows: Sequence[Row], prepare_params: Prepare) -> dict[str | int, int]:
    return find_class_seeds(rows, names_of([row.label for row in rows], prepare_params), prepare_params)[0]


def random_rows(generator: random.Random, classes: int, rows: int, first: int = 0) -> list[tuple[str, str]]:
    """Texts of many small classes, three rows of each at least, some of them twice."""
    texts = [
        (f"text {first + number} {generator.random()}", f"class {number % classes}")
        for number in range(max(rows, 3 * classes))
    ]
    return texts + generator.sample(texts, k=len(texts) // 10)


@pytest.mark.parametrize(("case", "least"), [("d11/clinc.csv", 20), ("d11b/banking.csv", 2)])
def test_many_small_classes_are_in_every_split(case: str, least: int) -> None:
    folder, _, name = case.partition("/")
    prepare_params = params(tables=[{"source": folder, "files": name}])
    with pytest.raises(SmallClassError) as error:
        prepare(CASES, prepare_params)
    message = str(error.value)
    seeds = yaml.safe_load(message[message.index("{") : message.index("}") + 1])
    assert len(seeds) >= least
    assert all(repr(label) in message for label in seeds)
    result = prepare(CASES, with_seeds(prepare_params, seeds))
    classes = {row.label for row in result.splits["train"]}
    assert all({row.label for row in result.splits[split]} == classes for split in ("dev", "test"))


@pytest.mark.parametrize("trial", range(12))
def test_every_class_is_in_every_split_and_added_rows_move_none(tmp_path: Path, trial: int) -> None:
    generator = random.Random(trial)
    classes = generator.randint(2, 40)
    old = random_rows(generator, classes, generator.randint(classes, 12 * classes))
    rows, _ = read_rows(write(tmp_path / "old", old), params())
    prepare_params = with_seeds(params(), seeds_of(rows, params()))
    before = prepare(tmp_path / "old", prepare_params)
    assert all({row.label for row in before.splits[split]} == set(before.labels) for split in ("train", "dev", "test"))
    # Later: rows more, some of a class that is new, in an order that has nothing to do with the old one.
    more = [*old, *random_rows(generator, classes + 2, 20 * classes, first=10_000)]
    generator.shuffle(more)
    later = _prepared_with_remedy(write(tmp_path / "more", more), prepare_params)
    after = splits(later)
    assert all(after[key] == split for key, split in splits(before).items())


def _prepared_with_remedy(folder: Path, prepare_params: Prepare) -> Prepared:
    """Prepare again with the seeds that the message proposes, as a user would."""
    try:
        return prepare(folder, prepare_params)
    except SmallClassError as error:
        message = str(error)
    seeds = yaml.safe_load(message[message.index("{") : message.index("}") + 1])
    assert prepare_params.split.class_seeds.items() <= seeds.items()
    return prepare(folder, with_seeds(prepare_params, seeds))


def test_only_classes_that_are_left_out_move(tmp_path: Path) -> None:
    rows, _ = read_rows(write(tmp_path, random_rows(random.Random(5), 30, 300)), params())
    seeds = seeds_of(rows, params())
    assert 0 < len(seeds) < 30
    stay = [row for row in rows if row.label not in seeds]
    before = _drawn(rows, params())
    after = _drawn(rows, with_seeds(params(), seeds))
    assert all(before[row.key] == after[row.key] for row in stay)
    assert seeds_of(rows, with_seeds(params(), seeds)) == seeds


def _drawn(rows: Sequence[Row], prepare_params: Prepare) -> dict[str, str]:
    from potstill.data.rows import draw_split_rows

    return {row.key: split for split, group in draw_split_rows(rows, prepare_params).splits.items() for row in group}


def test_rare_labels_of_several_are_in_every_split(tmp_path: Path) -> None:
    generator = random.Random(3)
    common = [(f"plain {number}", generator.choice(["a", "b", "a,b"])) for number in range(300)]
    rare = [(f"odd {number}", f"a,rare {number % 20}") for number in range(100)]
    rows, _ = read_rows(write(tmp_path, common + rare), several())
    seeds = seeds_of(rows, several())
    assert seeds
    result = prepare(tmp_path, with_seeds(several(), seeds))
    for split in ("train", "dev", "test"):
        assert {name for row in result.splits[split] for name in row.label or ()} == set(result.labels)  # type: ignore[union-attr]


def test_copies_whose_labels_differ_are_removed_together(tmp_path: Path) -> None:
    rows = [(f"text {number}", f"class {number % 2}") for number in range(100)]
    rows += [(f"both {number}", f"class {label_index}") for number in range(20) for label_index in (0, 1)]
    write(tmp_path, rows)
    result = prepare(tmp_path, with_seeds(params(), {"class 0": 3, "class 1": 4}))
    assert result.report["removed"]["contradicting labels"] == 40
    assert not any(row.text.startswith("both") for group in result.splits.values() for row in group)


MANY = [(f"text {number}", "ab"[number % 2]) for number in range(100)]
SMALL = [*MANY, ("x", "one"), ("y", "two"), ("z", "two")]


@pytest.mark.parametrize(
    ("rows", "changes", "words"),
    [
        (SMALL, {}, r"too few rows in 2 classes: 'one' \(1 row, none in .*\), 'two' \(2 rows, .*\): a class needs 3 "),
        (MANY, {"labels": ["a", "b", "c"]}, r"too few rows in the class 'c' \(0 rows, none in train, dev or test\)"),
        (MANY[:4], {}, r"too few rows in 2 classes: 'a' \(2 rows, .*\), 'b' \(2 rows, .*needs 3 different"),
    ],
)
def test_all_classes_that_are_too_small_are_named(
    tmp_path: Path, rows: Texts, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(SmallClassError) as error:
        prepare(write(tmp_path, rows), params(**changes))
    assert re.search(words, str(error.value))


def test_a_given_split_without_a_class_is_named(tmp_path: Path) -> None:
    write(tmp_path, MANY)
    (tmp_path / "s" / "test.csv").write_text("text,label\nheld out,a\nheld back,a\n", encoding="utf-8")
    tables = [{"source": "s", "files": "a.csv"}, {"source": "s", "files": "test.csv", "split": "test"}]
    with pytest.raises(SmallClassError, match=r"a split that the data gives.*the class 'b' \(50 rows, none in test\)"):
        prepare(tmp_path, params(tables=tables))


def test_numbers_have_no_classes() -> None:
    with pytest.raises(ValueError, match="class_seeds is given, but a regression task has no classes"):
        params(task="regression", label={"kind": "number", "column": "label"}, split={"class_seeds": {"a": 1}})
