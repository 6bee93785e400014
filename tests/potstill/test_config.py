from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from potstill.config.params_file import load_params, parse_distill, parse_params
from potstill.config.yaml_file import load_yaml, read_params
from potstill.errors import ParamsError
from tests.conftest import REPOSITORY

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
    with pytest.raises(
        ParamsError, match=r"distill\.student\.kind is checkpoint, but no model is given; .* ingest\.student"
    ):
        parse_params(params)
    params["ingest"]["student"] = {"kind": "file", "path": "a"}
    assert parse_params(params).distill.student.kind == "checkpoint"
    params["distill"]["student"] = {"kind": "distilbert"}
    with pytest.raises(ParamsError, match=r"ingest\.student names a model, but distill\.student\.kind is distilbert"):
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
    params["distill"] |= {"terms": [], "mixup": {"alpha": 0.4}}
    with pytest.raises(ParamsError, match=r"distill\.mixup blends rows token by token"):
        parse_params(params)


def test_the_default_file_fits() -> None:
    params = load_params(DEFAULT)
    assert params.section("validate").model_dump()["min_per_class"] == 200
    assert params.distill.temperature == 1.0


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
        ("sign", {"require": True}, "sign: require is true, but nothing says whom to trust"),
        ("sign", {"certificate": "a.pem"}, "sign: certificate is given, but private_key is null"),
        ("sign", {"private_key": "a.pem", "certificate_chain": ["b.pem"]}, "certificate is null; name the certificate"),
        ("sign", {"public_key": "a.pem", "trusted_certificates": ["b.pem"]}, "are both given; keep the one"),
        ("prepare.labels", ["a", "a"], "names a label twice"),
        ("prepare.labels", [1, "1.0 "], "prepare.labels = [1, '1.0 ']: it names a label twice"),
        ("prepare.label", {"kind": "columns", "columns": ["a", "a"]}, "prepare.label.columns = ['a', 'a']: it names"),
        ("prepare.tables", [{"source": "vader", "text": ["a"]}], "text.list[str] = ['a']: list should have at least 2"),
        (
            "prepare.tables",
            [{"source": "vader", "text": ["a", "b"]}],
            "tables.0.text is ['a', 'b'], but text is",
        ),
        ("prepare.tables", [{"source": "vader", "split": "shift", "split_column": "part"}], "remove split_column"),
        ("prepare.tables", [{"source": "vader", "columns": ["a"], "format": "json"}], "columns is for files without"),
        (
            "prepare.tables",
            [{"source": "vader", "text": ["a", "a"]}],
            "text is ['a', 'a'], which names one column twice",
        ),
        ("prepare.split.seed", 2**64, "prepare.split.seed = 18446744073709551616: input should be less than"),
        ("prepare.tables", [{"source": "vader", "columns": ["a", "a"]}], "which names a column twice"),
        ("prepare.tables", [{"source": "vader", "files": "**.csv"}], "files is '**.csv', which is no name or pattern"),
        ("prepare.tables", [{"source": "vader", "files": "/a.csv"}], "files is '/a.csv', which is no name or pattern"),
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
        ("signals.hidden", [2, 4, 2], "signals: hidden is [2, 4, 2], which names a layer twice"),
        ("signals.attention", [0], "signals.attention.0 = 0: input should be greater than 0"),
        ("signals.vectors", 6, "signals.vectors = 6: input should be a valid list"),
        ("signals.shard_rows", 0, "signals.shard_rows = 0"),
        ("distill.terms", [{"kind": "kl", "weight": 0}], "distill.terms.0.weight = 0: input should be greater than 0"),
        (
            "distill.terms",
            [{"kind": "kl", "fraction": 0.5}],
            "distill.terms.0: fraction is 0.5, but schedule is constant",
        ),
        ("distill.terms", [{"kind": "hiden"}], "'hiden' found using 'kind' does not match any of the expected tags"),
        ("distill.accumulate", 0, "distill.accumulate = 0: input should be greater than 0"),
        (
            "ingest.teacher",
            {"kind": "scratch", "width": 64},
            "unknown key 'ingest.teacher.width'; known keys: kind",
        ),
        ("pretrain.heads", 3, "pretrain: heads is 3, which does not divide width (256); choose one that does"),
        ("general.layers", [0, 1], "general.layers is [0, 1], but distill.layers is [0, 2, 4]; make them equal"),
        ("general.terms", [{"kind": "ce"}], "general: the term ce compares logits of a task"),
        ("general.masked_lm", {"kl": 0.0, "ce": 0.0}, "general.masked_lm: kl and ce are both 0"),
        ("prepare.augment.replacements", 1, "replacements is 1, but no model predicts them; name a masked"),
        ("compute.processes", 0, "compute.processes = 0: input should be greater than 0"),
        ("compute.nodes", 2, "compute: nodes is 2, but rendezvous is null; set it to an address of the machine"),
        ("compute.rendezvous", "10.0.0.1", "compute.rendezvous = '10.0.0.1'"),
        ("distill.adversarial", {"epsilon": 0}, "distill.adversarial.epsilon = 0: input should be greater than 0"),
        ("schedule.cron", "daily", "schedule.cron = 'daily'"),
        ("schedule.pools", {"gpu": []}, "schedule.pools.gpu = []"),
        ("schedule.pools", {"a": ["signals"], "b": ["signals"]}, "pools names signals under a and b; keep one of them"),
        ("watch.masks", {"id": "("}, "watch: masks.id is '(', which is not a regular expression"),
        ("watch.masks", {"id": r"\d*"}, "which also matches the empty text; make it match a character"),
        ("watch.masks", {"Id": "a"}, "watch.masks.Id"),
        ("watch.min_texts", 50, "watch.min_texts = 50: input should be greater than or equal to 100"),
        # A section that may be null.
        ("prepare.augment", {"crps": 1}, "unknown key 'prepare.augment.crps'; did you mean 'crops'"),
        ("prepare.augment", {"crops": -1}, "prepare.augment.crops = -1: input should be greater than or equal to 0"),
        ("teacher.lora", {"ranc": 4}, "unknown key 'teacher.lora.ranc'; did you mean 'rank'"),
        ("teacher.lora", {"targets": ["quary"]}, "teacher.lora.targets.0 = 'quary': input should be 'query', 'key'"),
        ("teacher.members", {"large": {}}, "ingest.teachers (none) and teacher.members (large) have to name the same"),
        ("distill.mutual", {"students": [[0, 2, 4]]}, "it takes at least two to teach each other"),
        ("distill.mutual", {"students": [[0], [1]]}, "without layers ([0, 2, 4]), from which the control is made"),
        ("distill.assistants", [[0, 2, 3]], "layers names layer 4 in [0, 2, 4], but the assistant before it has only"),
        ("distill.assistants", [[0, 2, 4], [0, 2, 3, 4]], "assistants names layer 3 in [0, 2, 3, 4]"),
        (
            "distill.mutual",
            {"students": [[0, 2, 4], [1]], "teecher": True},
            "unknown key 'distill.mutual.teecher'; did you mean 'teacher'",
        ),
    ],
)
def test_a_misfit_is_named_with_its_value_and_what_is_allowed(path: str, value: Any, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        parse_params(changed(path, value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("teacher.fine_tuned", True, "teacher.fine_tuned is true, but ingest.teacher is trained from scratch"),
        ("tokenize.max_length", 256, "the encoder trained from scratch has 128 positions; set pretrain.max_length"),
    ],
)
def test_what_an_encoder_from_scratch_cannot_be(path: str, value: Any, message: str) -> None:
    params = changed(path, value)
    params["ingest"]["teacher"] = {"kind": "scratch"}
    with pytest.raises(ParamsError, match=message):
        parse_params(params)


@pytest.mark.parametrize("path", sorted((DEFAULT.parent / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_file_of_params_fits_in_place_of_the_defaults(path: Path) -> None:
    parse_params(read_params(DEFAULT) | read_params(path))


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (
            "teacher",
            {"fine_tuned": True, "seeds": 3},
            "teacher: seeds is 3, but fine_tuned is true and nothing is trained",
        ),
        ("distill", {"prune": {"rows": 50}}, "distill.prune: sets neither ffn nor width"),
        (
            "distill",
            {"student": {"kind": "static"}, "terms": [{"kind": "pkd"}]},
            "distill: terms (pkd) needs a student with layers, but student.kind is static",
        ),
        ("distill", {"student": {"kind": "static"}, "prune": {"ffn": 4}}, "distill: prune needs a student with layers"),
        (
            "distill",
            {"student": {"kind": "static"}, "freeze_layers": 1},
            "distill: freeze_layers needs a student with layers",
        ),
        (
            "teacher",
            {"lora": {"rank": 4}, "freeze_layers": 1},
            "teacher: freeze_layers is 1, but lora adapts every layer and freezes all other weights; set freeze_layers",
        ),
        (
            "distill",
            {"assistants": [[0, 2, 4, 5]], "mutual": {"students": [[0, 2, 4], [1]]}},
            "distill: assistants and mutual exclude each other",
        ),
        (
            "distill",
            {"assistants": [[0, 2, 4, 5]], "terms": [{"kind": "hidden", "layers": [[3, 4]]}]},
            "distill: terms name layers, but each assistant has different ones",
        ),
        (
            "distill",
            {"mutual": {"students": [[0, 2, 4], [1]], "teacher": False}, "terms": [{"kind": "mse"}]},
            "distill: terms compare with the teacher, but mutual.teacher is false",
        ),
        (
            "distill",
            {"mutual": {"students": [[0, 2, 4], [1]]}, "student": {"kind": "config"}},
            "distill: mutual takes students made of a teacher's layers, but student.kind is config",
        ),
        (
            "distill",
            {"mutual": {"students": [[0, 2, 4], [1]]}, "adversarial": {}},
            "distill: mutual trains several students on a batch, which adversarial does not support",
        ),
        (
            "distill",
            {"mutual": {"students": [[0, 2, 4], [1]]}, "packing": True},
            "distill: mutual trains several students on a batch, which packing does not support; set packing to auto",
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher": {"seeds": 2}, "distill": {"mixup": {}}},
            "distill.mixup runs one teacher on blends of rows, but there are several teachers",
        ),
        (
            {"distill": {"student": {"kind": "static"}}, "finetune": {"freeze_layers": 1}},
            "finetune.freeze_layers needs layers, but distill.student.kind is static; remove it",
        ),
        (
            {"distill": {"student": {"kind": "static"}}, "control": {"lora": {"rank": 4}}},
            "control.lora needs layers, but distill.student.kind is static; remove it",
        ),
        (
            {"distill": {"student": {"kind": "static"}}, "tokenize": {"vocabulary": {"rank": 8}}},
            "tokenize.vocabulary.rank is for students with layers, but distill.student.kind is static",
        ),
        (
            {"gate": {"max_file_mb": None}, "tokenize": {"vocabulary": {"max_tokens": "auto"}}},
            "tokenize.vocabulary.max_tokens is auto, which fits the student's file to gate.max_file_mb, but that",
        ),
        (
            {"tokenize": {"vocabulary": {"max_tokens": "auto", "rank": 8}}},
            "tokenize.vocabulary: max_tokens is auto and rank is given, but auto fits a full table; set one to null",
        ),
        (
            {"general": {"layers": [0, 2, 4]}, "distill": {"assistants": [[0, 2, 4, 5]]}},
            "general.layers is set, but with distill.assistants or distill.mutual students start from the layers",
        ),
    ],
)
def test_sections_that_do_not_fit_each_other_are_refused(changes: dict[str, dict[str, Any]], message: str) -> None:
    params = read_params(DEFAULT)
    for section, values in changes.items():
        params[section] = params.get(section, {}) | values
    with pytest.raises(ParamsError) as caught:
        parse_params(params)
    assert message in str(caught.value)


def test_the_stage_tokenize_receives_the_limits_of_the_file_only_where_it_needs_them() -> None:
    params = read_params(DEFAULT)
    assert "budget" not in parse_params(params).section("tokenize").model_dump()
    params["tokenize"] |= {"vocabulary": {"max_tokens": "auto"}}
    before = parse_params(params).section("tokenize").model_dump()
    assert before["budget"]["max_file_mb"] == params["gate"]["max_file_mb"]
    for section, key, value, changes in (
        ("distill", "layers", [1], True), ("export", "embedding_bits", 4, True), ("distill", "temperature", 3.0, False),
    ):  # fmt: skip
        changed_params = params | {section: params[section] | {key: value}}
        assert (parse_params(changed_params).section("tokenize").model_dump() != before) == changes


def test_a_missing_section_is_named() -> None:
    params = read_params(DEFAULT)
    del params["teacher"]
    with pytest.raises(ParamsError, match="teacher is missing"):
        parse_params(params)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "must be a mapping"),
        ("", "must be a mapping"),
        ("gate:\n  a: 1\n  a: 2", "line 3 has the key 'a' a second time"),
        ("a: 2026-13-45", "month must be in 1..12"),
    ],
)
def test_a_file_that_is_no_params_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("section", ["project", "prepare", "x"])
def test_few_lines_that_stand_for_billions_of_values_are_refused(tmp_path: Path, section: str) -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, 10)]
    (tmp_path / "params.yaml").write_text("\n".join([*lines, f"{section}: {{name: *l9}}"]))
    with pytest.raises(ParamsError, match="its aliases stand for more than"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: &a [*a]", "aliases"), ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply")],
    ids=["in itself", "deep"],
)
def test_values_without_end_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        load_params(tmp_path / "params.yaml")


