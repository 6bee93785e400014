"""`potstill params`, and the reference that it and docs/params.md are written from."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.commands.explain_params import read_graph, receivers, show
from potstill.config.key_reference import find, keys, sections
from potstill.config.params_file import load_params
from potstill.errors import ParamsError
from tests.conftest import REPOSITORY

GRAPH = read_graph(REPOSITORY / "dvc.yaml")


def test_every_key_has_a_description() -> None:
    waiting = list(sections().items())
    assert len(waiting) > 20
    for path, section in waiting:
        assert section["description"], path
        for key in keys([section]):
            assert key.description.endswith((".", "?")), f"{path}.{key.name}"
            assert "or null" not in key.type or "null" in key.description or key.sections, f"{path}.{key.name}"
            waiting += [(f"{path}.{key.name}", below) for below in key.sections]


def test_every_section_has_a_receiver() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert list(sections()) == [field.alias or name for name, field in type(params).model_fields.items()]
    assert all(receivers(name, GRAPH) for name in sections())
    assert receivers("project", GRAPH) == ["every stage"]
    assert receivers("distill", GRAPH) == ["distill", "control", "proof"]
    assert receivers("watch", GRAPH) == ["package", "`potstill serve`", "`potstill drift`"]


@pytest.mark.parametrize(
    ("path", "facts"),
    [
        ("distill.temperature", ("number", "above 0, at most 100", "2.0")),
        ("distill.alpha", ("number", "0 to 1", "0.9")),
        ("distill.layers.0", ("list of integers", "at least 1 item, each at least 0", "required")),
        ("distill.student", ("section", "", "{kind: layers}")),
        ("distill.compile", ("auto, true or false", "", "auto")),
        ("general.terms", ("list of sections", "", "[{kind: relations}, {kind: cosine}]")),
        ("search.losses.relations.0.weight", ("number", "above 0", "1.0")),
        ("teacher.members.large.labels", ("list of texts or null", "at least 1 item", "null")),
        ("prepare.split", ("section", "", "those of its keys")),
        ("prepare.labels", ("list of texts or integers, or null", "at least 1 item", "null")),
        ("project.device", ("auto, cuda, mps or cpu", "", "auto")),
        ("signals.attention", ("list of integers", "each above 0", "[]")),
        (
            "validate.min_rows",
            ("mapping of names to integers", "names train, dev, test or transfer, each at least 0", "required"),
        ),
    ],
)
def test_type_limits_and_default_of_a_key(path: str, facts: tuple[str, str, str]) -> None:
    (key,) = find(path)
    assert (key.type, key.limits, key.default) == facts


def test_a_key_has_a_meaning_for_each_kind_that_differs() -> None:
    assert [(key.kinds, key.default) for key in find("distill.terms.0.temperature")] == [
        (("kl",), "2.0"),
        (("dist",), "1.0"),
        (("contrastive",), "0.1"),
    ]
    assert [key.kinds for key in find("distill.terms.weight")] == [()]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("distil", "unknown key 'distil'; did you mean 'distill'?"),
        ("distill.temprature", "unknown key 'distill.temprature'; did you mean 'temperature'?"),
        ("distill.terms.0.wieght", "unknown key 'distill.terms.0.wieght'; did you mean 'weight'?"),
        ("distill.terms.first", "unknown key 'distill.terms.first'; known keys: weight, schedule"),
        ("teacher.members.large.epoch", "unknown key 'teacher.members.large.epoch'; known keys: fine_tuned"),
        ("distill.alpha.x", "unknown key 'distill.alpha.x'; remove it"),
        ("", "unknown key ''; known keys: project"),
    ],
)
def test_a_wrong_key_says_which_one_may_be_meant(path: str, message: str) -> None:
    with pytest.raises(ParamsError) as caught:
        find(path)
    assert str(caught.value).startswith(message)


def test_a_key_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(tmp_path, "distill.student")
    shown = capsys.readouterr().out
    assert shown.startswith("distill.student: What the student is made of.\n  type     section\n")
    assert "  stages   distill, control, proof\n" in shown
    assert "  dimensions (static): integer; default 256\n      Width of the vectors" in shown
    show(tmp_path, None)
    # The hint on the last line may be wrapped, as each line is at the terminal's width.
    table, _, _ = capsys.readouterr().out.partition("\n`potstill params")
    assert [line.split()[0] for line in table.splitlines() if line[:1].islower()] == list(sections())


def test_the_stages_are_those_of_the_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {mine: {params: [export]}, other: {}}", encoding="utf-8")
    show(tmp_path, "export.embedding_bits")
    assert capsys.readouterr().out.endswith("  stages   mine\n")
