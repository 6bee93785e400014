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
        ("distill.terms", [{"kind": "kl", "weight": 0}], "distill.terms.0.weight = 0: input should be greater than 0"),
        ("distill.terms", [{"kind": "kl", "fraction": 0.5}], "distill.terms.0: fraction is 0.5 of a constant schedule"),
        ("distill.terms", [{"kind": "hiden"}], "'hiden' found using 'kind' does not match any of the expected tags"),
        ("distill.accumulate", 0, "distill.accumulate = 0: input should be greater than 0"),
        ("schedule.cron", "daily", "schedule.cron = 'daily'"),
        # A section that may be null.
        ("prepare.augment", {"crps": 1}, "unknown key 'prepare.augment.crps'; did you mean 'crops'"),
        ("prepare.augment", {"crops": -1}, "prepare.augment.crops = -1: input should be greater than or equal to 0"),
        ("teacher.lora", {"ranc": 4}, "unknown key 'teacher.lora.ranc'; did you mean 'rank'"),
        ("teacher.lora", {"targets": ["quary"]}, "teacher.lora.targets.0 = 'quary': input should be 'query', 'key'"),
        ("teacher.members", {"large": {}}, "ingest.teachers (none) and teacher.members (large) have to name the same"),
        ("distill.mutual", {"students": [[0, 2, 4]]}, "it takes two students or more to teach each other"),
        ("distill.mutual", {"students": [[0], [1]]}, "without layers ([0, 2, 4]), which the control is made of"),
        ("distill.assistants", [[0, 2, 3]], "layers names layer 4 in [0, 2, 4], but the assistant before it has only"),
        ("distill.assistants", [[0, 2, 4], [0, 2, 3, 4]], "assistants names layer 3 in [0, 2, 3, 4]"),
    ],
)
def test_a_misfit_is_named_with_its_value_and_what_is_allowed(path: str, value: Any, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parse_params(changed(path, value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("teacher", {"fine_tuned": True, "seeds": 3}, "teacher: seeds is 3 of a teacher that is taken as it is"),
        (
            "distill",
            {"assistants": [[0, 2, 4, 5]], "mutual": {"students": [[0, 2, 4], [1]]}},
            "distill: assistants and mutual exclude each other",
        ),
        (
            "distill",
            {"assistants": [[0, 2, 4, 5]], "terms": [{"kind": "hidden", "layers": [[3, 4]]}]},
            "distill: terms name layers, which are others from one assistant to the next",
        ),
        (
            "distill",
            {"mutual": {"students": [[0, 2, 4], [1]], "teacher": False}, "terms": [{"kind": "mse"}]},
            "distill: terms compare with the teacher",
        ),
    ],
)
def test_a_combination_that_cannot_be_is_refused(section: str, values: dict[str, Any], message: str) -> None:
    params = read_params(DEFAULT)
    params[section] |= values
    with pytest.raises(ParamsError) as caught:
        parse_params(params)
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
