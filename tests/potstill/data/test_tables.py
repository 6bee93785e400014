from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from potstill.data.formats.tables import read_file, read_tables
from potstill.data.formats.tabular import Table
from potstill.errors import (
    CellSizeError,
    EmptyDataError,
    EncodingError,
    FetchError,
    FormatError,
    MissingColumnError,
    NulByteError,
    PotstillError,
)


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_csv_with_quotes_newlines_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\r\n"a ""b"", c\nd",1\r\n\r\nlast,0\r\n')
    table = read_file(path, "csv")
    assert table.columns == {"text": ['a "b", c\nd', "last"], "label": ["1", "0"]}
    assert [table.row_location(row) for row in (0, 1)] == [f"{path}, line 2", f"{path}, line 5"]


def test_tsv_takes_quotes_as_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "1\t0.5\t\"it 's ''fine''\r\n2\t-1\tno \" end\r\n")
    table = read_file(path, "tsv", ["id", "rating", "text"])
    assert table.column("text") == ["\"it 's ''fine''", 'no " end']
    assert table.column("rating") == ["0.5", "-1"]


def test_jsonl_with_gaps(tmp_path: Path) -> None:
    table = read_file(write(tmp_path / "a.jsonl", '{"text": "x", "label": 1}\n\n{"text": "y\u2028z"}\n'), "jsonl")
    assert table.columns == {"text": ["x", "y\u2028z"], "label": [1, None]}
    assert table.row_numbers == [1, 3]


def test_parquet_and_its_row_numbers(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a", None], "label": [1, 0]}), tmp_path / "a.parquet")
    table = read_file(tmp_path / "a.parquet", "parquet")
    assert table.columns == {"text": ["a", None], "label": [1, 0]}
    assert table.row_location(1).endswith("a.parquet, row 2")


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (b"caf\xe9", EncodingError, "row 2: the value in column 'x' is not UTF-8"),
        (10**7, FormatError, r"row 2: the value in column 'x' cannot be read \(date value out of range\)"),
    ],
)
def test_a_value_of_parquet_that_python_has_not_is_named(
    tmp_path: Path, value: bytes | int, error: type[PotstillError], words: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_text = isinstance(value, bytes)
    column = pa.array([b"x" if is_text else 0, value], pa.binary() if is_text else pa.int32())
    pq.write_table(pa.table({"x": column.view(pa.string() if is_text else pa.date32())}), tmp_path / "a.parquet")
    with pytest.raises(error, match=words):
        read_file(tmp_path / "a.parquet")


def test_a_zip_file_with_a_damaged_directory_is_one_sentence(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("a.csv", "text,label\nx,1\n")
    data = (tmp_path / "a.csv.zip").read_bytes()
    write(tmp_path / "a.csv.zip", data.replace(b"PK\x01\x02", b"PK\x00\x02"))
    with pytest.raises(FormatError, match="damaged or cut off zip file"):
        list(read_tables(tmp_path, "*", "auto", None, 1000))


def test_a_column_without_a_name_does_not_replace_another(tmp_path: Path) -> None:
    table = read_file(write(tmp_path / "a.csv", ",column_1,text\n7,8,x\n"))
    assert table.columns == {"column_1_": ["7"], "column_1": ["8"], "text": ["x"]}


def test_saved_dataset_splits_names_and_shuffled_rows(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    rows = Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 1]}, features=features)
    DatasetDict({"train": rows.select([2, 0]), "validation": rows}).save_to_disk(tmp_path / "saved")
    tables = list(read_tables(tmp_path / "saved", "*", "auto", None, 100))
    assert [(table.split, table.column("text")) for table in tables] == [
        ("train", ["c", "a"]),
        ("validation", ["a", "b", "c"]),
    ]
    assert tables[0].class_names == {"label": ["bad", "good"]}
    assert [table.split for table in read_tables(tmp_path / "saved", "valid*", "saved", None, 100)] == ["validation"]
    with pytest.raises(FetchError, match="train, validation"):
        list(read_tables(tmp_path / "saved", "test", "saved", None, 100))


