from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from potstill.config.params import Params
from potstill.config.prepare_params import Prepare
from potstill.data.preparation import Prepared, prepare
from potstill.errors import (
    DuplicateRowsError,
    EmptyDataError,
    LabelError,
    LeakageError,
    MissingColumnError,
    OneClassError,
    PotstillError,
    SmallClassError,
)
from tests.conftest import generate_rows, write_csv
from tests.marked import write_jsonl

Rows = Sequence[tuple[str, str]]
ROWS = generate_rows(200)


def prepared(
    folder: Path, files: dict[str, Rows], tables: list[dict[str, Any]] | None = None, **params: Any
) -> Prepared:
    """Prepare CSV files of one source; `tables` are the tables' params (one automatic table by default)."""
    for name, rows in files.items():
        write_csv(folder / "s" / name, list(rows))
    given: dict[str, Any] = {
        "tables": [{"source": "s"} | table for table in tables or [{}]],
        "text": "text",
        "label": {"kind": "column", "column": "label"},
    }
    return prepare(folder, Prepare.model_validate(given | params))


def texts(result: Prepared, split: str) -> list[str]:
    return [row.text for row in result.splits[split]]


def test_rows_are_split_labelled_and_counted(tmp_path: Path) -> None:
    result = prepared(tmp_path, {"a.csv": ROWS})
    assert result.labels == ["negative", "positive"]
    assert sum(map(len, result.splits.values())) == 200
    truth = dict(ROWS)
    for split in ("train", "dev", "test"):
        table = result.table(split).to_pylist()
        assert table
        assert all(result.labels[row["label"]] == truth[row["text"]] for row in table)
        assert result.report["splits"][split]["rows"] == len(table)
        assert set(result.report["splits"][split]["classes"]) == {"negative", "positive"}
    ids = [row.id for rows in result.splits.values() for row in rows]
    assert len(set(ids)) == 200
    assert result.report["read"] == 200


def test_added_rows_move_none(tmp_path: Path) -> None:
    few = prepared(tmp_path / "few", {"a.csv": ROWS})
    more = prepared(tmp_path / "more", {"a.csv": [*generate_rows(100, seed=9), *ROWS]})
    for split in ("train", "dev", "test"):
        assert set(texts(few, split)) <= set(texts(more, split))


def test_empty_rows_copies_and_contradictions_are_counted(tmp_path: Path) -> None:
    extra = [("", "positive"), (" \t ", "negative"), (ROWS[0][0].upper() + " ", ROWS[0][1]), (ROWS[1][0], "negative")]
    result = prepared(tmp_path, {"a.csv": [*ROWS, *extra]})
    removed = result.report["removed"]
    assert (removed["empty"], removed["copies"], removed["contradicting labels"]) == (2, 1, 2)
    assert sum(map(len, result.splits.values())) == 199
    assert ROWS[1][0] not in [text for split in result.splits for text in texts(result, split)]
    assert sum(removed.values()) + 199 == result.report["read"]


def test_test_text_or_near_copy_stays_in_test_only(tmp_path: Path) -> None:
    long = [(f"{text} {' '.join(text.split()[::-1])}", label) for text, label in ROWS]  # long enough for near copies
    test, dev, train = long[:40], long[40:80], long[80:]
    copies = [test[0], (test[1][0] + " indeed", test[1][1]), dev[0], (dev[1][0] + " indeed", dev[1][1])]
    others = [test[3][0], test[4][0] + " truly", dev[3][0], dev[4][0] + " truly", train[0][0], "a text of its own here"]
    transfer = [(text, "") for text in others]
    files = {"train.csv": [*train, *copies], "dev.csv": [*dev, test[2]], "test.csv": test, "more.csv": transfer}
    tables = [{"files": f"{name}.csv", "split": name} for name in ("train", "dev", "test")]
    result = prepared(tmp_path, files, [*tables, {"files": "more.csv", "split": "transfer"}], max_leakage=0.1)
    assert texts(result, "test") == [text for text, _ in test]
    assert texts(result, "dev") == [text for text, _ in dev]
    assert texts(result, "train") == [text for text, _ in train]
    assert texts(result, "transfer") == ["a text of its own here"]
    assert {name: count for name, count in result.report["removed"].items() if count} == {
        "dev: copies of test": 1,
        "train: copies of test": 1, "train: near copies of test": 1,
        "train: copies of dev": 1, "train: near copies of dev": 1,
        "transfer: copies of test": 1, "transfer: near copies of test": 1, "transfer: copies of dev": 1,
        "transfer: near copies of dev": 1, "transfer: copies of train": 1,
    }  # fmt: skip
    assert result.report["leakage"] == {"test_rows_in_train": 2, "share": 0.05}
    with pytest.raises(LeakageError, match=r"2 of 40 rows of the given test split \(5.0%\)"):
        prepared(tmp_path, files, [*tables, {"files": "more.csv", "split": "transfer"}], max_leakage=0.04)


