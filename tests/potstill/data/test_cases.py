"""Prepares files as users have them: what is read, and what is refused with a question."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from potstill.config.prepare_params import Prepare
from potstill.data.preparation import Prepared, prepare
from potstill.data.reading import reading_notes
from potstill.errors import FormatError, LabelError, PotstillError
from tests.conftest import REPOSITORY, generate_rows

CASES = REPOSITORY / "tests" / "cases"
ENTITIES = {"task": "token_classification", "text": "tokens", "label": {"kind": "tags", "column": "ner_tags"}}
ANSWERS = {
    "task": "question_answering",
    "text": ["question", "context"],
    "label": {"kind": "answers", "column": "answers"},
}


def read(tmp_path: Path, name: str, **params: Any) -> Prepared:
    """Prepare a case's file or folder; the label is in `label`, the text in `text`."""
    (tmp_path / "s").mkdir()
    source = CASES / name
    for path in [source] if source.is_file() else source.iterdir():
        shutil.copy(path, tmp_path / "s")
    return run(tmp_path, **params)


def run(tmp_path: Path, **params: Any) -> Prepared:
    """Prepare the files in `s`."""
    given = {
        "tables": [{"source": "s"}],
        "text": "text",
        "label": {"kind": "column", "column": "label"},
        "near_duplicate": None,
    }
    return prepare(tmp_path, Prepare.model_validate(given | params))


def labels_of(result: Prepared) -> Counter[Any]:
    return Counter(row.label for rows in result.splits.values() for row in rows)


def write(tmp_path: Path, name: str, data: str | bytes) -> Path:
    path = tmp_path / "s" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def table(rows: int = 60, separator: str = ",", end: str = "\n") -> str:
    """A CSV file of two classes."""
    lines = [f"{text.replace(separator, ' ')}{separator}{label}" for text, label in generate_rows(rows)]
    return end.join([f"text{separator}label", *lines, ""])


def test_empty_columns_without_a_name_are_left_out(tmp_path: Path) -> None:
    result = read(tmp_path, "d01/spam.csv", text="v2", label={"kind": "column", "column": "v1"})
    assert result.labels == ["ham", "spam"]
    assert any("3 empty columns without a name left out" in note for note in reading_notes(result.report))


@pytest.mark.parametrize("case", ["d02", "d02b"])
def test_semicolons_are_found_or_obeyed(tmp_path: Path, case: str) -> None:
    result = read(tmp_path, f"{case}/umfrage.csv")
    assert labels_of(result) == {"ham": 200, "spam": 200}
    notes = " ".join(reading_notes(result.report))
    assert ("sep=;" if case == "d02" else "separated by semicolons") in notes


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_other_separators(tmp_path: Path, separator: str, end: str) -> None:
    write(tmp_path, "a.csv", "\ufeff" + table(60, separator, end))
    assert len(labels_of(run(tmp_path))) == 2


