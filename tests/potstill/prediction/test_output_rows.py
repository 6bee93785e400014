from __future__ import annotations

import csv
import datetime
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill.errors import FormatError
from potstill.prediction.output_rows import OutputFormat, OutputRows, output_format
from potstill.prediction.row_batches import LINE

ANSWERS = pa.table({"model_label": ["yes", "no"], "model_truncated": [False, True]})
# Python has no such date, Parquet has it.
YEAR_29349 = pa.array([10**7, 0], pa.int32()).view(pa.date32())
ADDED = tuple(ANSWERS.column_names)


def lines(*rows: object) -> pa.Table:
    return pa.table({LINE: [row if isinstance(row, str) else json.dumps(row) for row in rows]})


def encode(file_format: OutputFormat, rows: pa.Table, columns: tuple[str, ...] | None = None, **more: Any) -> bytes:
    return OutputRows(file_format, columns, ADDED, **more).encode(rows, ANSWERS)


def objects(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.decode().splitlines()]


def formula_column(texts: list[str], *, escape: bool) -> str:
    """Write texts, with "=no" as the answer to all of them, under a header that is a formula too."""
    writer = OutputRows("csv", ("=a",), ("model_label",), escape_formulas=escape)
    answers = pa.table({"model_label": ["=no"] * len(texts)})
    return (writer.header() + writer.encode(pa.table({"=a": texts}), answers)).decode()


def column(content: str) -> list[str]:
    """Read the first column, and the answer to the last row."""
    rows = list(csv.reader(io.StringIO(content, newline="")))
    return [*(row[0] for row in rows), rows[-1][1]]


def test_json_lines_pass_on_every_key_in_its_form() -> None:
    content = encode("jsonl", lines({"id": 1, "tags": ["ü"]}, {"id": "x", "more": {"a": None}}))
    assert objects(content) == [
        {"id": 1, "tags": ["ü"], "model_label": "yes", "model_truncated": False},
        {"id": "x", "more": {"a": None}, "model_label": "no", "model_truncated": True},
    ]
    assert "ü" in content.decode()


def test_chosen_columns_are_passed_on_in_their_order() -> None:
    rows = lines({"a": 1, "b": 2, "c": 3}, {"c": 4})
    assert [list(row) for row in objects(encode("jsonl", rows, ("c", "a"), chosen=True))] == [
        ["c", "a", *ADDED],
        ["c", *ADDED],
    ]
    assert encode("csv", rows, ("c", "a"), chosen=True) == b"3,1,yes,false\n4,,no,true\n"
    nested = lines({"a": {"id": 7}}, {"a": None})
    assert objects(encode("jsonl", nested, ("a.id",), chosen=True))[0]["a.id"] == 7


def test_types_of_parquet_that_json_has_not_are_written_as_text() -> None:
    table = pa.table(
        {
            "day": [datetime.date(2026, 11, 29), None],
            "price": [Decimal("1.50"), None],
            "bytes": [b"\xff", None],
            "number": [float("nan"), 1.0],
            "list": [[float("inf")], []],
        }
    )
    first, second = objects(encode("jsonl", table, tuple(table.column_names)))
    assert [first[name] for name in table.column_names] == ["2026-11-29", "1.50", "/w==", None, [None]]
    assert [second[name] for name in table.column_names] == [None, None, None, 1.0, []]


def test_a_cell_of_csv_holds_a_text_as_it_is_and_json_for_what_is_nested() -> None:
    table = pa.table(
        {"text": ['say "hi",\nplease', None], "list": [[1], None], "number": [0.1, 2.0], "flag": [True, None]}
    )
    writer = OutputRows("csv", tuple(table.column_names), ADDED)
    rows = list(csv.reader(io.StringIO((writer.header() + writer.encode(table, ANSWERS)).decode(), newline="")))
    assert rows == [
        ["text", "list", "number", "flag", *ADDED],
        ['say "hi",\nplease', "[1]", "0.1", "true", "yes", "false"],
        ["", "", "2.0", "", "no", "true"],
    ]