def test_nothing_learns_from_a_row_of_the_shift_set_and_test_loses_none_to_it(tmp_path: Path) -> None:
    long = [(f"{text} {' '.join(text.split()[::-1])}", label) for text, label in ROWS]
    test, dev, train = long[:40], long[40:80], long[80:]
    new = [(f"parcel {n} came late, box {7 * n} was torn and lid {13 * n} lost", ROWS[n][1]) for n in range(20)]
    copies = [test[0], (dev[1][0] + " indeed", dev[1][1]), train[0], (train[1][0] + " indeed", train[1][1])]
    unclear = [("a parcel that nobody has rated so far", "")]
    transfer = [(new[3][0], ""), ("a text of its own here", "")]
    files = {
        "train.csv": [*train, new[2]], "dev.csv": dev, "test.csv": test, "more.csv": transfer,
        "other.csv": [*new, *copies, *unclear],
    }  # fmt: skip
    tables = [{"files": f"{name}.csv", "split": name} for name in ("train", "dev", "test")]
    tables += [{"files": "more.csv", "split": "transfer"}, {"files": "other.csv", "split": "shift"}]
    result = prepared(tmp_path, files, tables, unlabelled="leave_out", near_duplicate=0.8)
    assert texts(result, "test") == [text for text, _ in test]
    assert texts(result, "dev") == [text for text, _ in dev]
    assert texts(result, "shift") == [text for text, _ in [*new, *copies[2:]]]
    assert texts(result, "train") == [text for text, _ in train[2:]]
    assert texts(result, "transfer") == ["a text of its own here"]
    removed = {name: count for name, count in result.report["removed"].items() if count}
    assert removed == {
        "shift: copies of test": 1, "shift: near copies of dev": 1,
        "train: copies of shift": 2, "train: near copies of shift": 1, "transfer: copies of shift": 1,
    }  # fmt: skip
    assert result.report["splits"]["shift"]["rows"] == result.table("shift").num_rows == 22


def test_a_shift_set_with_a_label_of_its_own_is_refused(tmp_path: Path) -> None:
    tables = [{"files": "a.csv"}, {"files": "b.csv", "split": "shift"}]
    files = {"a.csv": ROWS, "b.csv": [("a parcel that came late", "mixed")]}
    with pytest.raises(LabelError, match=r"the shift set has the label 'mixed', which no other row has \(negative"):
        prepared(tmp_path, files, tables)


