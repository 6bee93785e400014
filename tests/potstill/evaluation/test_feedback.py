from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.config.serving_params import Watch
from potstill.errors import EmptyDataError, FetchError, FormatError, LabelError, MissingColumnError, PotstillError
from potstill.evaluation.feedback import measure, read_answers, read_labels
from potstill.inference.profile import Profile
from potstill.inference.window_store import ANSWERS, FolderStore, text_sha256
from tests.conftest import REPOSITORY
from tests.potstill.inference.test_profile import TASKS, model_card, observe, prediction, profile_of


def profile(task: str = "classification", *, tested: float = 0.9) -> Profile:
    model_profile, answers, _ = TASKS[task]
    if task != "classification":
        return profile_of(observe(*answers), model_profile)
    rows = observe(*[prediction("no", 0.9, 0.1)] * 100)
    return profile_of(rows, model_card(), (np.arange(100) < 100 * tested).astype(np.float64))


def answer(request: str, label: Any, position: int = 0, **more: Any) -> dict[str, Any]:
    return {"request_id": request, "position": position, "time": 1.0, "label": label, "confidence": 0.8, **more}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_accuracy_on_labels_that_arrived(tmp_path: Path) -> None:
    labels = "request_id,position,label\n" + "".join(f"r{at // 2},{at % 2},yes\n" for at in range(100))
    parsed_labels = read_labels(write(tmp_path / "labels.csv", labels), "single_label")
    answers = [answer(f"r{at // 2}", "yes" if at < 60 else "no", at % 2) for at in range(80)]
    measured = measure(parsed_labels, iter(answers), profile(), Watch())
    assert (measured.measure, measured.value, measured.labels, measured.matched) == ("accuracy", 0.75, 100, 80)
    assert measured.low < 0.75 < measured.high < 0.85
    assert measured.drifts  # 90% on the test texts, and 5 points are tolerated
    assert measured.estimate is not None
    assert measured.estimate.accuracy == pytest.approx(0.8)
    assert measured.sentence == (
        "accuracy 75.0% (64.5–83.2) on 80 of 100 labels; 90.0% on test, estimated without labels 80.0%"
    )
    assert not measure(parsed_labels, iter(answers), profile(), Watch(max_accuracy_drop=0.2)).drifts
    assert not measure(parsed_labels, iter(answers), profile(), Watch(max_accuracy_drop=None)).drifts


NAMES = ["100%", "a/b, c", "billing: refund", "😀 happy"]


def named_profile(*names: str) -> Profile:
    share = 1 / len(names)
    return profile_of(
        observe(*[prediction(name, *[share] * len(names)) for name in names] * 9), model_card(labels=names)
    )


@pytest.mark.parametrize("case", ["ok", "space", "case"])
def test_names_are_normalised_as_those_of_training_data(case: str) -> None:
    folder = REPOSITORY / "tests" / "cases" / "feedback"
    right = read_labels(folder / "fb-ok.csv", "single_label")
    answers = [answer(request, label, position) for (request, position), label in right.items()]  # type: ignore[misc]
    parsed_labels = read_labels(folder / f"fb-{case}.csv", "single_label")
    assert measure(parsed_labels, iter(answers), named_profile(*NAMES), Watch()).value == 1


def test_a_label_that_the_model_does_not_have_is_refused_and_named() -> None:
    parsed_labels = read_labels(REPOSITORY / "tests" / "cases" / "feedback" / "fb-typo.csv", "single_label")
    words = r"does not have the label 'bilings' \(\d+ times; did you mean 'billing'\?\); it has billing, right: correct"
    with pytest.raises(LabelError, match=words):
        measure(parsed_labels, iter([]), named_profile("billing", "right"), Watch())


def test_letter_case_decides_where_two_labels_differ_in_it_alone() -> None:
    model_profile = named_profile("right", "Right")
    answers = [answer("a", "Right"), answer("b", "right")]
    assert measure({("a", 0): "Right", ("b", 0): "Right"}, iter(answers), model_profile, Watch()).value == 0.5
    with pytest.raises(LabelError, match="'RIGHT'"):
        measure({("a", 0): "RIGHT"}, iter(answers), model_profile, Watch())


def test_an_entity_type_that_the_model_does_not_have_is_refused() -> None:
    model_profile = profile("token_classification")
    types = model_profile.features["label"].names
    said = [[types[0], 0, 3]]
    answers = [answer("a", said)]
    assert measure({("a", 0): frozenset({(types[0].lower(), 0, 3)})}, iter(answers), model_profile, Watch()).value == 1
    with pytest.raises(LabelError, match="does not have the label 'NEVER'"):
        measure({("a", 0): frozenset({("NEVER", 0, 3)})}, iter(answers), model_profile, Watch())


def test_a_list_of_one_is_its_element(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", "request_id,label\na,\"['yes']\"\nb,[no]\n")
    assert read_labels(path, "single_label")[("a", 0)] == "yes"
    with pytest.raises(LabelError, match="no label of single_label"):
        read_labels(write(path, "request_id,label\na,\"['yes', 'no']\"\n"), "single_label")


