from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import pytest

from potstill.errors import FetchError, FormatError, PotstillError, ToolError
from potstill.prediction.input_files import list_folder, list_inputs, open_input

OUT = Path("out.jsonl")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"text\n")


def listed(*inputs: str) -> list[str]:
    return [file.location for file in list_inputs(inputs, str(OUT.resolve()))]


def test_folders_and_patterns_list_what_can_be_read_once_and_by_name(folder: Path) -> None:
    write("in/b.csv.gz", "in/a.tsv", "in/deep/c.jsonl.zst", "in/x.txt", "in/.hidden.csv", "in/_SUCCESS", "d.parquet")
    assert listed("in") == ["in/a.tsv", "in/b.csv.gz", "in/deep/c.jsonl.zst"]
    assert listed("d.parquet", "in/*.tsv", str(folder / "in")) == [
        "d.parquet",
        "in/a.tsv",
        "in/b.csv.gz",
        "in/deep/c.jsonl.zst",
    ]
    formats = [(file.format, file.codec, file.size) for file in list_inputs(["in"], OUT)]
    assert formats == [("tsv", None, 5), ("csv", "gzip", 5), ("jsonl", "zstd", 5)]


def test_what_predict_writes_is_no_input_of_a_folder() -> None:
    write("a.csv", "out.jsonl", "out.jsonl.rejected.jsonl", "out.jsonl.parts/0000001.jsonl")
    assert listed(".") == ["a.csv"]


def test_a_name_with_the_signs_of_a_pattern_is_a_name() -> None:
    write("a[1].csv", "a1.csv")
    assert listed("a[1].csv") == ["a[1].csv"]


def test_a_folder_with_the_signs_of_a_pattern_is_a_folder() -> None:
    write("a[1] #/b.csv", "a1 #/b.csv")
    assert listed("a[1] #") == ["a[1] #/b.csv"]


def test_a_link_to_a_folder_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write("in/a.csv", "other/b.csv")
    Path("in/more").symlink_to("../other")
    assert listed("in") == ["in/a.csv"]
    assert "links to folders are not followed: " in capsys.readouterr().out


def test_what_predict_writes_is_no_input_of_a_link_to_its_folder(folder: Path) -> None:
    write("in/a.csv", "in/out.jsonl")
    Path("link").symlink_to("in")
    assert [file.location for file in list_inputs(["link"], str(folder / "in/out.jsonl"))] == ["link/a.csv"]


def test_a_listed_file_is_found_again_though_its_location_lacks_the_host() -> None:
    """fsspec names the files of a folder at ftp://host as ftp:///folder/file."""
    write("in/a.csv")
    file = replace(list_folder("in")["a.csv"], location="ftp:///in/a.csv")
    assert list_inputs([file], OUT) == [file]


def test_a_link_to_nothing_does_not_keep_a_folder_from_being_watched() -> None:
    write("in/a.csv")
    Path("in/b.csv").symlink_to("nowhere")
    assert [*list_folder("in")] == ["a.csv"]


def test_a_url_is_opened_by_fsspec() -> None:
    with fsspec.open("memory://store/a.csv.gz", "wb") as handle:
        handle.write(gzip.compress(b"text\nhello\n", mtime=0))
    (file,) = list_inputs(["memory://store"], OUT)
    assert file.location == "memory:///store/a.csv.gz"
    with open_input(file) as opened:
        assert opened.stream.read() == b"text\nhello\n"


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("gone.csv", FetchError, "gone.csv: no file there; name a file, a folder or a pattern"),
        ("empty/*", FetchError, "no file there"),
        ("", FetchError, "an input has no name"),
        ("http://me:secret@127.0.0.1:9/a.csv", FetchError, r"^http://\*\*\*@127.0.0.1:9/a.csv(?!.*secret)"),
        ("zip://a.csv::gone.zip", FetchError, r"zip://a.csv::gone.zip cannot be read \(No such file or directory\)"),
        ("a.xlsx", FormatError, "a.xlsx: the suffix names no known format; it has to be one of .csv"),
        ("nowhere://a", ToolError, "nowhere://a cannot be opened: Protocol not known"),
        ("gs://bucket/a.csv", ToolError, "gs://bucket/a.csv cannot be opened: Please install gcsfs"),
    ],
)
def test_an_input_that_is_none_is_one_sentence(name: str, error: type[PotstillError], sentence: str) -> None:
    write("a.xlsx")
    with pytest.raises(error, match=sentence):
        list_inputs([name], OUT)


def test_a_file_that_may_not_be_read_or_is_damaged_is_one_sentence() -> None:
    Path("a.csv.gz").write_bytes(gzip.compress(b"text\n" * 10_000, mtime=0)[:40])
    (file,) = list_inputs(["a.csv.gz"], OUT)
    with pytest.raises(FormatError, match=r"a.csv.gz is damaged or ends in the middle"), open_input(file) as opened:
        opened.stream.read()
    Path("a.csv.gz").unlink()
    with pytest.raises(FetchError, match=r"a.csv.gz cannot be read \(No such file or directory\)"), open_input(file):
        pass
