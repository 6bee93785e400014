"""The output at a URL: whole or not complete, and left alone where it is another run's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from potstill.config.predict_params import Predict
from potstill.errors import ChecksumError, FormatError, OutputError, PotstillError, RejectedRowsError, ToolError
from potstill.prediction.explained_rows import ExplanationPlan
from potstill.prediction.file_prediction import ChosenModel, Predicted, predict_files
from potstill.prediction.output_parts import OutputParts
from potstill.prediction.uploaded_parts import UploadedParts
from tests.potstill.prediction.models import TEXTS, csv_bytes, tiny_model

URL = "memory://bucket/answers/out.jsonl"
NAMES = ["out.jsonl", "out.jsonl.explained.jsonl", "out.jsonl.manifest.json", "out.jsonl.rejected.jsonl"]


@pytest.fixture(scope="module")
def model(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ChosenModel:
    return tiny_model(tiny_base, tmp_path_factory.mktemp("int8") / "serving")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_bytes(csv_bytes([["id", "text"], *enumerate([*TEXTS[:60], ""])]))
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/", recursive=True)


def predict(
    model: ChosenModel,
    out: Path | str = URL,
    inputs: str = "in.csv",
    columns: tuple[str, ...] | None = None,
    **more: Any,
) -> Predicted:
    settings = Predict(**{"threads": 1, "window_rows": 20, "max_rejected_share": 0.5, **more})
    return predict_files([inputs], out, model, ("text",), columns, settings, ExplanationPlan(2, 1, 31))


def kept() -> list[Path]:
    """What is on this machine."""
    return [path for path in Path(".work/predict").rglob("*") if path.is_file()]


def names(store: Any) -> list[str]:
    return sorted(path.rpartition("/")[2] for path in store.find("/bucket"))


def test_the_output_at_a_url_has_the_bytes_of_that_on_disk(model: ChosenModel, store: Any, tmp_path: Path) -> None:
    summary = predict(model, Path("out.jsonl")).summary
    for url in (URL, f"file://{tmp_path}/new/folders/out.jsonl"):
        first = predict(model, url)
        files, path = fsspec.core.url_to_fs(url)
        assert (first.rows, first.summary) == (60, summary)
        for name in NAMES:
            stored = files.cat_file(f"{path.rpartition('/')[0]}/{name}")
            if "manifest" in name:
                assert json.loads(stored)["summary"] == summary
            else:
                assert stored == Path(name).read_bytes()
        again = predict(model, url)
        assert (again.rows, again.summary) == (0, summary)
    assert names(store) == NAMES
    assert kept() == []


@pytest.mark.parametrize(
    ("owner", "step"), [(OutputParts, "join"), (MemoryFileSystem, "put_file"), (MemoryFileSystem, "info")]
)
def test_an_interrupted_run_goes_on(
    model: ChosenModel, store: Any, monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    predict(model, Path("out.jsonl"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, step, killed)
        predict(model)
    assert "summary" not in json.loads(store.cat_file("/bucket/answers/out.jsonl.manifest.json"))
    with pytest.raises(
        OutputError, match=rf"^{URL} belongs to another run: window_rows 20 there, 30 here; .* {URL}.man"
    ):
        predict(model, window_rows=30)
    assert predict(model).rows == 0
    assert [store.cat_file(f"/bucket/answers/{name}") for name in NAMES if "manifest" not in name] == [
        Path(name).read_bytes() for name in NAMES if "manifest" not in name
    ]
    assert kept() == []


def test_what_is_there_is_left_alone_and_what_is_gone_computed_again(model: ChosenModel, store: Any) -> None:
    predict(model)
    content = store.cat_file("/bucket/answers/out.jsonl")
    with pytest.raises(OutputError, match=f"delete {URL}.manifest.json and what is next to it to begin anew"):
        predict(model, prefix="ours_")
    store.rm("/bucket/answers/out.jsonl.explained.jsonl")
    assert predict(model).rows == 60
    assert names(store) == NAMES
    store.pipe_file("/bucket/answers/out.jsonl", content)
    with pytest.raises(ChecksumError, match=rf"out.jsonl next to {URL} was altered after it was written; delete it"):
        predict(model)
    store.pipe_file("/bucket/mine.csv", b"my own file")
    with pytest.raises(OutputError, match=r"memory://bucket/mine.csv is there already, and `potstill predict` did not"):
        predict(model, "memory://bucket/mine.csv")
    assert store.cat_file("/bucket/mine.csv") == b"my own file"
    store.rm("/bucket/answers/out.jsonl.manifest.json")
    with pytest.raises(OutputError, match="is there already"):
        predict(model)


def test_an_output_in_the_folder_of_the_input_is_no_input(model: ChosenModel, store: Any) -> None:
    store.pipe_file("/bucket/answers/in.csv", Path("in.csv").read_bytes())
    assert predict(model, inputs="memory://bucket/answers").rows == 60
    assert predict(model, inputs="memory://bucket/answers").rows == 0


def test_a_manifest_that_was_deleted_begins_anew(
    model: ChosenModel, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(OutputError, match=r"cannot be written \(no space\); check the"):

        def fail(*_: Any) -> None:
            raise RuntimeError("no space")

        patch.setattr(MemoryFileSystem, "put_file", fail)
        predict(model)
    store.rm("/bucket/answers/out.jsonl.manifest.json")
    assert predict(model, prefix="ours_").rows == 60


def damaged() -> None:
    Path("in.csv.gz").write_bytes(b"\x1f\x8bnothing")


@pytest.mark.parametrize(
    ("inputs", "out", "error", "sentence"),
    [
        ("in.csv.gz", URL, FormatError, "in.csv.gz is damaged"),
        ("in.csv", "memory://bucket/out.txt", FormatError, "out.txt: the suffix names no format"),
        ("in.csv", "memory://out.csv", OutputError, "memory://out.csv names no folder or bucket"),
        ("in.csv", "nowhere://bucket/out.csv", ToolError, "nowhere://bucket/out.csv cannot be opened"),
        ("in.csv", "file:///proc/none/out.csv", OutputError, "file:///proc/none/out.csv cannot be written"),
    ],
)
def test_bad_input_leaves_nothing_at_the_url(
    model: ChosenModel, store: Any, inputs: str, out: str, error: type[PotstillError], sentence: str
) -> None:
    damaged()
    with pytest.raises(error, match=sentence):
        predict(model, out, inputs)
    assert names(store) == []
    assert kept() == []


def test_a_store_that_fails_when_it_is_opened_is_one_sentence() -> None:
    with pytest.raises(OutputError, match=r"gone.zip cannot be written \(No such file or directory\)"):
        UploadedParts("zip://folder/out.csv::gone.zip")


def test_too_many_rows_put_aside_are_listed_on_this_machine(model: ChosenModel, store: Any) -> None:
    with pytest.raises(RejectedRowsError, match=r"; .work/predict/.*/out.jsonl.rejected.jsonl says why"):
        predict(model, max_rejected_share=0.0)
    assert names(store) == ["out.jsonl.manifest.json"]
    assert predict(model).rows == 0
    assert names(store) == NAMES
