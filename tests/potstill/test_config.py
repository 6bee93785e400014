from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from potstill.config import load_params, parse_params, read_params
from potstill.errors import ParamsError

DEFAULT = Path(__file__).resolve().parents[2] / "params.yaml"


def changed(path: str, value: Any) -> dict[str, Any]:
    params = copy.deepcopy(read_params(DEFAULT))
    *parents, last = path.split(".")
    section = params
    for parent in parents:
        section = section[parent]
    section[last] = value
    return params


def test_a_student_of_its_own_needs_its_model_and_the_model_its_student() -> None:
    params = changed("distill.student", {"kind": "checkpoint"})
    with pytest.raises(ParamsError, match=r"distill\.student: kind checkpoint needs its model; .* ingest\.student"):
        parse_params(params)
    params["ingest"]["student"] = {"kind": "file", "path": "a"}
    assert parse_params(params).distill.student.kind == "checkpoint"
    params["distill"]["student"] = {"kind": "distilbert"}
    with pytest.raises(ParamsError, match=r"ingest\.student names a model, but distill\.student is of kind distilbert"):
        parse_params(params)
    params = changed("distill.student", {"kind": "layers", "hidden_size": 3})
    with pytest.raises(ParamsError, match=r"unknown key 'distill\.student\.hidden_size'"):
        parse_params(params)


def test_a_vocabulary_of_its_own_takes_no_loss_by_token() -> None:
    params = changed("tokenize.vocabulary", {"max_tokens": 5000})
    params["distill"]["terms"] = [{"kind": "rkd"}]
    assert parse_params(params).tokenize.vocabulary is not None
    params["distill"]["terms"].append({"kind": "relations"})
    with pytest.raises(ParamsError, match=r"distill\.terms: relations compares token by token, .*vocabulary to null"):
        parse_params(params)


def test_the_default_file_fits() -> None:
    params = load_params(DEFAULT)
    assert params.section("validate").model_dump()["min_per_class"] == 200
    assert params.distill.temperature == 2.0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("distill.temprature", 3, "unknown key 'distill.temprature'; did you mean 'temperature'"),
        ("distil", {}, "unknown key 'distil'; did you mean 'distill'"),
        ("distill.temperature", "4", "distill.temperature = '4': input should be a valid number"),
        ("distill.temperature", 0, "distill.temperature = 0: input should be greater than 0"),
        ("distill.temperature", float("nan"), "distill.temperature = nan: input should be a finite number"),
        ("distill.alpha", 1.5, "distill.alpha = 1.5: input should be less than or equal to 1"),
        ("distill.epochs", 2.5, "distill.epochs = 2.5"),
        ("distill.layers", [], "distill.layers = []"),
        ("project.device", "gpu", "project.device = 'gpu': input should be 'auto', 'cuda', 'mps' or 'cpu'"),
        ("project.name", "Movie Reviews", "project.name = 'Movie Reviews'"),
        ("prepare.split.dev", 0.9, "prepare.split: dev + test is 1.1"),
        ("prepare.labels", ["a", "a"], "names a label twice"),
        ("ingest.teacher.revision", "main", "unknown key 'ingest.teacher.revision'"),
        ("validate.min_rows", {"train": 10}, "min_rows needs at least 1 for dev, test"),
        ("ingest.data", {"other": {"kind": "file", "path": "x.csv"}}, "source 'vader' is not under ingest.data"),
        (
            "ingest.data",
            {"vader": {"kind": "hub", "id": "a/b", "revision": "main"}},
            "ingest.data.vader.revision = 'main'",
        ),
        ("ingest.teacher.sum", {}, "unknown key 'ingest.teacher.sum'; did you mean 'sums'"),
        (
            "distill.terms",
            [{"kind": "relations", "head": 12}],
            "unknown key 'distill.terms.0.head'; did you mean 'heads'",
        ),
        ("distill.terms", [{"kind": "hidden", "layers": [[1]]}], "distill.terms.0.layers.0 = [1]"),
        ("signals.hidden", [2, 4, 2], "signals: hidden [2, 4, 2] names a layer twice"),
        ("signals.attention", [0], "signals.attention.0 = 0: input should be greater than 0"),
        ("signals.vectors", 6, "signals.vectors = 6: input should be a valid list"),
        ("signals.shard_rows", 0, "signals.shard_rows = 0"),
        ("distill.terms", [{"kind": "kl", "weight": 0}], "distill.terms.0.weight = 0: input should be greater than 0"),
        ("distill.terms", [{"kind": "kl", "fraction": 0.5}], "distill.terms.0: fraction is 0.5 of a constant schedule"),
        ("distill.terms", [{"kind": "hiden"}], "'hiden' found using 'kind' does not match any of the expected tags"),
        ("distill.accumulate", 0, "distill.accumulate = 0: input should be greater than 0"),
        ("schedule.cron", "daily", "schedule.cron = 'daily'"),
    ],
)
def test_a_misfit_is_named_with_its_value_and_what_is_allowed(path: str, value: Any, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parse_params(changed(path, value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_section_is_named() -> None:
    params = read_params(DEFAULT)
    del params["teacher"]
    with pytest.raises(ParamsError, match="teacher is missing"):
        parse_params(params)


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "must be a mapping"), ("", "must be a mapping")]
)
def test_a_file_that_is_no_params_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        load_params(tmp_path / "params.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="does not exist"):
        load_params(tmp_path / "params.yaml")