def test_a_separator_that_is_not_found_is_named_with_its_key(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", table(60, "^"))
    with pytest.raises(PotstillError, match=r"header is one cell.*`separator` of this table in prepare.tables"):
        run(tmp_path)
    assert len(labels_of(run(tmp_path, tables=[{"source": "s", "separator": "^"}]))) == 2


def test_a_list_of_one_is_its_element(tmp_path: Path) -> None:
    assert labels_of(read(tmp_path, "d03/doccano.jsonl")) == {"ham": 200, "spam": 200}


def test_labels_of_a_list_as_text_of_one(tmp_path: Path) -> None:
    lines = [f'"{text}","[\'{label}\']"' for text, label in generate_rows(60)]
    write(tmp_path, "a.csv", "\n".join(["text,label", *lines]))
    assert run(tmp_path).labels == ["negative", "positive"]


def test_prodigys_rejected_rows_need_a_decision(tmp_path: Path) -> None:
    accept = {"label": {"kind": "column", "column": "accept"}}
    with pytest.raises(LabelError, match=r"80 with 'answer: ignore'.*prepare.unlabelled"):
        read(tmp_path, "d03e/prodigy.jsonl", **accept)
    transferred = run(tmp_path, **accept, unlabelled="transfer")
    assert labels_of(transferred)[None] == len(transferred.splits["transfer"]) == 80
    left_out = run(tmp_path, **accept, unlabelled="leave_out")
    assert None not in labels_of(left_out)
    assert left_out.report["removed"]["without a label"] == 80


def test_prodigys_verdict_can_be_the_label(tmp_path: Path) -> None:
    result = read(tmp_path, "d03e/prodigy.jsonl", label={"kind": "column", "column": "answer"})
    assert result.labels == ["accept", "ignore"]


@pytest.mark.parametrize(
    ("name", "column", "labels"),
    [("d03c/ls.csv", "sentiment", ["ham", "spam"]), ("d04/multi.csv", "label", ["a", "b", "c", "d"])],
)
def test_several_labels_in_a_cell_are_recognised(tmp_path: Path, name: str, column: str, labels: list[str]) -> None:
    label = {"label": {"kind": "column", "column": column}}
    with pytest.raises(LabelError, match=r"looks like several labels; to read them, set prepare.task to multi_label"):
        read(tmp_path, name, **label)
    result = run(tmp_path, **label, task="multi_label")
    assert result.labels == labels
    assert max(len(held) for held in labels_of(result)) == 2


def saved(tmp_path: Path, minus: dict[str, int]) -> None:
    """A saved data set with a ClassLabel; of each split the first rows have no class."""
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    parts = {}
    for number, (split, rows) in enumerate({"train": 60, "validation": 20, "test": 20}.items()):
        texts = [text for text, _ in generate_rows(rows, seed=number)]
        labels = [-1 if row < minus.get(split, 0) else row % 2 for row in range(rows)]
        parts[split] = Dataset.from_dict({"text": texts, "label": labels}, features=features)
    DatasetDict(parts).save_to_disk(tmp_path / "s")


@pytest.mark.parametrize(("minus", "transfer"), [({"test": 20}, 20), ({"train": 5}, 5)])
def test_minus_one_of_a_class_label_is_no_label(tmp_path: Path, minus: dict[str, int], transfer: int) -> None:
    saved(tmp_path, minus)
    result = run(tmp_path)
    assert result.labels == ["bad", "good"]
    assert labels_of(result)[None] == result.report["splits"]["transfer"]["rows"] == transfer
    assert f"without a label and taken for transfer: {transfer} of" in " ".join(reading_notes(result.report))


def test_class_names_in_parquets_own_metadata(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    rows = generate_rows(60)
    data = Dataset.from_dict({"text": [text for text, _ in rows], "label": [row % 2 for row in range(60)]}, features)
    (tmp_path / "s").mkdir()
    data.to_parquet(tmp_path / "s" / "a.parquet")
    assert run(tmp_path).labels == ["bad", "good"]


def test_minus_one_without_a_schema_needs_a_decision(tmp_path: Path) -> None:
    lines = [f"{text},{row % 3 - 1}" for row, (text, _) in enumerate(generate_rows(90))]
    write(tmp_path, "a.csv", "\n".join(["text,label", *lines]))
    with pytest.raises(LabelError, match=r"prepare.label.missing to \[-1\], or prepare.labels to \[-1, 0, 1\]"):
        run(tmp_path)
    assert run(tmp_path, labels=[-1, 0, 1]).labels == [-1, 0, 1]
    result = run(tmp_path, label={"kind": "column", "column": "label", "missing": [-1]})
    assert result.labels == [0, 1]
    assert len(result.splits["transfer"]) == 30


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "<NA>"])
def test_a_word_for_a_missing_value_is_neither_class_nor_text(tmp_path: Path, word: str) -> None:
    write(tmp_path, "a.csv", table(60) + f"{word},positive\nsome text of its own,{word}\n")
    with pytest.raises(LabelError, match=rf"has no label in column 'label' \('{word}'; if that is a name, list it"):
        run(tmp_path)
    result = run(tmp_path, unlabelled="leave_out")
    assert result.labels == ["negative", "positive"]
    assert result.report["removed"]["empty"] == result.report["removed"]["without a label"] == 1