def test_labels_can_be_of_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.jsonl", '{"text": "good", "label": "yes"}\n{"text": "bad", "label": "no"}\n')
    parsed_labels = read_labels(path, "single_label")
    assert parsed_labels == {text_sha256("good"): "yes", text_sha256("bad"): "no"}
    answers = [answer("a", "no", text_sha256=text_sha256("good")), answer("b", "yes", text_sha256=text_sha256("good"))]
    assert (measure(parsed_labels, iter(answers), profile(), Watch()).value) == 1  # the last answer counts
    path = write(tmp_path / "sums.csv", f"text_sha256,label\n{text_sha256('good')},yes\n")
    assert read_labels(path, "single_label") == {text_sha256("good"): "yes"}
    path = write(tmp_path / "pairs.csv", "text,text_pair,label\na,b,yes\n")
    assert read_labels(path, "single_label") == {text_sha256(("a", "b")): "yes"}


@pytest.mark.parametrize(
    ("task", "said", "right", "wrong"),
    [
        ("multi_label", ["a", "b"], ["b", "a"], ["a"]),
        ("multi_label", ["a", "b"], ["B ", "a"], ["a", "c"]),
        ("token_classification", [["LOC", 2, 5], ["PER", 7, 9]], [["PER", 7, 9], ["LOC", 2, 5]], [["LOC", 2, 4]]),
        ("question_answering", [3, 8], [3, 8], None),
        ("question_answering", None, None, [3, 8]),
    ],
)
def test_an_answer_of_several_parts_is_right_in_all_or_wrong(
    task: str, said: Any, right: Any, wrong: Any, tmp_path: Path
) -> None:
    model_profile = profile(task)
    rows = [{"request_id": "a", "label": right}, {"request_id": "b", "label": wrong}]
    path = write(tmp_path / "labels.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    parsed_labels = read_labels(path, model_profile.task)
    measured = measure(parsed_labels, iter([answer("a", said), answer("b", said)]), model_profile, Watch())
    assert (measured.value, measured.matched, measured.estimate, measured.drifts) == (0.5, 2, None, False)


def test_lists_in_a_csv_are_json(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", 'request_id,label\na,"[""x"", ""y""]"\n')
    assert read_labels(path, "multi_label") == {("a", 0): frozenset({"x", "y"})}


def test_the_error_of_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", "request_id,label\na,1.0\nb,2\nc,3\n")
    model_profile = profile("regression")
    measured = measure(
        read_labels(path, "regression"), iter([answer("a", 1.5), answer("b", 1.5)]), model_profile, Watch()
    )
    assert (measured.measure, measured.value, measured.matched) == ("mean absolute error", 0.5, 2)
    assert measured.low == measured.high == 0.5
    assert measured.sentence == "mean absolute error 0.5 (0.5–0.5) on 2 of 3 labels"


@pytest.mark.parametrize(
    ("name", "content", "task", "error", "said"),
    [
        ("labels.txt", "a", "single_label", FormatError, "names no known format"),
        ("labels.csv", "request_id,gold\na,b\n", "single_label", MissingColumnError, "no column 'label'"),
        ("labels.csv", "id,label\na,b\n", "single_label", MissingColumnError, "does not say what"),
        ("labels.csv", "request_id,position,label\na,x,b\n", "single_label", FormatError, "whole number"),
        ("labels.csv", "request_id,label\na,\n", "single_label", LabelError, "line 2 has no label"),
        ("labels.csv", "request_id,label\na,high\n", "regression", LabelError, "'high' is no label of regression"),
        ("labels.csv", "request_id,label\na,nan\n", "regression", LabelError, "'nan' is no label of regression"),
        ("labels.csv", "request_id,label\na,x\n", "multi_label", LabelError, "no label of multi_label"),
        ("labels.jsonl", '{"request_id": "a", "label": [1]}', "question_answering", LabelError, "no label of"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(
    name: str, content: str, task: Any, error: type[PotstillError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        read_labels(write(tmp_path / name, content), task)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="does not exist"):
        read_labels(tmp_path / "none.csv", "single_label")


def test_labels_of_nothing_that_was_answered() -> None:
    with pytest.raises(EmptyDataError, match=r"none of the 1 labels is of an answer that was kept$"):
        measure({("a", 0): "yes"}, iter([answer("b", "yes")]), profile(), Watch())
    with pytest.raises(EmptyDataError, match=r"watch\.hash_texts"):
        measure({text_sha256("a"): "yes"}, iter([answer("b", "yes")]), profile(), Watch())


def test_answers_are_read_in_order_and_damaged_lines_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FolderStore(tmp_path)
    store.write(f"2{ANSWERS}", json.dumps(answer("b", "x")) + "\n")
    store.write(f"1{ANSWERS}", json.dumps(answer("a", "x")) + "\n")
    store.write("1.texts.jsonl", "{}\n")
    assert [line["request_id"] for line in read_answers(store)] == ["a", "b"]
    assert capsys.readouterr().out == ""
    store.write(f"3{ANSWERS}", '{"request_id": "c"}\n{\n' + json.dumps(answer("d", "x")) + "\n")
    (tmp_path / f"0{ANSWERS}").write_bytes(b"\xff\xfe")
    assert [line["request_id"] for line in read_answers(store)] == ["a", "b", "d"]
    said = capsys.readouterr().out
    assert "3.answers.jsonl: 2 lines are no answer and are left out, the first is 1" in said
    assert "0.answers.jsonl cannot be read" in said
