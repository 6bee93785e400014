"""Tests that params and a user's file of templates ask for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.config.behaviour_params import Behaviour
from potstill.config.evaluation_params import Evaluate
from potstill.config.params_file import parse_params
from potstill.config.yaml_file import parse_section, read_params
from potstill.errors import ParamsError
from potstill.evaluation.behaviour.cases import Case
from potstill.evaluation.behaviour.suite import make_suite
from potstill.evaluation.behaviour.templates import read_templates, template_tests
from tests.conftest import REPOSITORY

LABELS = ["negative", "positive"]
FILE = """
slots:
  thing: [film, cast]
tests:
  - name: negated praise
    kind: mft
    text: "The {thing} was not {good}."
    slots: {good: [good, great, "{odd}"]}
    label: negative
  - name: people
    kind: inv
    text: "{first} liked the {thing}."
    changed: "{second} liked the {thing}."
    slots: {first: [Anna, Lu], second: [Anna, Ben]}
  - name: stronger
    kind: dir
    text: "{{The}} {thing} was good."
    changed: "{{The}} {thing} was very good."
    label: positive
    direction: rises
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "behaviour.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_templates_are_filled_in(tmp_path: Path) -> None:
    file = read_templates(write(tmp_path, FILE), "single_label", LABELS, pair=False)
    praise, people, stronger = template_tests(file, rows=100, seed=0)
    assert (praise.kind, len(praise.cases)) == ("MFT", 6)
    assert praise.cases[0] == Case("The film was not good.", None, "negative")
    assert praise.cases[-1] == Case("The cast was not {odd}.", None, "negative")
    assert people.cases[0] == Case("Anna liked the film.", "Ben liked the film.", None)
    assert len(people.cases) == 6  # Anna and Anna are the same text
    assert (stronger.kind, stronger.direction) == ("DIR", "rises")
    assert stronger.cases[0] == Case("{The} film was good.", "{The} film was very good.", "positive")


def test_many_cases_are_drawn_by_seed(tmp_path: Path) -> None:
    slots = "".join(f"  s{number}: [{', '.join(f'w{word}' for word in range(99))}]\n" for number in range(12))
    text = " ".join(f"{{s{number}}}" for number in range(12))
    path = write(tmp_path, f"slots:\n{slots}tests:\n  - {{name: t, kind: mft, text: '{text}', label: positive}}\n")
    file = read_templates(path, "single_label", LABELS, pair=False)
    (first,) = template_tests(file, rows=50, seed=1)
    assert len({case.text for case in first.cases}) == 50
    assert [first] == template_tests(file, rows=50, seed=1)
    assert [first] != template_tests(file, rows=50, seed=2)


def one(**test: Any) -> str:
    values = {"name": "mine", "kind": "mft", "text": "good", "label": "positive"} | test
    return "tests: [{" + ", ".join(f"{key}: {value}" for key, value in values.items() if value is not None) + "}]"


@pytest.mark.parametrize(
    ("text", "task", "sentence"),
    [
        ("tests: [", "single_label", "(evaluate.behaviour.templates) cannot be read as YAML: "),
        ("- a", "single_label", "behaviour.yaml must be a mapping with tests"),
        ("slots: {}", "single_label", "tests is missing"),
        (one(lable="positive"), "single_label", "unknown key 'tests.0.lable'; did you mean 'label'?"),
        (one(kind="mtf"), "single_label", "does not match any of the expected tags: 'mft', 'inv', 'dir'"),
        (one(label="yes"), "single_label", 'tests.0.label: YAML reads yes as true; quote it: "yes"'),
        (one(label="good"), "single_label", "tests.0.label = 'good': it has to be one of negative, positive"),
        (one(label=None), "single_label", "tests.0.label is missing; it has to be one of negative, positive"),
        (one(label="[positive]"), "single_label", "a text has one label; name one of negative, positive"),
        (one(number=1.0), "single_label", "the model answers labels; write label instead"),
        (one(), "regression", "tests.0.label = 'positive': the model answers numbers; remove it"),
        (one(label=None), "regression", "tests.0.number is missing"),
        (one(text="'{thing}'"), "single_label", "tests.0: {thing} has no values; known slots: none"),
        (one(slots="{a: [b]}"), "single_label", "tests.0.slots names 'a', which no text of the test has; remove it"),
        (one(text="'{a b}'"), "single_label", "tests.0.text = '{a b}': {a b} is no slot; a slot is a name in braces"),
        (one(text="'{a!r}'"), "single_label", "{a} is no slot"),
        (one(text="'{'"), "single_label", "write {{ or }} for a brace of the text"),
        (one(text="[a, b]"), "single_label", "tests.0.text = ['a', 'b']: the model reads single texts; write one text"),
        (one(kind="dir", changed="b", direction="up"), "single_label", "tests.0.direction = 'up': input should be"),
        (one(kind="inv", label=None), "single_label", "tests.0.changed is missing"),
        (one(name="names"), "single_label", "tests.0.name: 'names' is a test of Potstill's; choose another name"),
        (one()[:-1] + ", " + one()[8:], "single_label", "tests.1.name: two tests are called 'mine'; rename one"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(text: str, task: Any, sentence: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ParamsError) as caught:
        read_templates(path, task, LABELS, pair=False)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_missing_file_and_a_single_text_for_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"nothing\.yaml .*evaluate\.behaviour\.templates.* No such file"):
        read_templates(tmp_path / "nothing.yaml", "single_label", LABELS, pair=False)
    with pytest.raises(ParamsError, match="the model reads pairs; write"):
        read_templates(write(tmp_path, one()), "single_label", LABELS, pair=True)
    file = read_templates(write(tmp_path, one(text="[a, b]")), "single_label", LABELS, pair=True)
    assert template_tests(file, rows=1, seed=0)[0].cases == (Case(("a", "b"), None, "positive"),)


def test_a_suite_has_the_tests_of_the_language_and_the_templates(tmp_path: Path) -> None:
    behaviour = Behaviour(templates=str(write(tmp_path, FILE)), rows=2)
    suite = make_suite(behaviour, "single_label", LABELS, ["服务很好", "早餐不好"], LABELS, pair=False, seed=0)
    assert suite.language == "zh"
    names = [test.name for test in suite.tests]
    assert "character_doubled" in names
    assert "typo_swap" not in names
    assert names[-3:] == ["negated praise", "people", "stronger"]
    assert len(suite.tests[-3].cases) == 2


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tests": ["case_lover"]}, "evaluate.behaviour.tests.0 = 'case_lover': input should be 'typo_swap', "),
        (
            {"tests": ["script"], "language": "en"},
            "names script, which is not for language en; choose from typo_",
        ),
        ({"tests": ["negation"]}, "tests names negation, but negated_labels is empty; name the labels there"),
        ({"tolerance": 0}, "evaluate.behaviour.tolerance = 0: input should be greater than 0"),
    ],
)
def test_params_that_do_not_fit_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parse_section("evaluate", Evaluate, {"behaviour": values})
    assert sentence in str(caught.value)


def test_tests_that_say_nothing_about_the_task_are_refused() -> None:
    params = read_params(REPOSITORY / "params.yaml")
    params["evaluate"]["behaviour"] = {"tests": ["space_around"]}
    parse_params(params)
    params["gate"] = {}
    params["prepare"]["task"] = "token_classification"
    params["prepare"]["label"] = {"kind": "tags", "column": "tags"}
    with pytest.raises(ParamsError, match=r"names space_around, which says nothing about a token_classification task;"):
        parse_params(params)
