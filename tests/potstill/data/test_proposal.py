from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from potstill.data.proposals import table_summaries
from potstill.data.proposals.proposal import DataOptions, Proposal, propose
from potstill.data.proposals.table_summaries import summarize_files
from potstill.errors import MissingColumnError, PotstillError

TEXT = "a text that is long enough to be seen as one, number "
Row = dict[str, Any]


def proposed(folder: Path, rows: Sequence[Row], **options: Any) -> Proposal:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return propose(summarize_files(path), DataOptions(**options), "rows.jsonl")


def make_rows(count: int, row: Callable[[int], Row]) -> list[Row]:
    """Rows with a text each."""
    return [{"text": f"{TEXT}{number}"} | row(number) for number in range(count)]


NAMES = ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("row", "task", "why"),
    [
        (lambda at: {"label": NAMES[at % 3]}, "single_label", "3 different names"),
        (lambda at: {"label": [NAMES[at % 3]]}, "single_label", "every list in 'label' holds one label"),
        (lambda at: {"label": NAMES[: at % 4]}, "multi_label", "hold several labels"),
        (lambda at: {"label": str(NAMES[: 1 + at % 3])}, "multi_label", "hold several labels"),
        (lambda at: {"label": json.dumps({"choices": NAMES[: 1 + at % 3]})}, "multi_label", "hold several labels"),
        (lambda at: {"label": ";".join(NAMES[: 1 + at % 3])}, "multi_label", "with ';' between them"),
        (lambda at: {"label": 1 + at % 5}, "single_label", "5 different numbers taken for classes"),
        (lambda at: {"label": at / 7}, "regression", "many different numbers"),
        (lambda at: {"label": f"{at * 3}"}, "regression", "many different numbers"),
        (lambda at: {"label": at % 2 == 0}, "single_label", "2 different"),
        (lambda at: {"red": at % 2, "green": at % 3 % 2, "blue": 1}, "multi_label", "3 columns of 0 and 1"),
        (lambda at: {"spans": [{"start": 0, "end": 6, "label": "X"}]}, "token_classification", "spans of the text"),
        (lambda at: {"entities": [[0, 6, "X"]]}, "token_classification", "spans of the text"),
    ],
)
def test_the_task_follows_from_the_labels(tmp_path: Path, row: Callable[[int], Row], task: str, why: str) -> None:
    proposal = proposed(tmp_path, make_rows(120, row))
    assert proposal.task == task
    assert why in proposal.why


def test_names_with_commas_are_no_lists_of_names(tmp_path: Path) -> None:
    places = ["Tobago, Trinidad and", "Congo, Democratic Republic", "Korea, North", "France"]
    proposal = proposed(tmp_path, make_rows(100, lambda at: {"label": places[at % 4]}))
    assert (proposal.task, "separator" in proposal.section["label"]) == ("single_label", False)


def test_words_and_tags_are_entities(tmp_path: Path) -> None:
    words, tags = ["Anna", "lives", "in", "Bath"], ["B-P", "O", "O", "B-L"]
    rows = [{"tokens": [*words, str(at)], "ner_tags": [*tags, "O"]} for at in range(30)]
    assert proposed(tmp_path, rows).section["label"] == {"kind": "tags", "column": "ner_tags"}
    chinese = [{"tokens": list("安娜住在巴斯"), "ner_tags": ["B-P", "I-P", "O", "O", "B-L", "I-L"]}] * 30
    assert proposed(tmp_path, chinese).section["label"]["between"] == ""


def test_two_columns_of_texts_are_a_pair(tmp_path: Path) -> None:
    rows = [{"premise": f"{TEXT}{at}", "hypothesis": f"{TEXT}{at * 2}", "label": "ab"[at % 2]} for at in range(60)]
    assert proposed(tmp_path, rows).section["text"] == ["premise", "hypothesis"]
    assert proposed(tmp_path, rows, text=["premise"]).section["text"] == "premise"
    with pytest.raises(PotstillError, match="pairs needs two columns"):
        proposed(tmp_path, rows, text=["premise"], task="pairs")


