"""The code that travels with a model: the import closure of the modules that answer.

A Bento carries the modules under their own names. An MLflow model carries them as a package with their sha256 in its
name, so that models of several versions of Potstill do not conflict in one process.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from potstill.artifacts import sha256_file, sha256_value
from potstill.imports import imported_names

PACKAGE = "potstill"
ROOT = Path(__file__).resolve().parents[1]
_IMPORT = re.compile(rf"^(\s*)(from|import) {PACKAGE}(?=[.\s])", re.MULTILINE)


def closure(modules: Iterable[str]) -> list[Path]:
    """Find the modules of this package that modules import, inside functions too: sorted paths relative to its root.

    Args:
        modules: names such as `potstill.inference.runtime`.
    """
    waiting = [PACKAGE, *modules]
    files: set[Path] = set()
    while waiting:
        path = _file(waiting.pop())
        if path is None or path in files:
            continue
        files.add(path)
        waiting += imported_names(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        waiting += [".".join((PACKAGE, *parent.parts)) for parent in path.parents]
    return sorted(files)


def write_core(folder: Path, module: str) -> str:
    """Write a module and its import closure below `folder`, as a separate package.

    Returns:
        The module's name in that package.
    """
    files = closure([module])
    total = sha256_value({path.as_posix(): sha256_file(ROOT / path) for path in files})
    package = f"{PACKAGE}_{total[:12]}"
    for path in files:
        target = folder / package / path
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / path).read_text(encoding="utf-8")
        target.write_text(_IMPORT.sub(rf"\1\2 {package}", text), encoding="utf-8")
    return package + module.removeprefix(PACKAGE)


def _file(module: str) -> Path | None:
    """Find the file of a module of this package, relative to its root; None for other names."""
    package, *names = module.split(".")
    if package != PACKAGE:
        return None
    path = Path(*names)
    for candidate in (path.with_suffix(".py") if path.parts else path, path / "__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    return None