def test_split_column_wins_and_missing_dev_is_drawn_from_train(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    lines = [f'"{text}",{label},{"test" if index < 50 else "train"}' for index, (text, label) in enumerate(ROWS)]
    (tmp_path / "s" / "a.csv").write_text("\n".join(["text,label,part", *lines]))
    params = Prepare.model_validate(
        {
            "tables": [{"source": "s", "split_column": "part"}],
            "text": "text",
            "label": {"kind": "column", "column": "label"},
        }
    )
    result = prepare(tmp_path, params)
    assert texts(result, "test") == [text for text, _ in ROWS[:50]]
    assert result.splits["dev"]
    assert set(texts(result, "dev")) | set(texts(result, "train")) == {text for text, _ in ROWS[50:]}


def test_pairs_are_compared_as_pairs(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    lines = [f"{text},{other},{label}" for (text, label), (other, _) in zip(ROWS, ROWS[1:] + ROWS[:1], strict=True)]
    same_first = f"{ROWS[0][0]},another hypothesis,positive"
    (tmp_path / "s" / "a.csv").write_text(
        "\n".join(["premise,hypothesis,label", *lines, lines[0], same_first, f"{ROWS[0][0]},,positive"])
    )
    params = Prepare.model_validate(
        {"tables": [{"source": "s"}], "text": ["premise", "hypothesis"], "label": {"kind": "column", "column": "label"}}
    )
    result = prepare(tmp_path, params)
    assert result.pair
    assert result.report["removed"]["copies"] == 1
    assert result.report["removed"]["empty"] == 1
    assert sum(map(len, result.splits.values())) == 201
    assert result.table("train").column_names == ["id", "text", "text_pair", "label"]


def test_declared_integer_labels_keep_their_order(tmp_path: Path) -> None:
    rows = [(text, "1" if label == "positive" else "0") for text, label in ROWS]
    result = prepared(tmp_path, {"a.csv": rows}, labels=[1, 0])
    assert result.labels == [1, 0]
    first = result.table("train").to_pylist()[0]
    assert first["label"] == (0 if dict(rows)[first["text"]] == "1" else 1)
    assert prepared(tmp_path, {"a.csv": rows}).labels == [0, 1]


def test_of_an_object_with_one_key_for_a_label_the_label_is_its_value(tmp_path: Path) -> None:
    rows = [{"text": text, "label": {"value": int(label == "positive")}} for text, label in ROWS]
    write_jsonl(tmp_path / "s" / "a.jsonl", rows)
    assert prepared(tmp_path, {}, unlabelled="leave_out").labels == [0, 1]


def test_labels_that_params_name_have_their_normal_form(tmp_path: Path) -> None:
    rows = [(text, "1" if label == "positive" else "-1") for text, label in ROWS]
    sign = {"kind": "sign", "column": "label", "positive": "good ", "negative": "0.0"}
    assert prepared(tmp_path, {"a.csv": rows}, label=sign).labels == ["0", "good"]


SMALL = [(text, "rare" if index == 0 else label) for index, (text, label) in enumerate(ROWS)]


@pytest.mark.parametrize(
    ("rows", "params", "error", "words"),
    [
        ([], {}, EmptyDataError, "header and no rows"),
        ([("", "a"), (" ", "b")], {}, EmptyDataError, "no labelled row"),
        ([("same", "a"), ("Same ", "b"), ("same", "a")], {}, DuplicateRowsError, "all 3 labelled rows are copies"),
        ([(text, "x") for text, _ in ROWS], {}, OneClassError, "all 200 labelled rows carry the label 'x'"),
        (SMALL, {}, SmallClassError, "the class .rare. \\(1 row, none in"),
        (ROWS, {"labels": ["negative", "positive", "neutral"]}, SmallClassError, "the class .neutral. \\(0 rows"),
        (ROWS, {"labels": ["bad", "good"]}, LabelError, "label 'negative' is not one of"),
        ([*ROWS, ("new", "")], {}, LabelError, "line 202 has no label"),
        (ROWS, {"text": "txt"}, MissingColumnError, "no column 'txt'; did you mean 'text'"),
        (ROWS, {"label": {"kind": "column", "column": "stars"}}, MissingColumnError, "no column 'stars'"),
        (ROWS, {"text": ["text", "hypothesis"]}, MissingColumnError, "no column 'hypothesis'"),
        (ROWS, {"label": {"kind": "sign", "column": "label"}}, LabelError, "'negative' in 'label' is no number"),
    ],
)
def test_data_that_cannot_be_used_is_refused(
    tmp_path: Path, rows: Rows, params: dict[str, Any], error: type[PotstillError], words: str
) -> None:
    with pytest.raises(error, match=words):
        prepared(tmp_path, {"a.csv": rows}, **params)


@pytest.mark.slow
def test_default_data(default_raw: Path, whole_recipe: Params) -> None:
    result = prepare(default_raw, whole_recipe.prepare)
    rows = {split: len(group) for split, group in result.splits.items()}
    removed = result.report["removed"]
    # The shift set takes rows from train and transfer alone.
    lost = removed.get("train: copies of shift", 0) + removed.get("train: near copies of shift", 0)
    assert (rows["train"], rows["dev"], rows["test"]) == (7046 - lost, 998, 2026)
    assert lost < 100
    assert 2900 < rows["shift"] <= 3708 - 723  # without those that have no clear label
    assert rows["transfer"] - result.report["augmented"]["rows"] > 9000
    learned = {row.key for split in ("train", "transfer") for row in result.splits[split]}
    assert not learned & {row.key for row in result.splits["shift"]}
    assert result.report["read"] == 10_605 + 13_098
    assert result.report["unclear"] == 533
    assert result.report["augmented"]["rows"] > 27_000
    assert any("''" in row.text for row in result.splits["train"])


def test_augmented_rows_have_no_label_and_nothing_held_out_in_them(tmp_path: Path) -> None:
    # A held-out text that is a cut of a training text: every crop that equals it or comes close has to go.
    long = "the opening scene alone is worth the price of a ticket and the rest is better still"
    held_out = [(" ".join(long.split()[index : index + 8]), "negative") for index in range(10)]
    rows = [(text, label, "train") for text, label in [*ROWS[:60], (long, "positive")]]
    rows += [(text, label, "test") for text, label in [*held_out, *ROWS[60:120]]]
    rows += [(text, label, "dev") for text, label in ROWS[120:]]
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "a.csv").write_text("text,label,part\n" + "".join(f"{t},{label},{part}\n" for t, label, part in rows))
    augmented = {"crops": 20, "splices": 1}
    result = prepared(tmp_path, {}, [{"split_column": "part"}], augment=augmented, near_duplicate=0.5)
    augmented_rows = result.splits["transfer"]
    assert len(augmented_rows) == result.report["augmented"]["rows"] > 60
    assert {row.label for row in augmented_rows} == {None}
    assert any(count for why, count in result.report["augmented"]["removed"].items() if why.startswith("transfer"))
    assert not {row.key for row in augmented_rows} & {
        row.key for split in ("test", "dev") for row in result.splits[split]
    }
    assert all(len(result.splits[split]) for split in ("train", "dev", "test"))


def test_rows_without_their_label_join_transfer(tmp_path: Path) -> None:
    augmented = {"crops": 1, "splices": 0}
    whole = prepared(tmp_path / "whole", {"a.csv": ROWS}, augment=augmented)
    few = prepared(tmp_path / "few", {"a.csv": ROWS}, augment=augmented, labelled_rows=30)
    assert len(few.splits["train"]) == 30
    moved = [row for row in few.splits["transfer"] if row.key in {row.key for row in whole.splits["train"]}]
    assert len(moved) == few.report["labels_left_out"] == len(whole.splits["train"]) - 30
    assert {row.label for row in few.splits["transfer"]} == {None}
    # What is held out stays the same, and only texts with a label are cut.
    for split in ("dev", "test"):
        assert [row.text for row in few.splits[split]] == [row.text for row in whole.splits[split]]
    assert few.report["augmented"]["rows"] < whole.report["augmented"]["rows"] / 2
    enough = prepared(tmp_path / "enough", {"a.csv": ROWS}, augment=augmented, labelled_rows=10_000)
    assert enough.report["labels_left_out"] == 0
    assert [row.text for row in enough.splits["train"]] == [row.text for row in whole.splits["train"]]


def test_pairs_are_not_augmented(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="augment changes single texts"):
        prepared(tmp_path, {"a.csv": ROWS}, text=["text", "text"], augment={})


def test_a_file_for_each_class_needs_no_column_of_labels(tmp_path: Path) -> None:
    for label in ("positive", "negative"):
        path = tmp_path / "s" / f"{label}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([*(text for text, name in ROWS if name == label), "said by both"]), encoding="utf-8")
    tables = [
        {"files": f"{label}.txt", "format": "lines", "constants": {"label": label}}
        for label in ("positive", "negative")
    ]
    result = prepared(tmp_path, {}, tables)
    truth = dict(ROWS)
    assert sum(map(len, result.splits.values())) == 200
    assert all(row.label == truth[row.text] for rows in result.splits.values() for row in rows)
    assert result.report["removed"]["contradicting labels"] == 2


def test_a_million_rows_fit_into_memory(tmp_path: Path) -> None:
    files = {"rows.csv": generate_rows(1500)}
    prepared(tmp_path, {"rows.csv": ROWS})  # what is imported once is there
    tracemalloc.start()
    prepared(tmp_path, files, augment={"crops": 1, "splices": 1})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / 1500 < 1600  # bytes a row, with what is made of it for transfer
