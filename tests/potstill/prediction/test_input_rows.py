from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from potstill.errors import EncodingError, FormatError, MissingColumnError, PotstillError
from potstill.prediction.input_files import InputFile, list_inputs
from potstill.prediction.input_rows import check_columns, column_names, read_batches
from potstill.prediction.row_batches import LINE, Batch, Selection
from tests.potstill.prediction.models import csv_bytes, parquet_bytes, parquet_file

SELECTION = Selection(("text",), None, 50)
# pandas needs no such type, Parquet has it.
NOT_UTF8 = pa.array([b"good", b"\xe9", b"fine"], pa.binary()).view(pa.string())
# pandas writes no such file, pyarrow does.
TWICE = parquet_file(pa.table([["a"], ["b"]], ["text", "text"]))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, content: bytes) -> InputFile:
    Path(name).write_bytes(content)
    return list_inputs([name], Path("out.csv"))[0]


def read(name: str, content: bytes, selection: Selection = SELECTION) -> Batch:
    """Read a small file; checks its columns first."""
    file = write(name, content)
    names = column_names(file)
    assert names is not None
    check_columns(file, names, selection)
    (batch,) = read_batches(file, selection)
    assert batch.position == file.size
    return batch


def reasons(batch: Batch) -> list[tuple[int, int | None, str]]:
    return [tuple(rejected) for rejected in batch.rejected]


def test_bad_rows_of_a_csv_are_put_aside_and_none_is_lost() -> None:
    content = b'\xef\xbb\xbfid,text\n1,"a, b"\n2,\n3,caf\xe9\n\n4,"two\nlines"\n5,a,b\n6,"open\n7,good\n'
    content += b"8," + b"x" * 51 + b'\n9,"done"\n10,trailing,,\n11,"open\n'
    batch = read("a.csv", content)
    assert batch.texts == ["a, b", "two\nlines", "good", "done", "trailing"]
    assert batch.rows.to_pydict() == {"id": ["1", "4", "7", "9", "10"], "text": batch.texts}
    assert reasons(batch) == [
        (2, 3, "no text in column 'text'"),
        (3, 4, "not UTF-8"),
        (5, 8, "a broken line: 3 cells where 2 are expected"),
        (6, 9, "a broken line: ',' expected after '\"'"),
        (8, 11, "a text of 51 characters; at most 50 (predict.max_characters)"),
        (11, 14, "a broken line: unexpected end of data"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.csv", b"sep=;\r\nid;text\r\n1;a, b\r\n", "a, b"),
        ("a.csv", b"id|text\n1|a, b\n2|c\n", "a, b"),
        ("a.csv.gz", gzip.compress(b"id,text\n1,a\n", mtime=0), "a"),
        ("a.tsv", b'id\ttext\n1\ta "quoted" word\n', 'a "quoted" word'),
        ("a.csv.zst", bytes(pa.compress(b"id,text\n1,a\n", "zstd", asbytes=True)), "a"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}', mtime=0), "a"),
        ("a.parquet.gz", gzip.compress(parquet_bytes(text=["a"]), mtime=0), "a"),
    ],
)
def test_dialects_and_packed_files_are_read(name: str, content: bytes, text: str) -> None:
    assert read(name, content).texts[0] == text


def test_bad_json_lines_are_put_aside_and_the_others_keep_their_form() -> None:
    lines = [b'{"text": "a", "id": 1.0}', b"", b'{"text": 5}', b'{"id": 3, "text": "b"}', b"nope", b"[1]", b'{"id": 4}']
    lines += [b'{"text": "\\ud800"}', b'{"text": "\xe9"}', b'{"text": null}', b'{"text": "last"}']
    batch = read("a.jsonl", b"\n".join(lines))
    assert batch.texts == ["a", "b", "last"]
    assert batch.rows.column(LINE).to_pylist() == [lines[0].decode(), lines[3].decode(), lines[10].decode()]
    assert reasons(batch) == [
        (2, 3, "column 'text' has no text but int"),
        (4, 5, "a broken line: not JSON (Expecting value: line 1 column 1 (char 0))"),
        (5, 6, 'a broken line: list, not an object such as {"text": ...}'),
        (6, 7, "no text in column 'text'"),
        (7, 8, "not UTF-8"),
        (8, 9, "not UTF-8"),
        (9, 10, "no text in column 'text'"),
    ]


