#!/usr/bin/env python
"""The code a stage depends on: every module of this repository that `tasks.<stage>` imports, lazily or not.

`python scripts/code_deps.py` prints what dvc.yaml should list; `--write` writes it there, data deps first. A test
asserts that dvc.yaml lists it all, so that no edit goes unnoticed by DVC.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import grimp
import yaml
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("potstill", "tasks")


def is_code(path: str) -> bool:
    """Whether a dep of dvc.yaml is code."""
    return path.endswith(".py") or path.split("/")[0] in ROOMS


def code_deps(stages: list[str]) -> dict[str, list[str]]:
    """Stage -> sorted POSIX paths of the modules in its import closure.

    The `__init__.py` files are left out: they hold no code but a version, which alone makes no other result.
    """
    sys.path.insert(0, str(REPOSITORY))
    graph = grimp.build_graph(*ROOMS, exclude_type_checking_imports=True, cache_dir=None)
    found = {}
    for stage in stages:
        module = f"tasks.{stage}"
        closure = {module, *graph.find_upstream_modules(module)}
        paths = (Path(*name.split(".")).with_suffix(".py") for name in closure)
        found[stage] = sorted(path.as_posix() for path in paths if (REPOSITORY / path).exists())
    return found


def main() -> None:
    """Print or write the code deps of every stage."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write them into dvc.yaml")
    write = parser.parse_args().write
    path = REPOSITORY / "dvc.yaml"
    editor = YAML()
    editor.width = 120
    editor.indent(mapping=2, sequence=4, offset=2)
    document = editor.load(path.read_text(encoding="utf-8"))
    wanted = code_deps(list(document["stages"]))
    if not write:
        yaml.safe_dump(wanted, sys.stdout, sort_keys=False)
        return
    for stage, code in wanted.items():
        deps = document["stages"][stage].get("deps", [])
        document["stages"][stage]["deps"] = [*(dep for dep in deps if not is_code(dep)), *code]
    text = io.StringIO()
    editor.dump(document, text)
    path.write_text(text.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
