"""Files from end to end with a tiny student."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile  # type: ignore[import-untyped]
from starlette.testclient import TestClient

from potstill.config.predict_params import Predict
from potstill.config.serving_params import Watch
from potstill.errors import (
    BusyError,
    ChecksumError,
    EmptyDataError,
    FetchError,
    FormatError,
    OutputError,
    PotstillError,
    RejectedRowsError,
)
from potstill.evaluation.drift import judge_counts
from potstill.inference.certainty import answer_confidence
from potstill.inference.profile import Counts, observe
from potstill.inference.runtime import Student
from potstill.prediction import file_prediction
from potstill.prediction.file_prediction import ChosenModel, Predicted, predict_files
from potstill.prediction.output_parts import OutputParts
from potstill.prediction.row_windows import RowWindow, read_windows
from tests.conftest import generate_rows
from tests.potstill.prediction.models import (
    TEXTS,
    csv_bytes,
    jsonl_bytes,
    model_of,
    parquet_bytes,
    read_lines,
    tiny_model,
)
from tests.potstill.serving.folders import write_span_model
from tests.potstill.serving.test_app import Service

OUT = Path("out.jsonl")


@pytest.fixture(scope="module")
def int8(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ChosenModel:
    return tiny_model(tiny_base, tmp_path_factory.mktemp("int8") / "serving")


@pytest.fixture(scope="module")
def fp32(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ChosenModel:
    return tiny_model(tiny_base, tmp_path_factory.mktemp("fp32") / "serving", variant="fp32")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(
    model: ChosenModel,
    inputs: str = "in.csv",
    out: Path = OUT,
    texts: tuple[str, ...] = ("text",),
    columns: tuple[str, ...] | None = None,
    **settings: Any,
) -> Predicted:
    chosen = Predict(**{"threads": 1, "window_rows": 32, **settings})
    return predict_files(inputs.split(), out, model, texts, columns, chosen)


def write_csv(*texts: str, name: str = "in.csv") -> None:
    Path(name).write_bytes(csv_bytes([["id", "text"], *enumerate(texts, start=1)]))


def left() -> list[str]:
    """The files that are there."""
    return sorted(os.listdir())


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["int8", "fp32"])
def test_answers_are_those_of_the_service_over_a_whole_split(tiny_base: Path, folder: Path, variant: str) -> None:
    split = [text for text, _ in generate_rows(500, seed=3)] + ["long " * 80, "", "a"]
    model = tiny_model(tiny_base, folder / "serving", variant=variant)
    threshold = statistics.median(map(answer_confidence, Student(model.serving, 1).predict(split)))
    model = replace(model, abstain_below=threshold)
    write_csv(*split)
    predict(model, max_rejected_share=0.1, window_rows=100)
    service = Service(model.serving, abstain_below=threshold)
    service.gate.set()
    asked = [text for text in split if text]
    served = []
    with TestClient(service.app) as http:
        for start in range(0, len(asked), 32):
            body = {"texts": asked[start : start + 32]}
            served += http.post("/v1/classify", json=body).json()["predictions"]
    rows = read_lines(OUT)
    assert [row["text"] for row in rows] == asked
    for row, answer in zip(rows, served, strict=True):
        assert row["model_probabilities"] == pytest.approx(answer.pop("probabilities"), abs=1e-5)
        assert {name: row[f"model_{name}"] for name in answer} == answer
    assert {row["model_abstained"] for row in rows} == {row["model_truncated"] for row in rows} == {True, False}


def test_every_format_gives_the_same_answers(int8: ChosenModel) -> None:
    rows = [{"id": number, "text": text} for number, text in enumerate(TEXTS[:50])]
    Path("in.jsonl").write_bytes(jsonl_bytes(rows))
    Path("in.parquet").write_bytes(parquet_bytes(id=[row["id"] for row in rows], text=TEXTS[:50]))
    Path("in.csv.gz").write_bytes(gzip.compress(csv_bytes([["id", "text"], *(row.values() for row in rows)])))
    outputs = []
    for name in ("in.jsonl", "in.parquet", "in.csv.gz"):
        for suffix in ("jsonl", "parquet", "csv"):
            out = Path(f"{name}.out.{suffix}")
            predict(int8, name, out)
            outputs.append(out)
    assert (
        len(
            {
                out.read_bytes()
                for out in outputs
                if out.name.startswith("in.jsonl") or out.name == "in.parquet.out.jsonl"
            }
        )
        == 3
    )
    expected = read_lines(outputs[0])
    assert [row["id"] for row in expected] == list(range(50))
    for out in outputs:
        if out.suffix == ".parquet":
            assert pq.read_table(out).drop_columns("id").to_pylist() == [
                {name: value for name, value in row.items() if name != "id"} for row in expected
            ]


def test_formulas_of_the_input_stay_as_they_were_or_get_an_apostrophe(int8: ChosenModel) -> None:
    write_csv("=1+1", "-1")
    predict(int8, out=Path("data.csv"))
    with pytest.raises(OutputError, match=r"data.csv belongs to another run: escape_formulas false there, true here"):
        predict(int8, out=Path("data.csv"), escape_formulas=True)
    predict(int8, out=Path("sheet.csv"), escape_formulas=True)
    for name, formula in (("data.csv", "=1+1"), ("sheet.csv", "'=1+1")):
        with Path(name).open(newline="", encoding="utf-8") as handle:
            assert [row["text"] for row in csv.DictReader(handle)] == [formula, "-1"]


def test_several_files_are_one_output_in_their_order(int8: ChosenModel) -> None:
    write_csv("one film", "two films", name="b.csv")
    write_csv("three films", name="a.csv")
    with fsspec.open("memory://more/c.csv", "wb") as handle:
        handle.write(csv_bytes([["text", "id"], ["four films", "9"]]))
    predict(int8, "b.csv *.csv memory://more/c.csv")
    assert [(row["id"], row["text"]) for row in read_lines(OUT)] == [
        ("1", "one film"),
        ("2", "two films"),
        ("1", "three films"),
        ("9", "four films"),
    ]


@pytest.mark.slow
def test_pairs_entities_and_replies(tiny_base: Path, folder: Path) -> None:
    Path("in.csv").write_bytes(csv_bytes([["a", "b"], *((text, text[:20]) for text in TEXTS[:20])]))
    pair = tiny_model(tiny_base, folder / "pair", pair=True)
    predict(pair, texts=("a", "b"))
    assert {row["model_label"] for row in read_lines(OUT)} <= {"negative", "positive"}
    pairs = list(zip(TEXTS, TEXTS, strict=True))
    for task, texts, profile in (("token_classification", ("a",), TEXTS), ("question_answering", ("b", "a"), pairs)):
        serving = write_span_model(tiny_base, folder / task / "serving", task)
        model = model_of(serving, profile)
        predict(model, out=Path(f"{task}.jsonl"), texts=texts)
        student = Student(serving, 1)
        rows = read_lines(Path(f"{task}.jsonl"))
        inputs = [row["a"] if len(texts) == 1 else (row["b"], row["a"]) for row in rows]
        for row, observed in zip(rows, observe(student, inputs), strict=True):
            if task == "token_classification":
                assert row["model_entities"] == [entity.__dict__ for entity in observed.answer.entities]
            else:
                assert row["model_answers"][0]["answer"] == observed.answer.answer
            assert row["model_windows"] == observed.answer.windows


def test_equal_texts_are_counted_each_time(int8: ChosenModel) -> None:
    write_csv(*[TEXTS[number % 4] for number in range(600)])
    predicted = predict(int8, window_rows=300)
    assert {name: predicted.summary[name] for name in ("rows", "different", "rejected")} == {
        "rows": 600,
        "different": 8,
        "rejected": 0,
    }
    counts = Counts(int8.profile)
    counts.add(observe(Student(int8.serving, 1), TEXTS[:4]) * 150, int8.card)
    merged = Counts(int8.profile)
    merged.merge(predicted.summary["counts"])
    assert merged.to_json()["counts"] == counts.to_json()["counts"]
    assert judge_counts(merged, int8.profile, Watch()).verdict == "drift"


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_run_goes_on_where_it_stopped_with_the_same_bytes(
    fp32: ChosenModel, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(*TEXTS, "", *TEXTS[:7])
    whole, out = Path(f"whole.{suffix}"), Path(f"out.{suffix}")
    predict(fp32, out=whole)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(OutputParts, "join", lambda *_: signal.raise_signal(signal.SIGINT))
        predict(fp32, out=out)
    parts = sorted(Path(f"out.{suffix}.parts").glob("*.json"))
    assert len(parts) == 4
    assert not out.exists()
    for part in (parts[0], parts[2]):  # as if the process had been killed before these were finished
        part.unlink()
    predicted = predict(fp32, out=out)
    assert predicted.rows == 63
    for name in ("", ".rejected.jsonl"):
        assert Path(f"{out}{name}").read_bytes() == Path(f"{whole}{name}").read_bytes()
    assert not Path(f"{out}.parts").exists()


def test_threads_give_the_same_bytes_as_one(fp32: ChosenModel) -> None:
    write_csv(*TEXTS)
    predict(fp32, out=Path("one.jsonl"))
    predict(fp32, out=Path("two.jsonl"), threads=2)
    assert Path("one.jsonl").read_bytes() == Path("two.jsonl").read_bytes()


def test_a_complete_output_is_not_computed_again(int8: ChosenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(*TEXTS[:40])
    first = predict(int8)
    written = OUT.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(Student, "compute", None)
        again = predict(int8)
    assert (again.rows, again.summary) == (0, first.summary)
    assert OUT.stat().st_mtime_ns == written
    OUT.write_bytes(OUT.read_bytes() + b"\n")
    with pytest.raises(ChecksumError, match=r"out.jsonl was altered after it was written; delete it"):
        predict(int8)


def test_an_output_that_was_deleted_is_computed_again(int8: ChosenModel, folder: Path) -> None:
    write_csv(*TEXTS[:40])
    predict(int8)
    content = OUT.read_bytes()
    OUT.unlink()
    assert predict(int8).rows == 40
    assert OUT.read_bytes() == content


def test_the_output_of_another_run_is_left_alone(int8: ChosenModel, fp32: ChosenModel) -> None:
    write_csv(*TEXTS[:5])
    predict(int8)
    content = OUT.read_bytes()
    with pytest.raises(OutputError, match=r'out.jsonl belongs to another run: candidate ".*" there, ".*" here'):
        predict(fp32)
    with pytest.raises(OutputError, match='columns null there, \\["id"\\] here'):
        predict(int8, columns=("id",))
    with pytest.raises(OutputError, match="window_rows 32 there, 33 here"):
        predict(int8, window_rows=33)
    write_csv(*TEXTS[:6])
    with pytest.raises(OutputError, match="its input files are others, or have changed since; name another output"):
        predict(int8)
    Path("mine.csv").write_text("my own file")
    with pytest.raises(OutputError, match=r"mine.csv is there already, and `potstill predict` did not write it"):
        predict(int8, out=Path("mine.csv"))
    assert (OUT.read_bytes(), Path("mine.csv").read_text()) == (content, "my own file")
    assert left() == ["in.csv", "mine.csv", "out.jsonl", "out.jsonl.manifest.json"]


def test_two_processes_do_not_write_the_same_output(int8: ChosenModel) -> None:
    write_csv(*TEXTS[:5])
    with OutputParts(OUT).held(), pytest.raises(BusyError, match=r"predicting out.jsonl is already going on"):
        predict(int8)


def test_a_part_that_was_altered_is_refused(int8: ChosenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(*TEXTS[:5])
    join = OutputParts.join

    def altered(self: OutputParts, *arguments: Any) -> Any:
        (self.folder / "0000000.part").write_bytes(b"{}\n")
        return join(self, *arguments)

    monkeypatch.setattr(OutputParts, "join", altered)
    with pytest.raises(ChecksumError, match=r"0000000.part was altered after it was written; delete it"):
        predict(int8)
    assert not OUT.exists()


# --- rows that are put aside ------------------------------------------------------------------------------------------


def test_rows_put_aside_are_listed_with_number_and_reason(int8: ChosenModel) -> None:
    write_csv("a film", "", "b film", "x" * 30)
    predicted = predict(int8, max_characters=20, max_rejected_share=0.5)
    assert [row["id"] for row in read_lines(OUT)] == ["1", "3"]
    assert predicted.summary["rejected"] == 2
    assert read_lines(Path("out.jsonl.rejected.jsonl")) == [
        {"file": "in.csv", "row": 2, "line": 3, "reason": "no text in column 'text'"},
        {
            "file": "in.csv",
            "row": 4,
            "line": 5,
            "reason": "a text of 30 characters; at most 20 (predict.max_characters)",
        },
    ]


def test_too_many_rows_put_aside_end_the_run_which_goes_on_with_a_higher_limit(int8: ChosenModel) -> None:
    write_csv("a film", "", "b film")
    sentence = r"1 rows were put aside, 33.3% .* predict.max_rejected_share = 1.0%; out.jsonl.rejected.jsonl says why"
    with pytest.raises(RejectedRowsError, match=sentence):
        predict(int8)
    assert not OUT.exists()
    assert len(read_lines(Path("out.jsonl.rejected.jsonl"))) == 1
    assert predict(int8, max_rejected_share=0.5).rows == 0
    assert len(read_lines(OUT)) == 2


def test_all_rows_may_be_put_aside(int8: ChosenModel) -> None:
    write_csv("", " ")
    for suffix in ("jsonl", "csv", "parquet"):
        predict(int8, out=Path(f"out.{suffix}"), max_rejected_share=1.0)
    assert (Path("out.jsonl").read_bytes(), Path("out.csv").read_bytes().count(b"\n")) == (b"", 1)
    assert pq.read_table("out.parquet").column_names[:3] == ["id", "text", "model_label"]


# --- bad input --------------------------------------------------------------------------------------------------------


def damaged() -> None:
    rows = csv_bytes([["id", "text"], *enumerate(TEXTS * 30)])
    Path("in.csv").write_bytes(rows)
    Path("in.csv.gz").write_bytes(gzip.compress(rows, mtime=0)[:-2000])


def other_columns() -> None:
    write_csv("a film")
    Path("in2.csv").write_bytes(csv_bytes([["text"], ["a film"]]))


def mixed_types() -> None:
    rows: list[dict[str, Any]] = [{"text": text, "id": number} for number, text in enumerate(TEXTS[:96])]
    Path("in.jsonl").write_bytes(jsonl_bytes([*rows, {"text": "a film", "id": "x"}]))


def numbers_without_a_type() -> None:
    rows: list[dict[str, Any]] = [{"text": text, "id": 2**60 + 1} for text in TEXTS[:96]]
    Path("in.jsonl").write_bytes(jsonl_bytes([*rows, {"text": "a film", "id": 0.5}]))


@pytest.mark.parametrize(
    ("write", "inputs", "out", "error", "sentence"),
    [
        (damaged, "in.csv.gz", "out.jsonl", FormatError, "in.csv.gz is damaged or ends in the middle"),
        (other_columns, "in.csv in2.csv", "out.csv", FormatError, "in2.csv has other columns than in.csv"),
        (mixed_types, "in.jsonl", "out.parquet", FormatError, "values of several types in one column"),
        (numbers_without_a_type, "in.jsonl", "out.parquet", FormatError, "values of several types in one column"),
        (lambda: write_csv(), "in.csv", "out.csv", EmptyDataError, "in.csv has a header and no rows"),
        (lambda: Path("in.csv").touch(), "in.csv", "out.csv", EmptyDataError, "in.csv is empty"),
        (lambda: Path("out.csv").mkdir(), "in.csv", "out.csv", PotstillError, "in.csv: no file there"),
        (lambda: write_csv("a"), "in.csv", "in.csv/out.csv", OutputError, "out.csv cannot be written .*; name another"),
        (lambda: write_csv("a"), "in.csv", "out.txt", FormatError, "out.txt: the suffix names no format to write"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_half_written(
    int8: ChosenModel, write: Any, inputs: str, out: str, error: type[PotstillError], sentence: str
) -> None:
    write()
    before = left()
    with pytest.raises(error, match=sentence):
        predict(int8, inputs, Path(out))
    assert left() == before


def test_a_column_of_the_input_with_the_name_of_an_added_one_is_refused(int8: ChosenModel) -> None:
    Path("in.csv").write_bytes(csv_bytes([["text", "model_label"], ["a film", "x"]]))
    with pytest.raises(FormatError, match=r"the input has a column 'model_label', .* set predict.prefix"):
        predict(int8)
    predict(int8, prefix="ours_")
    assert json.loads(OUT.read_text())["model_label"] == "x"


# --- more that may happen ---------------------------------------------------------------------------------------------


def test_parts_without_their_manifest_are_those_of_nobody(int8: ChosenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(*TEXTS[:40])
    predict(int8, out=Path("whole.jsonl"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(OutputParts, "join", lambda *_: signal.raise_signal(signal.SIGINT))
        predict(int8, columns=())
    Path("out.jsonl.manifest.json").unlink()
    assert predict(int8).rows == 40
    assert OUT.read_bytes() == Path("whole.jsonl").read_bytes()


def test_keys_of_json_lines_that_come_later_are_columns_of_parquet(int8: ChosenModel) -> None:
    keys: list[dict[str, Any]] = [
        {"n": 1, "s": None},
        {"n": 0.5, "s": {"a": 1}},
        {"s": {"a": None, "b": "x"}, "late": True},
    ]
    Path("in.jsonl").write_bytes(jsonl_bytes([{"text": TEXTS[0], **more} for more in keys]))
    predict(int8, "in.jsonl", Path("out.parquet"), window_rows=1)
    table = pq.read_table("out.parquet")
    assert table.select(["n", "s", "late"]).to_pylist() == [
        {"n": 1.0, "s": None, "late": None},
        {"n": 0.5, "s": {"a": 1, "b": None}, "late": None},
        {"n": None, "s": {"a": None, "b": "x"}, "late": True},
    ]


def test_a_file_that_changes_meanwhile_has_no_output(int8: ChosenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def growing(*arguments: Any) -> Iterator[RowWindow]:
        yield from read_windows(*arguments)
        Path("in.csv").write_text("text\nanother film\n")

    write_csv(*TEXTS[:40])
    monkeypatch.setattr(file_prediction, "read_windows", growing)
    with pytest.raises(FetchError, match=r"in.csv has changed while it was read; run again"):
        predict(int8)
    assert left() == ["in.csv"]


def test_a_column_that_is_chosen_twice_is_there_once(int8: ChosenModel) -> None:
    Path("in.parquet").write_bytes(parquet_bytes(text=TEXTS[:64], id=range(64)))
    predict(int8, "in.parquet", Path("out.parquet"), columns=("id", "id"))
    assert pq.read_schema("out.parquet").names.count("id") == 1


def test_a_store_that_fails_loses_nothing(int8: ChosenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = csv_bytes([["id", "text"], *enumerate(TEXTS * 30)])
    with fsspec.open("memory://failing/in.csv.gz", "wb") as handle:
        handle.write(gzip.compress(rows, 0, mtime=0))
    inputs = "memory://failing/in.csv.gz"
    read = MemoryFile.read

    starts: list[Any] = []

    def fail(self: Any, size: int = -1) -> Any:
        if not self.tell():
            starts.append(self)
        if len(starts) > 2 and self.tell() > 200_000:  # its header has been read twice before its rows
            raise RuntimeError("the connection was reset")
        return read(self, min(size, 4096))

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFile, "read", fail)
        with pytest.raises(FetchError, match=r"in.csv.gz cannot be read \(the connection was reset\)"):
            predict(int8, inputs)
    assert left() == ["out.jsonl.manifest.json", "out.jsonl.parts"]
    assert 0 < predict(int8, inputs).rows < 3600
    assert len(read_lines(OUT)) == 3600