def test_aliases_are_followed() -> None:
    assert load_yaml("a: &a {k: [1]}\nb: {<<: *a, c: *a}") == {"a": {"k": [1]}, "b": {"k": [1], "c": {"k": [1]}}}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="does not exist"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing": True}, "compile is true, but packing is true"),
        ({"adversarial": {}}, "compile is true, but adversarial steps change the model's forward pass"),
        ({"mixup": {}}, "compile is true, but mixup changes the model's forward pass"),
        (
            {"terms": [{"kind": "hidden"}]},
            "compile is true, but the term hidden reads layers in the model's forward pass",
        ),
    ],
)
def test_what_changes_a_models_passes_is_not_compiled(changes: dict[str, Any], message: str) -> None:
    plan = {"epochs": 1, "learning_rate": 1e-3, "layers": [0], "compile": True}
    assert parse_distill(plan).compile is True
    with pytest.raises(ParamsError, match=message):
        parse_distill(plan | changes)


def test_the_generator_has_a_place_of_its_own() -> None:
    model = {"kind": "file", "path": "models/bert"}
    value = changed("ingest.generator", model)
    assert parse_params(value).ingest.generator is not None
    value["ingest"]["data"]["generator"] = model
    with pytest.raises(
        ParamsError, match="data names a source generator, but data/raw/generator is the folder of ingest"
    ):
        parse_params(value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": [False, True]}, 'prepare.labels: YAML reads no as false and yes as true; quote them: "no", "yes"'),
        ({"labels": ["maybe", False]}, 'prepare.labels: YAML reads no as false; quote it: "no"'),
        ({"labels": [1.5, 2]}, 'prepare.labels: YAML reads 1.5 as a float; quote it: "1.5"'),
        ({"labels": [None, "x"]}, 'prepare.labels: YAML reads null as nothing; quote it: "null"'),
        (
            {"label": {"kind": "column", "column": "y", "missing": [False]}},
            'prepare.label.missing: YAML reads no as false; quote it: "no"',
        ),
    ],
)
def test_names_that_yaml_reads_as_something_else_are_one_clause(changes: dict[str, Any], said: str) -> None:
    raw = read_params(REPOSITORY / "params.yaml")
    raw["prepare"] |= changes
    with pytest.raises(ParamsError) as caught:
        parse_params(raw)
    assert str(caught.value) == f"params.yaml: {said}"