def test_a_path_leads_into_an_object() -> None:
    content = b'{"ticket": {"body": "a"}}\n{"ticket": {"body": "b"}}\n'
    assert read("a.jsonl", content, Selection(("ticket.body",), None, 50)).texts == ["a", "b"]


def test_parquet_keeps_its_types_and_bad_rows_are_put_aside() -> None:
    content = parquet_bytes(text=pa.array(["a", None, "b"]).dictionary_encode(), n=[1, 2, 3], other=NOT_UTF8)
    batch = read("a.parquet", content)
    assert (batch.texts, batch.rows.column("n").to_pylist(), batch.rows.schema.field("n").type) == (
        ["a", "b"],
        [1, 3],
        "int64",
    )
    assert reasons(batch) == [(2, None, "not UTF-8")]
    batch = read("a.parquet", content, Selection(("text",), ("n",), 50))
    assert batch.rows.column_names == ["n"]
    assert reasons(batch) == [(2, None, "no text in column 'text'")]


@pytest.mark.parametrize(
    "column",
    [
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int32()), NOT_UTF8),
        pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), NOT_UTF8),
        pa.StructArray.from_arrays([NOT_UTF8], ["x"]),
    ],
    ids=["categories", "lists", "objects"],
)
def test_a_row_of_parquet_whose_nested_text_is_not_utf8_is_put_aside(column: Any) -> None:
    batch = read("a.parquet", parquet_bytes(text=["a", "b", "c"], more=column))
    assert (batch.texts, reasons(batch)) == (["a", "c"], [(2, None, "not UTF-8")])


def test_a_column_without_a_name_does_not_take_that_of_another() -> None:
    batch = read("a.csv", b",column_1,text\n7,8,a\n", Selection(("text",), ("column_1",), 50))
    assert batch.rows.to_pydict() == {"column_1": ["8"]}


def test_rows_may_all_be_put_aside() -> None:
    batch = read("a.parquet", parquet_bytes(text=["", None]))
    assert (batch.texts, len(batch.rows), len(batch.rejected)) == ([], 0, 2)


def test_a_pair_needs_both_texts_and_its_limit_is_for_both() -> None:
    rows = [["first", "second"], ["a", "b"], ["a", " "], ["x" * 30, "y" * 30]]
    batch = read("a.csv", csv_bytes(rows), Selection(("first", "second"), (), 50))
    assert batch.texts == [("a", "b")]
    assert batch.rows.column_names == []
    assert [reason for _, _, reason in batch.rejected] == [
        "no text in column 'second'",
        "a text of 60 characters; at most 50 (predict.max_characters)",
    ]


def test_a_large_file_is_read_in_batches() -> None:
    file = write("a.csv", csv_bytes([["text"], *([f"row {number}"] for number in range(2500))]))
    batches = list(read_batches(file, SELECTION))
    assert [len(batch.texts) for batch in batches] == [1024, 1024, 452]
    assert batches[-1].texts[-1] == "row 2499"


def test_an_empty_file_has_no_columns() -> None:
    assert [column_names(write(f"a.{name}", b"")) for name in ("csv", "tsv", "jsonl")] == [None, None, None]


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        ("a.csv", b"texts,id\na,1\n", MissingColumnError, r"a.csv has no column 'text'; did you mean 'texts'\? It has"),
        ("a.jsonl", b'{"id": 1}\n', MissingColumnError, "a.jsonl has no column 'text'; it has 'id'"),
        ("a.csv", "text\né\n".encode("utf-16"), EncodingError, "a.csv is UTF-16, not UTF-8; convert it: iconv"),
        ("a.csv", b"text,text\na,b\n", FormatError, "a.csv has the column 'text' twice; rename"),
        ("a.parquet", TWICE, FormatError, "a.parquet has the column 'text' twice; rename"),
        ("a.parquet", parquet_bytes(text=[1]), FormatError, "a.parquet: column 'text' holds int64, not texts"),
        ("a.parquet", parquet_bytes(text=["a"] * 99)[:-50], FormatError, "a.parquet is damaged or ends in the middle"),
        (
            "a.csv.gz",
            gzip.compress(b"text\n" + b"a\n" * 9, mtime=0)[:-12],
            FormatError,
            "is damaged or ends in the middle",
        ),
        ("a.csv.gz", b"text\na\n", FormatError, "is damaged or ends in the middle"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    name: str, content: Any, error: type[PotstillError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        read(name, content)