def test_splits_by_the_names_of_files(tmp_path: Path) -> None:
    result = read(tmp_path, "d07")
    assert {split: len(rows) for split, rows in result.splits.items()} == {
        "train": 300, "dev": 60, "test": 60, "transfer": 0,
    }  # fmt: skip
    assert "valid.csv: its name gives the split: dev" in " ".join(reading_notes(result.report))
    drawn = run(tmp_path, tables=[{"source": "s", "split": "draw"}])
    assert 60 < len(drawn.splits["test"]) < 120


@pytest.mark.parametrize(
    "names",
    [
        ["data.train.csv", "data.test.csv"],
        ["train-00000-of-00002.csv", "train-00001-of-00002.csv", "test-00000-of-00001.csv"],
        ["train/a.csv", "test/a.csv"],
        ["my_train.csv", "my_TEST.csv"],
    ],
)
def test_names_that_look_like_splits(tmp_path: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        lines = [f"{text},{label}" for text, label in generate_rows(60, seed=number)]
        write(tmp_path, name, "\n".join(["text,label", *lines]))
    result = run(tmp_path)
    assert len(result.splits["test"]) == 60
    # The same where each file is a table of its own.
    apart = run(tmp_path, tables=[{"source": "s", "files": name} for name in names])
    assert [row.id for row in apart.splits["test"]] == [row.id for row in result.splits["test"]]


def test_a_file_that_is_no_split_among_splits_is_refused(tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv", "extra.csv"):
        write(tmp_path, name, table())
    with pytest.raises(FormatError, match=r"look like splits, but not that of s/extra.csv.*`split: draw`"):
        run(tmp_path)


def test_a_lone_file_of_such_a_name_is_drawn_from(tmp_path: Path) -> None:
    write(tmp_path, "test.csv", table())
    assert run(tmp_path).splits["train"]


def test_a_column_of_splits_is_respected(tmp_path: Path) -> None:
    lines = [f"{text},{label},{'validation' if row < 20 else 'Train'}" for row, (text, label) in
             enumerate(generate_rows(80))]  # fmt: skip
    write(tmp_path, "a.csv", "\n".join(["text,label,split", *lines]))
    result = run(tmp_path)
    assert len(result.splits["dev"]) == 20
    assert "column 'split' gives the splits" in " ".join(reading_notes(result.report))


COMPRESSED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def zstd(data: bytes) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    result = read(tmp_path, "d08/reviews.csv.gz")
    assert labels_of(result) == {"ham": 200, "spam": 200}
    assert "unpacked from gz" in " ".join(reading_notes(result.report))


@pytest.mark.parametrize("kind", ["bz2", "xz", "zst"])
def test_other_compressions(tmp_path: Path, kind: str) -> None:
    write(tmp_path, f"a.csv.{kind}", (COMPRESSED | {"zst": zstd})[kind](table().encode()))
    assert len(labels_of(run(tmp_path))) == 2


def test_a_zip_file_of_one(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with zipfile.ZipFile(tmp_path / "s" / "a.zip", "w") as archive:
        archive.writestr("folder/rows.csv", table())
        archive.writestr("__MACOSX/folder/._rows.csv", b"\0")
    assert len(labels_of(run(tmp_path))) == 2


@pytest.mark.parametrize("name", ["a.csv.zip", "a.zip"])
def test_a_zip_file_of_two_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "s").mkdir()
    with zipfile.ZipFile(tmp_path / "s" / name, "w") as archive:
        for name in ("a.csv", "b.csv"):
            archive.writestr(name, table())
    with pytest.raises(FormatError, match=r"holds 2 files \(a.csv, b.csv ...\), not one; unpack it"):
        run(tmp_path)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
def test_a_cut_off_file_is_one_sentence(tmp_path: Path, kind: str) -> None:
    data = (COMPRESSED | {"zst": zstd})[kind](table(200).encode())
    write(tmp_path, f"a.csv.{kind}", data[: len(data) // 2])
    with pytest.raises(FormatError, match=f"is a damaged or cut off {kind} file"):
        run(tmp_path)


def test_conll_2003(tmp_path: Path) -> None:
    result = read(tmp_path, "d23/train.conll", **ENTITIES)
    assert result.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert sum(map(len, result.splits.values())) == 300
    assert "CoNLL: 300 sentences of 2,400 words" in " ".join(reading_notes(result.report))


def test_tags_of_another_scheme_are_converted(tmp_path: Path) -> None:
    result = read(tmp_path, "d23b/bioes.jsonl", **ENTITIES)
    (tmp_path / "two").mkdir()
    conll = read(tmp_path / "two", "d23/train.conll", **ENTITIES)
    assert result.labels == conll.labels
    assert labels_of(result) == labels_of(conll)
    assert "the tags are BIOES; they were converted to BIO2" in " ".join(reading_notes(result.report))


def test_integer_tags_need_names(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"prepare.label.names: \[O, B-TYPE, I-TYPE\]"):
        read(tmp_path, "d23c/ints.jsonl", **ENTITIES)
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    result = run(tmp_path, **ENTITIES | {"label": ENTITIES["label"] | {"names": names}})  # type: ignore[operator]
    assert result.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_squads_own_json(tmp_path: Path) -> None:
    result = read(tmp_path, "d24c/train-v2.0.json", **ANSWERS)
    rows = [row for part in result.splits.values() for row in part]
    assert any(row.label == () for row in rows)
    assert any(row.label for row in rows)
    assert "SQuAD: 260 questions, 65 of them without an answer" in " ".join(reading_notes(result.report))


def test_squads_first_version_indented(tmp_path: Path) -> None:
    qas = [
        {"id": str(row), "question": f"Who is number {row}?", "answers": [{"text": f"Ann{row}", "answer_start": 0}]}
        for row in range(60)
    ]
    paragraphs = [{"context": f"Ann{row} is number {row}.", "qas": [qas[row]]} for row in range(60)]
    write(
        tmp_path, "a.json", json.dumps({"version": "1.1", "data": [{"title": "x", "paragraphs": paragraphs}]}, indent=1)
    )
    assert sum(map(len, run(tmp_path, **ANSWERS).splits.values())) == 60


def test_a_name_with_the_signs_of_a_pattern(tmp_path: Path) -> None:
    for name in ("a[1].csv", "what?.csv", "a1.csv"):
        write(tmp_path, name, table())
    result = run(tmp_path, tables=[{"source": "s", "files": "a[1].csv"}])
    assert [item["file"].rsplit("/", 1)[1] for item in result.report["tables"]] == ["a[1].csv"]


def test_nested_texts_are_addressed_or_refused(tmp_path: Path) -> None:
    rows = [
        {"ticket": {"body": text, "meta": {"kind": [label]}}, "id": row}
        for row, (text, label) in enumerate(generate_rows(60))
    ]
    write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    label = {"kind": "column", "column": "ticket.meta.kind"}
    assert run(tmp_path, text="ticket.body", label=label).labels == ["negative", "positive"]
    with pytest.raises(FormatError, match=r"holds objects, not texts; name a path into them: ticket.body, ticket.meta"):
        run(tmp_path, text="ticket", label=label)
    with pytest.raises(LabelError, match=r"is an object, not a label; name what is in it .*: ticket.body"):
        run(tmp_path, text="ticket.body", label={"kind": "column", "column": "ticket"})
    with pytest.raises(PotstillError, match=r"no column 'ticket.text'.*'ticket.body'"):
        run(tmp_path, text="ticket.text", label=label)


@pytest.mark.parametrize("form", ["array", "object", "lines", "indented"])
def test_json_in_its_forms(tmp_path: Path, form: str) -> None:
    rows = [{"text": text, "label": label} for text, label in generate_rows(60)]
    texts = {
        "array": json.dumps(rows),
        "object": json.dumps({"version": 2, "rows": rows}),
        "lines": "\n".join(map(json.dumps, rows)),
        "indented": json.dumps(rows, indent=2),
    }
    write(tmp_path, "a.json", texts[form])
    assert len(labels_of(run(tmp_path))) == 2


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    rows = generate_rows(60)
    names = {"negative": ["cafe\u0301", "café ", "\u200bcafé"], "positive": ["thé"] * 3}
    (tmp_path / "s").mkdir()
    with (tmp_path / "s" / "a.csv").open("w", newline="") as handle:
        out = csv.writer(handle)
        out.writerow(["text", "label"])
        out.writerows([text, names[label][row % 3]] for row, (text, label) in enumerate(rows))
    assert run(tmp_path).labels == ["café", "thé"]


def test_a_name_put_together_of_others_needs_a_decision(tmp_path: Path) -> None:
    lines = [f"{text},{('a', 'b', 'a|b')[row % 3]}" for row, (text, _) in enumerate(generate_rows(90))]
    write(tmp_path, "a.csv", "\n".join(["text,label", *lines]))
    with pytest.raises(LabelError, match=r"'a\|b' looks like several.*multi_label and prepare.label.separator to '\|'"):
        run(tmp_path)
    assert run(tmp_path, labels=["a", "b", "a|b"]).labels == ["a", "b", "a|b"]
    several = {"kind": "column", "column": "label", "separator": "|"}
    assert run(tmp_path, task="multi_label", label=several).labels == ["a", "b"]


def test_a_test_file_that_nobody_labelled(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", table())
    write(tmp_path, "test.csv", "text\n" + "\n".join(text for text, _ in generate_rows(20, seed=3)))
    with pytest.raises(PotstillError, match=r"test.csv has no column 'label'.*set `split: transfer` for this file"):
        run(tmp_path)
    tables = [{"source": "s", "files": "train.csv"}, {"source": "s", "files": "test.csv", "split": "transfer"}]
    assert len(run(tmp_path, tables=tables).splits["transfer"]) == 20


def test_sentences_of_words_in_a_tsv_file(tmp_path: Path) -> None:
    words = "\n\n".join(f"Ann{row}\tB-PER\nsings\tO\nin\tO\nBath{row}\tB-LOC" for row in range(60))
    write(tmp_path, "a.tsv", words)
    assert run(tmp_path, **ENTITIES).labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


@pytest.mark.parametrize(("name", "message"), [("a.xlsx", "is a spreadsheet; save the sheet as CSV UTF-8"),
                                            ("a.docx", "is a document; export its texts"),
                                            ("a.tar.gz", "is an archive; unpack it")])  # fmt: skip
def test_other_kinds_of_files_get_advice_that_fits(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path, name, b"PK\x03\x04")
    with pytest.raises(FormatError, match=message):
        run(tmp_path)


def test_a_file_that_unpacks_to_more_than_a_table_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from potstill.data.formats import compression

    monkeypatch.setattr(compression, "_SAFE_BYTES", 100_000)
    write(tmp_path, "a.csv.gz", gzip.compress(b"text,label\n" + b"x" * 10_000_000))
    with pytest.raises(FormatError, match=r"unpacks to more than \d+ MB, of 0.0; if that is right, unpack it"):
        run(tmp_path)


def test_flags_for_each_label_are_not_taken_for_names(tmp_path: Path) -> None:
    rows = [{"text": text, "label": [1, 0, 0]} for text, _ in generate_rows(60)]
    write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    for task in ("single_label", "multi_label"):
        with pytest.raises(LabelError, match="looks like a flag for each label"):
            run(tmp_path, task=task)


def test_backslashes_before_quotes(tmp_path: Path) -> None:
    lines = [f'"he said \\"{text}\\", so",{label}' for text, label in generate_rows(60)]
    write(tmp_path, "a.csv", "\n".join(["text,label", *lines]))
    result = run(tmp_path)
    assert all(row.text.startswith('he said "') for row in result.splits["train"])
    assert "escaped with a backslash" in " ".join(reading_notes(result.report))
    write(tmp_path, "a.csv", "\n".join(["text,label", *lines, '"a \\"b\\" c,d",e,f']))
    with pytest.raises(FormatError, match=r'a quote within a cell twice \(""\), not with a backslash'):
        run(tmp_path)


def test_labels_as_prodigys_spans(tmp_path: Path) -> None:
    rows = [
        {"text": f"Ann{row} sings", "spans": [{"start": 0, "end": 4, "label": "PER"}] if row % 3 else None,
         "answer": "reject" if row == 4 else "accept"}
        for row in range(10, 70)
    ]  # fmt: skip
    write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    result = run(tmp_path, task="token_classification", label={"kind": "spans", "column": "spans"})
    assert result.labels == ["O", "B-PER", "I-PER"]
    assert result.report["read"] == 60