@pytest.mark.parametrize(
    ("name", "data", "error", "words"),
    [
        ("a.csv", b"", EmptyDataError, "is empty"),
        ("a.csv", b" \r\n\n", EmptyDataError, "is empty"),
        ("a.csv", b"\xef\xbb\xbf", EmptyDataError, "is empty"),
        ("a.csv", b"text,label\n", EmptyDataError, "header and no rows"),
        ("a.jsonl", b"\n", EmptyDataError, "is empty"),
        ("a.parquet", b"", EmptyDataError, "is empty"),
        ("a.csv", "text,label\nok,1\ncafé,0\n".encode("latin-1"), EncodingError, r"byte 0xe9 at byte 19 \(line 3\)"),
        ("a.csv", "text,label\nx,1\n".encode("utf-16"), EncodingError, "is UTF-16"),
        ("a.csv", "text,label\nx,1\n".encode("utf-32"), EncodingError, "is UTF-32"),
        ("a.csv", b"text,label\na\0b,1\n", NulByteError, r"byte 12 \(line 2\)"),
        (
            "a.csv",
            "text,label\nx,1\n".encode("utf-16-le"),
            NulByteError,
            "iconv -f UTF-16LE -t UTF-8",
        ),
        ("a.csv", b'text,label\n"open,1\nx,2\n', FormatError, "line 2: .*check the quotes"),
        ("a.csv", b"text,label\nx,1\na,b,1\n", FormatError, r"line 3 has 3 cells where 2"),
        ("a.tsv", b"text\tlabel\nx\n", FormatError, "read without quoting"),
        ("a.csv", b"text,text\nx,1\n", FormatError, "'text' twice"),
        ("a.jsonl", b'{"text": 1}\n{"text"\n', FormatError, "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", FormatError, "row 1 is int, not an object"),
        ("a.parquet", b"PAR1 not really", FormatError, "not a readable Parquet file"),
        (
            "a.json",
            b'{"data": [{"paragraphs": [{"context": "c", "qas": null}]}]}',
            FormatError,
            "looks like SQuAD",
        ),
    ],
)
def test_a_bad_file_is_refused_with_the_line(
    tmp_path: Path, name: str, data: bytes, error: type[PotstillError], words: str
) -> None:
    write(tmp_path / name, data)
    with pytest.raises(error, match=words) as caught:
        list(read_tables(tmp_path, "*", "auto", None, 1000))
    assert name in str(caught.value)


def test_a_byte_order_mark_is_skipped_and_noted(tmp_path: Path) -> None:
    table = read_file(write(tmp_path / "a.csv", b"\xef\xbb\xbftext,label\nx,1\n"), "csv")
    assert list(table.columns) == ["text", "label"]
    assert table.notes == ("a UTF-8 byte order mark was skipped",)
    broken = write(tmp_path / "b.csv", b"\xef\xbb\xbftext\n\xff\n")
    with pytest.raises(EncodingError, match="byte 0xff at byte 8"):
        read_file(broken, "csv")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_ten_megabyte_cell_is_named(tmp_path: Path, name: str) -> None:
    huge = "x" * 10_000_000
    rows = {"a.csv": f"text,label\nok,1\n{huge},0\n", "a.tsv": f"text\tlabel\nok\t1\n{huge}\t0\n"}
    write(tmp_path / name, rows.get(name, f'{{"text": "ok"}}\n\n{{"text": "{huge}"}}\n'))
    with pytest.raises(CellSizeError, match=r"line 3, column 'text': a cell of 10,000,000 characters"):
        list(read_tables(tmp_path, name, "auto", None, 100_000))


def test_missing_column_names_near_ones_and_what_is_there() -> None:
    table = Table("a.csv", {"Text": ["x"], "stars": ["1"]}, [2])
    with pytest.raises(MissingColumnError, match=r"no column 'text'; did you mean 'Text'\? It has 'Text', 'stars'"):
        table.column("text")
    with pytest.raises(MissingColumnError, match="no column 'label'; it has"):
        table.column("label")


def test_pattern_that_matches_nothing_and_unknown_suffix(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "x")
    with pytest.raises(FetchError, match=r"matches '\*\.csv'; it has a\.txt"):
        list(read_tables(tmp_path, "*.csv", "auto", None, 10))
    with pytest.raises(FormatError, match="set `format`"):
        list(read_tables(tmp_path, "*", "auto", None, 10))


def test_all_files_below_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "b.csv", "text\nb\n")
    write(tmp_path / "a.jsonl", '{"text": "a"}\n')
    write(tmp_path / "README.md", "# nothing\n")
    write(tmp_path / "dataset_info.json", "{}")
    first, second = read_tables(tmp_path, "*", "auto", None, 10)
    assert (first.column("text"), second.column("text")) == (["a"], ["b"])
    assert (first.notes, second.notes) == (("not read, as their format is unknown: README.md",), ())


def test_lines_are_one_text_each(tmp_path: Path) -> None:
    path = tmp_path / "pos.txt"
    path.write_text('\ufefffirst, "one"\r\n\n  \nsecond\tone', encoding="utf-8")
    (table,) = read_tables(tmp_path, "*.txt", "lines", None, 100)
    assert [text.strip() for text in table.column("text")] == ['first, "one"', "second\tone"]
    assert (list(table.row_numbers), table.row_location(1)) == ([1, 4], f"{path.as_posix()}, line 4")
    assert read_file(path, "lines", ["review"]).column("review") == table.column("text")
    with pytest.raises(FormatError, match=r"one column, but prepare.tables names 2 \(a, b\)"):
        read_file(path, "lines", ["a", "b"])


def test_a_constant_is_a_column_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "pos.txt"
    path.write_text("first\nsecond\n", encoding="utf-8")
    table = read_file(path, "lines").with_constants({"label": "positive", "year": 1998})
    assert table.columns == {"text": ["first", "second"], "label": ["positive"] * 2, "year": [1998] * 2}
    with pytest.raises(FormatError, match="has a column 'text' of its own, which `constants`"):
        table.with_constants({"text": "x"})
