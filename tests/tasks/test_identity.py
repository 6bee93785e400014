"""Which code a stage is: an edit makes those stages stale that import it, and no others."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
import yaml

from potstill.config.params_file import load_params
from potstill.errors import ParamsError, ToolError
from potstill.paths import CODE_FILE
from tasks.identity import Code, check_code_file, identities, write_code_file
from tests.conftest import REPOSITORY

# Most tests hash a copy of the code anew.
pytestmark = pytest.mark.slow

GRAPH = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
STAGES = [name for name in GRAPH if name != "code"]
PARAMS = load_params(REPOSITORY / "params.yaml")


@pytest.fixture(scope="module")
def importers() -> dict[str, set[str]]:
    """Path of each module -> the stages that import it, as import-linter's own graph has it."""
    graph = grimp.build_graph("potstill", "tasks", exclude_type_checking_imports=True, cache_dir=None)
    stages: dict[str, set[str]] = {}
    for stage in STAGES:
        for module in {f"tasks.{stage}", *graph.find_upstream_modules(f"tasks.{stage}")}:
            stages.setdefault(Path(*module.split(".")).with_suffix(".py").as_posix(), set()).add(stage)
    return {path: stages for path, stages in stages.items() if (REPOSITORY / path).exists()}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code."""
    for package in ("potstill", "tasks"):
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def digests(root: Path) -> dict[str, dict[str, str]]:
    return identities(PARAMS, GRAPH, Code(root, root / "cache.json"))


def changed(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> set[str]:
    return {stage for stage in STAGES if before[stage] != after[stage]}


def test_an_edit_of_any_module_makes_those_stages_stale_that_import_it(
    copy: Path, importers: dict[str, set[str]]
) -> None:
    code = Code(copy, copy / "cache.json")
    before = {stage: code.modules(stage) for stage in STAGES}
    code.save()
    for path in sorted({*importers, "potstill/registry/promotion.py", "potstill/serving/app.py"}):
        text = (copy / path).read_text(encoding="utf-8")
        (copy / path).write_text(text + "\nADDED = 1\n", encoding="utf-8")
        edited = Code(copy, copy / "cache.json")
        stale = {stage for stage in STAGES if edited.modules(stage) != before[stage]}
        assert stale == importers.get(path, set()), path
        (copy / path).write_text(text, encoding="utf-8")


def test_comments_docstrings_and_layout_are_no_code(copy: Path) -> None:
    before = digests(copy)
    for path in ("potstill/config/params.py", "potstill/distillation/losses/logits.py", "tasks/distill.py"):
        text = (copy / path).read_text(encoding="utf-8")
        text = re.sub(r'^( *)"""(?=[A-Z])', r'\1"""Edited. ', text, flags=re.MULTILINE)
        (copy / path).write_text("# A comment.\n" + text.replace("\n\n", "\n\n\n"), encoding="utf-8")
    assert digests(copy) == before


def test_descriptions_of_params_are_no_code(copy: Path) -> None:
    before = digests(copy)
    edited = 0
    for path in (copy / "potstill/config").glob("*.py"):
        text, count = re.subn(r'^(    """)(?=[A-Z])', r"\1Edited. ", path.read_text(encoding="utf-8"), flags=re.M)
        path.write_text(text, encoding="utf-8")
        edited += count
    assert edited > 200
    assert digests(copy) == before


def test_a_loss_is_no_code_of_the_stages_before_it(copy: Path, importers: dict[str, set[str]]) -> None:
    before = digests(copy)
    path = copy / "potstill/distillation/losses/logits.py"
    path.write_text(path.read_text(encoding="utf-8").replace("temperature**2", "temperature**3"), encoding="utf-8")
    stale = changed(before, digests(copy))
    assert stale == importers["potstill/distillation/losses/logits.py"]
    assert not stale & {"ingest", "prepare", "validate", "tokenize"}


