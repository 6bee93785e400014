from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.config.prepare_params import Prepare
from potstill.data.preparation import Prepared, prepare
from potstill.errors import LabelError, MissingColumnError, OneClassError, ParamsError, PotstillError, SmallClassError
from potstill.labels.tags import entities_of
from tests.marked import question_rows, tagged_rows, write_jsonl

TAGS = {"task": "token_classification", "text": "tokens", "label": {"kind": "tags", "column": "tags"}}
ANSWERS = {"task": "question_answering", "text": ["question", "context"], "label": {"kind": "answers"}}


def prepared(folder: Path, rows: list[dict[str, Any]], **params: Any) -> Prepared:
    write_jsonl(folder / "s" / "rows.jsonl", rows)
    return prepare(folder, Prepare.model_validate({"tables": [{"source": "s"}]} | params))


def entities(result: Prepared, split: str) -> dict[str, list[tuple[str, str]]]:
    """Text -> type and characters of its entities, from the column that the stage writes."""
    actual = {}
    for row in result.table(split).to_pylist():
        tags = [str(result.labels[tag]) for _, _, tag in row["label"]]
        spans = [(row["label"][a][0], row["label"][b - 1][1], kind) for kind, a, b in entities_of(tags)]
        actual[row["text"]] = [(kind, row["text"][start:end]) for start, end, kind in spans]
    return actual


def test_entities_cover_their_words(tmp_path: Path) -> None:
    rows = tagged_rows(80)
    result = prepared(tmp_path, rows, **TAGS)
    assert result.labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert sum(map(len, result.splits.values())) == 80
    expected = {}
    for row in rows:
        names = [(kind, " ".join(row["tokens"][a:b])) for kind, a, b in entities_of(row["tags"])]
        expected[" ".join(row["tokens"])] = names
    for split in ("train", "dev", "test"):
        actual = entities(result, split)
        assert actual
        assert actual == {text: expected[text] for text in actual}
        report = result.report["splits"][split]
        assert report["entities"]["PER"] == sum(kind == "PER" for names in actual.values() for kind, _ in names)
        assert set(report["classes"]) == {"LOC", "PER"}


def test_spans_give_what_tags_give(tmp_path: Path) -> None:
    rows = tagged_rows(60)
    spans = []
    for row in rows:
        text = " ".join(row["tokens"])
        starts = [len(" ".join(row["tokens"][:index])) + bool(index) for index in range(len(row["tokens"]))]
        ends = [start + len(word) for start, word in zip(starts, row["tokens"], strict=True)]
        marks = [{"start": starts[a], "end": ends[b - 1], "label": kind} for kind, a, b in entities_of(row["tags"])]
        spans.append({"text": text, "spans": marks})
    by_tags = prepared(tmp_path / "tags", rows, **TAGS)
    label = {"kind": "spans", "column": "spans"}
    by_spans = prepared(tmp_path / "spans", spans, task="token_classification", text="text", label=label)
    assert by_spans.table("train").equals(by_tags.table("train"))


def test_tagged_words_and_plain_transfer_lines(tmp_path: Path) -> None:
    rows = [
        {"line": " ".join(f"{w}/{t}" for w, t in zip(r["tokens"], r["tags"], strict=True))} for r in tagged_rows(60)
    ]
    for row in rows:
        row["line"] = row["line"].replace("/B-PER", "/p").replace("/I-PER", "/p").replace("/B-LOC", "/l")
    write_jsonl(tmp_path / "s" / "plain" / "more.jsonl", [{"line": f"the camera number {index}"} for index in range(5)])
    label = {"kind": "words", "types": {"p": "PER", "l": "LOC"}, "joined": ["p"]}
    tables = [{"source": "s", "files": "*.jsonl"}, {"source": "s", "files": "plain/*", "split": "transfer"}]
    result = prepared(tmp_path, rows, task="token_classification", text="line", label=label, tables=tables,
                      near_duplicate=None)  # fmt: skip
    assert [row.text for row in result.splits["transfer"]] == [f"the camera number {index}" for index in range(5)]
    assert result.table("transfer").column("label").null_count == 5
    assert result.report["splits"]["train"]["entities"]["PER"] > 0


