from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flows.commands.params_changes import change_params, dump_params, edit_params
from potstill.config.params_file import load_params
from potstill.config.yaml_file import load_yaml
from potstill.errors import ParamsError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml"))


def test_one_value_changes_and_every_other_line_stays(params: Path) -> None:
    before = params.read_text(encoding="utf-8")
    assert change_params(params, None, ["distill.temperature=4"]) == ["params: distill.temperature = 4 (was 1.0)"]
    after = params.read_text(encoding="utf-8")
    assert after == before.replace("  temperature: 1.0", "  temperature: 4")
    assert load_params(params).distill.temperature == 4.0
    assert change_params(params, None, ["distill.temperature=4"]) == []


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("distill.learning_rate=1e-5", 1e-5),
        ("distill.layers=[0, 1]", [0, 1]),
        ("gate.max_p99_ms=7.5", 7.5),
        ("gate.max_ece=null", None),
        ("distill.transfer=false", False),
        ("distill.patience=3", 3),
        ("validate.min_rows.train=10", 10),
    ],
)
def test_values_are_yaml(params: Path, setting: str, value: object) -> None:
    change_params(params, None, [setting])
    found: object = load_params(params)
    for part in setting.partition("=")[0].split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, "validate_" if part == "validate" else part)
    assert found == value


def test_a_place_in_a_list(params: Path) -> None:
    assert change_params(params, None, ["prepare.tables.0.split=train"]) == [
        "params: prepare.tables.0.split = 'train' (was None)"
    ]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("distill.temperatur=4", "did you mean 'temperature'?"),
        ("distill.temperature=hot", "distill.temperature = 'hot'"),
        ("distill.temperature", "is not KEY=VALUE"),
        ("=4", "is not KEY=VALUE"),
        ("distill.temperature.x=4", "is a single value"),
        ("prepare.tables.9.split=train", "no position in a list of 2"),
        ("distill.layers=[0", "is not a YAML value"),
        ("project.seed=2026-13-45", "is not a YAML value"),
        ("split.dev=0.5", "unknown key 'split'"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(params: Path, setting: str, words: str) -> None:
    before = params.read_bytes()
    with pytest.raises(ParamsError) as error:
        change_params(params, None, ["serve.port=0", setting])
    assert words in str(error.value)
    assert params.read_bytes() == before
    assert list(params.parent.iterdir()) == [params]


def test_a_file_replaces_the_sections_it_names(params: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("smoke: {texts: 3}\nschedule:\n  cron: 0 4 * * *\n", encoding="utf-8")
    changed = change_params(params, other, [])
    assert "params: smoke.texts = 3 (was 32)" in changed
    assert "params: schedule.cron = '0 4 * * *' (was '0 3 * * 1')" in changed
    loaded = load_params(params)
    assert (loaded.smoke.texts, loaded.schedule.cron, loaded.serve.port) == (3, "0 4 * * *", 3000)
    assert "# Everything a run depends on" in params.read_text(encoding="utf-8")
    with pytest.raises(ParamsError, match="does not exist"):
        change_params(params, tmp_path / "missing.yaml", [])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smal.yaml", "does not exist (did you mean"),
        ("nothing-like-it", "does not exist; name a YAML file"),
        ("folder", "is a folder; name a YAML file"),
        ("sheet.xlsx", "is not text; name a YAML file"),
        ("rows.csv", "must be a mapping of sections"),
        ("broken.yaml", "is not valid YAML"),
    ],
)
def test_what_is_no_file_of_sections_is_said_with_what_one_is(
    params: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(params.parent)
    Path("folder").mkdir()
    Path("sheet.xlsx").write_bytes(b"PK\x03\x04\xff\xfe")
    Path("rows.csv").write_text("text,label\n", encoding="utf-8")
    Path("broken.yaml").write_text("gate: [", encoding="utf-8")
    Path("small.yaml").write_text("gate: {}\n", encoding="utf-8")
    before = params.read_bytes()
    with pytest.raises(ParamsError) as raised:
        change_params(params, Path(name), [])
    assert str(raised.value).startswith(f"--params {name} ")
    assert words in str(raised.value)
    assert "whose top-level sections replace those of params.yaml" in str(raised.value)
    assert "potstill init" not in str(raised.value)
    assert params.read_bytes() == before


def test_a_folder_in_place_of_params_yaml_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="cannot be read"):
        load_params(tmp_path)


def test_class_names_that_yaml_reads_as_something_else_stay_names(params: Path) -> None:
    names = ["no", "yes", "on", "null", "3:30", "1e5", "ok", "# 1", "a: b"]
    document = edit_params(params)
    document["prepare"]["labels"] = names
    document["prepare"]["split"]["class_seeds"] = {"no": 1, "3:30": 2}
    section = load_yaml(dump_params(document))["prepare"]
    assert section["labels"] == names
    assert section["split"]["class_seeds"] == {"no": 1, "3:30": 2}