def test_answers_are_questions_about_a_context(tmp_path: Path) -> None:
    answers = {"text": ["long"], "answer_start": [15]}
    rows = [{"question": f"How is it {at}?", "context": f"{TEXT}{at}", "answers": answers} for at in range(20)]
    proposal = proposed(tmp_path, rows)
    assert (proposal.task, proposal.section["text"]) == ("question_answering", ["question", "context"])


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    rows = make_rows(60, lambda at: {"label": "ab"[at % 2], "author": "me", "nothing": None})
    assert "not read: 'author'" in proposed(tmp_path, rows).notes


def test_a_text_inside_an_object_has_a_path(tmp_path: Path) -> None:
    rows = [{"ticket": {"body": f"{TEXT}{at}", "queue": "ab"[at % 2]}} for at in range(60)]
    proposal = proposed(tmp_path, rows, text=["ticket.body"], label=["ticket.queue"])
    assert (proposal.section["text"], proposal.section["label"]["column"]) == ("ticket.body", "ticket.queue")
    with pytest.raises(MissingColumnError, match=r"ticket\.body"):
        proposed(tmp_path, rows, text=["ticket.bodi"], label=["ticket.queue"])


@pytest.mark.parametrize(
    ("row", "options", "words"),
    [
        (lambda at: {"label": "ab"[at % 2] if at else None}, {}, "1 with an empty label"),
        (lambda at: {"label": "ab"[at % 2] if at else "nan"}, {}, "1 with a word such as nan"),
        (lambda at: {"label": at % 3 - 1}, {}, "20 with the label -1 (if it is a class: --labels=-1,0,1)"),
        (lambda at: {"other": f"{TEXT}again {at}", "label": "ab"[at % 2]}, {"text": ["label"]}, "name the label"),
        (lambda at: {"one": "ab"[at % 2], "two": "cd"[at % 2]}, {}, "'one' and 'two' may each be it"),
        (lambda at: {"label": f"{TEXT}as a label {at}"}, {}, "looks like texts, not like names of classes"),
        (lambda at: {"label": {"deep": 1}}, {"label": ["label"]}, "has no names of classes"),
        (lambda at: {"label": "ab"[at % 2]}, {"task": "multi_label"}, "holds several labels"),
        (lambda at: {"label": "ab"[at % 2]}, {"task": "answers"}, "--text question,context"),
        (lambda at: {"label": "ab"[at % 2]}, {"task": "entities"}, "entities need lists of words"),
        (lambda at: {"label": at % 2}, {"labels": ["no", "yes"]}, "holds integers, but --labels names no, yes"),
        (lambda at: {"label": "ab"[at % 2]}, {"unlabelled": "drop"}, "--unlabelled 'drop' is not known"),
        (lambda at: {"label": "ab"[at % 2]}, {"text": ["a", "b", "c"]}, "a text is one, a pair is two"),
    ],
)
def test_ambiguous_data_is_refused_with_a_question(
    tmp_path: Path, row: Callable[[int], Row], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(PotstillError) as error:
        proposed(tmp_path, make_rows(60, row), **options)
    assert words in str(error.value)


def test_minus_one_may_be_a_class_or_no_label(tmp_path: Path) -> None:
    rows = make_rows(60, lambda at: {"label": at % 3 - 1})
    assert proposed(tmp_path, rows, labels=["-1", "0", "1"]).section["labels"] == [-1, 0, 1]
    assert proposed(tmp_path, rows, unlabelled="transfer").section["label"]["missing"] == [-1]


def test_a_name_among_integers_beyond_the_sample_is_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_summaries, "_SAMPLE_VALUES", 20)
    rows = make_rows(60, lambda at: {"label": "x" if at == 1 else at % 3 - 1})
    assert proposed(tmp_path, rows).section["label"] == {"kind": "column", "column": "label"}


def test_an_ambiguous_text_is_refused_with_the_columns(tmp_path: Path) -> None:
    rows = [{"title": f"{TEXT}{at}", "body": f"{TEXT}{at * 2}", "label": "ab"[at % 2]} for at in range(60)]
    with pytest.raises(PotstillError, match=r"name the text with --text, as 'title' and 'body' may each be it; it has"):
        proposed(tmp_path, rows)