def test_copies_with_other_tags_are_contradictions(tmp_path: Path) -> None:
    rows = tagged_rows(60)
    other = {"tokens": rows[0]["tokens"], "tags": ["O"] * len(rows[0]["tags"])}
    rows[0]["tags"][0] = "B-PER"
    result = prepared(tmp_path, [*rows, other, rows[1]], **TAGS)
    assert result.report["removed"]["contradicting labels"] == 2
    assert result.report["removed"]["copies"] == 1


def test_types_may_be_declared_and_keep_their_order(tmp_path: Path) -> None:
    result = prepared(tmp_path, tagged_rows(60), **TAGS, labels=["PER", "LOC"])
    assert result.labels[1] == "B-PER"
    with pytest.raises(LabelError, match=r"entities of type 'PER', which is not one of prepare.labels \(LOC\)"):
        prepared(tmp_path, tagged_rows(60), **TAGS, labels=["LOC"])


def test_class_names_of_a_saved_dataset_are_tags(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, List, Value

    rows, names = tagged_rows(60), ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    ids = [{"tokens": row["tokens"], "tags": [names.index(tag) for tag in row["tags"]]} for row in rows]
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=names))})
    Dataset.from_list(ids, features=features).save_to_disk(str(tmp_path / "s"))
    saved = prepare(tmp_path, Prepare.model_validate({"tables": [{"source": "s"}]} | TAGS))
    assert saved.table("dev").equals(prepared(tmp_path / "lists", rows, **TAGS).table("dev"))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"tokens": ["a", "b"], "tags": ["O"]}], LabelError, r"rows.jsonl, line 1 has 2 words and 1 tags"),
        (
            [{"tokens": ["a", "b", "c"], "tags": ["I-X", "O", "B-X"]}],
            LabelError,
            r"rows.jsonl, line 1: 'I-X' \(word 1\) continues no X",
        ),
        ([{"tokens": ["a"], "tags": [{"start": 0}]}], LabelError, r"not a list of BIO tags"),
        ([{"tokens": ["a"]}, {"tokens": ["b"], "tags": ["O"]}], LabelError, r"line 1 has no tags in column 'tags'"),
        ([{"tokens": ["a"], "tag": ["O"]}], MissingColumnError, "no column 'tags'; did you mean 'tag'"),
        ([{"tokens": [w], "tags": ["O"]} for w in "ab"], OneClassError, "none of the labelled rows has an entity"),
        (
            [{"tokens": [w], "tags": ["B-X" if w == "a" else "O"]} for w in "abcdefghijkl"],
            SmallClassError,
            r"the class 'X' \(1 row, none in",
        ),
    ],
)
def test_tags_that_cannot_be_used(
    tmp_path: Path, rows: list[dict[str, Any]], error: type[PotstillError], message: str
) -> None:
    with pytest.raises(error, match=message):
        prepared(tmp_path, rows, **TAGS)


def test_answers_keep_their_text_and_a_context_is_in_one_split(tmp_path: Path) -> None:
    rows = question_rows(60)
    rows[0]["context"] = rows[0]["context"].replace(" ", "  ", 1)  # cleaning moves what comes after
    rows[0]["answers"]["answer_start"][0] += rows[0]["answers"]["answer_start"][0] > 0
    rows += [row | {"question": "the sister"} for row in rows[:30]]
    result = prepared(tmp_path, rows, **ANSWERS, near_duplicate=None)
    assert result.labels == ["start", "end"]
    home: dict[str, str] = {}
    expected = {" ".join(row["context"].split()): row["answers"]["text"][0] for row in rows}
    for split in ("train", "dev", "test"):
        for row in result.table(split).to_pylist():
            ((start, end),) = row["label"]
            assert row["text_pair"][start:end] == expected[row["text_pair"]]
            assert home.setdefault(row["text_pair"], split) == split
    assert len(home) == 60
    assert sum(map(len, result.splits.values())) == 90


