from __future__ import annotations

import re
from typing import Any

import pytest

from potstill.config.params_file import parse_params
from potstill.config.yaml_file import read_params
from potstill.errors import ParamsError
from tests.conftest import REPOSITORY

NUMBERS = {"task": "regression", "label": {"kind": "number", "column": "stars"}, "labels": None, "augment": None}


def _parse(evaluate: dict[str, Any], prepare: dict[str, Any]) -> None:
    params = read_params(REPOSITORY / "params.yaml")
    params["evaluate"] = params.get("evaluate", {}) | evaluate
    params["prepare"] |= prepare
    params["gate"] = {}
    if params["prepare"].get("task") == "regression":  # limits on classes
        params["validate"] = {key: value for key, value in params["validate"].items() if "class" not in key}
    parse_params(params)


@pytest.mark.parametrize(
    ("evaluate", "prepare", "message"),
    [
        ({"abstention": {}}, NUMBERS, "prepare.task is regression, whose numbers are neither right nor wrong"),
        ({"abstention": {"right": 1.2}}, {}, "evaluate.abstention.right = 1.2: input should be less than 1"),
        ({"slices": {"min_rows": 1}}, {}, "evaluate.slices.min_rows = 1: input should be greater than or equal to 2"),
        (
            {"slices": {"length_bands": 1}},
            {},
            "evaluate.slices.length_bands = 1: input should be greater than",
        ),
        ({"slices": {"length_limits": [0]}}, {}, "evaluate.slices.length_limits.0 = 0: input should be greater than 0"),
        ({"slices": {"false_discovery_rate": 0.0}}, {}, "evaluate.slices.false_discovery_rate = 0.0"),
        (
            {"slices": {"length_limits": [9, 3]}},
            {},
            "evaluate.slices: length_limits is [9, 3]; name lengths in",
        ),
        ({"slices": {"label": True}}, NUMBERS, "evaluate.slices.label is true, but a regression has no classes"),
        (
            {"slices": {"columns": ["sauce"]}},
            {"keep_columns": ["source"]},
            "evaluate.slices.columns names the column 'sauce', but there is source; prepare.keep_columns keeps",
        ),
        (
            {"slices": {"expressions": {"short": "lenght < 3"}}},
            {},
            "evaluate.slices.expressions.short names the column 'lenght', but there is length, text, label",
        ),
        (
            {"slices": {"expressions": {"bad": 'open("x") > 1'}}},
            {},
            "evaluate.slices: expressions.bad: 'open(\"x\") > 1' holds Call; an expression compares columns",
        ),
        ({}, {"keep_columns": ["label"]}, "keep_columns names 'label', which is a column of every split"),
    ],
)
def test_what_does_not_fit_is_refused(evaluate: dict[str, Any], prepare: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        _parse(evaluate, prepare)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_fits() -> None:
    slices = {
        "length_limits": [100, 500],
        "columns": ["source"],
        "expressions": {"x": 'stars < 2 and label == "negative"'},
    }
    _parse({"slices": slices, "abstention": {"right": 0.9}}, {"keep_columns": ["source", "stars"]})


@pytest.mark.parametrize(
    ("gate", "evaluate", "message"),
    [
        ({"min_coverage": 0.5}, {}, "gate.min_coverage is given, but evaluate.abstention is null"),
        ({"min_coverage": 0.5}, {"abstention": {}}, None),
        (
            {"max_behaviour_failure": {"case_lowr": 0.1}},
            {},
            "names 'case_lowr', which is no test of evaluate.behaviour",
        ),
        (
            {"max_behaviour_failure": {"names": 0.1}},
            {"behaviour": {"tests": ["numbers"]}},
            "names 'names', which is no",
        ),
        ({"max_behaviour_failure": {"names": 0.1, "mine": 0}}, {"behaviour": {"templates": "b.yaml"}}, None),
        ({"max_slice_loss": -0.1}, {}, "gate.max_slice_loss = -0.1: input should be greater than or equal to 0"),
        ({"slice_rivals": ["student"]}, {}, "gate.slice_rivals.0 = 'student'"),
        ({"champion_test": "guess"}, {}, "gate.champion_test = 'guess'"),
        ({"min_advantage": 0.9}, {}, "gate.min_advantage = 0.9: input should be greater than or equal to 1"),
    ],
)
def test_gates_that_nothing_can_meet_are_refused(
    gate: dict[str, Any], evaluate: dict[str, Any], message: str | None
) -> None:
    params = read_params(REPOSITORY / "params.yaml")
    params["evaluate"] = params.get("evaluate", {}) | evaluate
    params["gate"] = gate
    if message is None:
        assert parse_params(params).gate.model_dump(exclude_defaults=True) == gate
        return
    with pytest.raises(ParamsError, match=re.escape(message)):
        parse_params(params)


@pytest.mark.parametrize(
    ("abstention", "coverage", "message"),
    [
        (None, None, "serve.abstain is true, but evaluate.abstention is null, which finds its threshold"),
        ({}, None, "serve.abstain is true, but gate.min_coverage is null, so that a candidate without a threshold"),
        ({}, 0, None),
    ],
)
def test_a_service_abstains_only_with_a_threshold(
    abstention: dict[str, Any] | None, coverage: float | None, message: str | None
) -> None:
    params = read_params(REPOSITORY / "params.yaml")
    params["evaluate"]["abstention"] = abstention
    params["gate"]["min_coverage"] = coverage
    params["serve"]["abstain"] = True
    if message is None:
        assert parse_params(params).serve.abstain
        return
    with pytest.raises(ParamsError, match=re.escape(message)):
        parse_params(params)


def test_a_gate_against_a_teacher_that_is_not_quantized_is_refused() -> None:
    params = read_params(REPOSITORY / "params.yaml")
    params["quantize"] = {"teacher": False}
    with pytest.raises(ParamsError, match=r"quantize.teacher is false; set it to auto, or gate.min_advantage to null"):
        parse_params(params)
    params["gate"]["min_advantage"] = None
    assert parse_params(params).quantize.teacher is False