FORMULAS = ["=cmd|' /C calc'!A0", "+1+cmd()", "-2+3", "@SUM(1,2)", "\t=1", "\r=1", "\n=1", "\uff1d1+1"]
NUMBERS = ["-1", "+3.5", "-1,234.5", "-1e-5", "+7%"]


def test_a_formula_in_csv_is_quoted_and_stays_as_it_was() -> None:
    content = formula_column([*FORMULAS, *NUMBERS], escape=False)
    texts = [*FORMULAS, *NUMBERS, "=no"]
    assert column(content) == ["=a", *texts]
    for text in texts:
        assert f'"{text}"' in content


def test_a_formula_in_csv_gets_an_apostrophe_on_request() -> None:
    content = formula_column([*FORMULAS, *NUMBERS, "a=1", "it's", ""], escape=True)
    assert column(content) == ["'=a", *(f"'{text}" for text in FORMULAS), *NUMBERS, "a=1", "it's", "", "'=no"]


def test_a_carriage_return_within_a_text_ends_no_row_of_csv() -> None:
    assert column(formula_column(["a\rb"], escape=False))[1] == "a\rb"


def test_only_csv_escapes_formulas() -> None:
    table = pa.table({"text": ["=1", "-2+3"]})
    for file_format in ("jsonl", "parquet"):
        escaped = encode(file_format, table, ("text",), escape_formulas=True)  # type: ignore[arg-type]
        assert escaped == encode(file_format, table, ("text",))  # type: ignore[arg-type]


def test_parquet_keeps_types_and_gives_json_lines_some() -> None:
    table = pa.table({"n": pa.array([1, 2], pa.int8()), "day": [datetime.date(2026, 11, 29), None]})
    written = pq.read_table(pa.BufferReader(encode("parquet", table, ("n", "day"))))
    assert written.schema.equals(pa.schema([*table.schema, *ANSWERS.schema]))
    written = pq.read_table(pa.BufferReader(encode("parquet", lines({"a": 1, "b": [1]}, {"a": 2.5, "c": {"d": "x"}}))))
    assert written.column_names == ["a", "b", "c", *ADDED]
    assert written.column("a").to_pylist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("file_format", "rows", "columns", "sentence"),
    [
        ("parquet", lines({"id": 1}, {"id": "x"}), None, "the values of 'id' are of several types"),
        ("parquet", lines({"id": 2**70}, {}), None, "the values of 'id' are of several types"),
        ("parquet", lines({"id": 1, "meta": {}}, {}), None, "Cannot write struct type 'meta' .* write JSON lines"),
        ("jsonl", pa.table({"day": YEAR_29349}), ("day",), "a value of 'day' cannot be written .* write Parquet"),
        ("jsonl", lines({"model_label": 1}, {}), None, "the input has a column 'model_label', .* predict.prefix"),
        ("csv", lines({"a": 1}, {"b": 1}), ("a",), "a line has the key 'b', which the first lines lack"),
    ],
)
def test_rows_that_do_not_fit_are_one_sentence(
    file_format: OutputFormat, rows: pa.Table, columns: tuple[str, ...] | None, sentence: str
) -> None:
    with pytest.raises(FormatError, match=sentence):
        encode(file_format, rows, columns)


def test_rows_without_columns_that_are_passed_on_have_answers() -> None:
    for file_format in ("jsonl", "csv", "parquet"):
        assert b"yes" in encode(file_format, pa.table({}), ())  # type: ignore[arg-type]


def test_the_suffix_names_the_format() -> None:
    assert [output_format(Path(f"a.{suffix}")) for suffix in ("parquet", "JSONL", "csv")] == ["parquet", "jsonl", "csv"]
    with pytest.raises(FormatError, match=r"a.txt: the suffix names no format to write; it has to be one of .parquet"):
        output_format(Path("a.txt"))