def test_a_context_may_have_no_answer(tmp_path: Path) -> None:
    rows = question_rows(60)
    rows[0]["answers"] = {"text": [], "answer_start": []}
    result = prepared(tmp_path, rows, **ANSWERS)
    counts = [result.report["splits"][split]["classes"]["no answer"] for split in ("train", "dev", "test")]
    assert sum(counts) == 1


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["island"], "answer_start": [1]}, "the answer 'island' is not at character 1 of its context, where"),
        ({"text": ["island"], "answer_start": []}, "has 1 answers and 0 starts"),
        ("island", "the answers are 'island'; write"),
        ({"text": [" "], "answer_start": [3]}, "is no text with a start"),
    ],
)
def test_answers_that_cannot_be_used(tmp_path: Path, answers: Any, message: str) -> None:
    rows = [{"question": "where", "context": "the island", "answers": answers}]
    with pytest.raises(LabelError, match=f"rows.jsonl, line 1.*{message}"):
        prepared(tmp_path, rows, **ANSWERS)


def test_a_static_student_has_no_positions() -> None:
    from potstill.config.params_file import parse_params
    from potstill.config.yaml_file import read_params
    from tests.conftest import REPOSITORY

    whole = read_params(REPOSITORY / "params.yaml")
    whole["prepare"] |= {"labels": None, "augment": None} | TAGS
    whole["gate"] |= {"min_accuracy": None}
    parse_params(whole)
    whole["distill"] |= {"student": {"kind": "static"}}
    said = r"distill\.student\.kind static is for tasks about whole texts, but prepare\.task is token_classification"
    with pytest.raises(ParamsError, match=said):
        parse_params(whole)


@pytest.mark.parametrize(
    ("section", "values"),
    [("tokenize", {"vocabulary": {}}), ("ingest", {"student": {"kind": "file", "path": "other"}})],
)
def test_questions_may_be_read_in_other_tokens_than_the_teachers(section: str, values: dict[str, Any]) -> None:
    from potstill.config.params_file import parse_params
    from potstill.config.yaml_file import read_params
    from tests.conftest import REPOSITORY

    whole = read_params(REPOSITORY / "params.yaml")
    whole["prepare"] |= {"labels": None, "augment": None} | ANSWERS
    whole["gate"] |= {"min_accuracy": None, "min_macro_f1": None, "max_ece": None}
    whole["validate"] |= {"min_per_class": None, "max_class_share": None}
    whole["distill"]["student"] = {"kind": "checkpoint" if section == "ingest" else "layers"}
    whole[section] = whole.get(section, {}) | values
    parse_params(whole)
    whole["distill"]["student"] = {"kind": "static"}
    whole["ingest"].pop("student", None)
    with pytest.raises(ParamsError, match=r"kind static is for tasks about whole texts, but prepare\.task is question"):
        parse_params(whole)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"task": "token_classification"}, "use tags or spans or words"),
        ({"task": "single_label", "label": {"kind": "tags", "column": "tags"}}, "label.kind is tags"),
        (TAGS | {"text": ["a", "b"]}, "token_classification reads single texts"),
        (ANSWERS | {"text": "a"}, r"name two columns under text: \[question, context\]"),
        (ANSWERS | {"labels": ["a", "b"]}, "labels is given, but"),
        (TAGS | {"label": {"kind": "words", "types": {"nr": "PER"}, "joined": ["ns"]}}, "joined names 'ns'"),
    ],
)
def test_params_that_do_not_fit_the_task(params: dict[str, Any], message: str) -> None:
    from potstill.config.params_file import parse_params
    from potstill.config.yaml_file import read_params
    from tests.conftest import REPOSITORY

    whole = read_params(REPOSITORY / "params.yaml")
    whole["prepare"] |= {"labels": None, "augment": None} | params
    with pytest.raises(ParamsError, match=message):
        parse_params(whole)