def test_params_count_as_resolved_values(copy: Path) -> None:
    before = digests(copy)
    path = copy / "potstill/config/evaluation_params.py"
    text = path.read_text(encoding="utf-8")
    edited = re.sub(r"(int8_max_accuracy_drop: Share = )0\.005", r"\g<1>0.5", text)
    assert edited != text
    path.write_text(edited, encoding="utf-8")
    assert digests(copy) == before  # the schema of params is not what a stage reads
    other = PARAMS.model_copy(update={"export": PARAMS.export.model_copy(update={"int8_max_accuracy_drop": 0.5})})
    after = identities(other, GRAPH, Code(copy))
    assert changed(before, after) == {"export", "quantize"}
    assert after["export"]["code"] == before["export"]["code"]


def test_a_stage_refuses_other_code_than_the_file_names(tmp_path: Path) -> None:
    shutil.copyfile(REPOSITORY / "dvc.yaml", tmp_path / "dvc.yaml")
    modules = Code().modules("export")
    check_code_file(tmp_path, "export", modules)  # a graph without the file asks for none
    write_code_file(tmp_path, PARAMS)
    check_code_file(tmp_path, "export", modules)
    with pytest.raises(ToolError, match="names other code of export"):
        check_code_file(tmp_path, "export", modules | {"potstill/errors.py": "other"})
    (tmp_path / CODE_FILE).write_text(": :", encoding="utf-8")
    with pytest.raises(ToolError, match="brings it up to date"):
        check_code_file(tmp_path, "export", modules)


def test_a_file_that_is_up_to_date_is_left_alone(tmp_path: Path) -> None:
    shutil.copyfile(REPOSITORY / "dvc.yaml", tmp_path / "dvc.yaml")
    write_code_file(tmp_path, PARAMS)
    written = (tmp_path / CODE_FILE).stat().st_mtime_ns
    write_code_file(tmp_path, PARAMS)
    assert (tmp_path / CODE_FILE).stat().st_mtime_ns == written


def test_dvc_alone_notices_an_edit(copy: Path) -> None:
    """`dvc repro` without `potstill run` before it: the first stage always runs."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(REPOSITORY / name, copy / name)
    (copy / "data").mkdir()

    def dvc(*words: str) -> str:
        command = [sys.executable, "-m", "dvc", *words]
        return subprocess.run(command, cwd=copy, check=True, capture_output=True, text=True).stdout

    dvc("init", "-q", "--no-scm")
    assert "Running stage 'code'" in dvc("repro", "code")
    dvc("commit", "-q", "-f", "code")
    first = (copy / CODE_FILE).read_text(encoding="utf-8")
    path = copy / "potstill/distillation/losses/logits.py"
    path.write_text(path.read_text(encoding="utf-8") + "\nADDED = 1\n", encoding="utf-8")
    dvc("repro", "code")
    second = yaml.safe_load((copy / CODE_FILE).read_text(encoding="utf-8"))
    assert changed(yaml.safe_load(first), second) >= {"distill", "finetune"}


def test_an_edit_of_the_templates_makes_evaluate_stale_and_no_other_stage(tmp_path: Path) -> None:
    behaviour = PARAMS.evaluate.behaviour.model_copy(update={"templates": "behaviour.yaml"})
    params = PARAMS.model_copy(update={"evaluate": PARAMS.evaluate.model_copy(update={"behaviour": behaviour})})
    code = Code()

    def digests_now() -> dict[str, dict[str, str]]:
        return identities(params, GRAPH, code, tmp_path)

    with pytest.raises(ParamsError, match=r"evaluate.behaviour.templates .*behaviour.yaml.*write it, or set null"):
        digests_now()
    (tmp_path / "behaviour.yaml").write_text("tests: []", encoding="utf-8")
    before = digests_now()
    (tmp_path / "behaviour.yaml").write_text("tests: [1]", encoding="utf-8")
    assert changed(before, digests_now()) == {"evaluate"}
