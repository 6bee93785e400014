"""The rooms of the code: no import circle, no module name twice, and each room says what belongs there."""

from __future__ import annotations

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import grimp

from tests.conftest import REPOSITORY

PACKAGES = ("potstill", "tasks", "flows")
# Named as the stage whose work they do from Python: `potstill.distill.distill`.
PUBLIC = {"potstill/distill.py", "potstill/pretrain.py"}


def modules() -> list[Path]:
    return [path.relative_to(REPOSITORY) for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py")]


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError


def test_no_module_name_occurs_twice() -> None:
    names = Counter(path.stem for path in modules() if path.stem != "__init__" and path.as_posix() not in PUBLIC)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_room_says_what_belongs_there() -> None:
    for path in modules():
        if path.name == "__init__.py" and path.parent.as_posix() != "potstill":
            text = ast.get_docstring(ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))) or ""
            assert len(text.split()) >= 20, path
