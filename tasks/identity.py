"""The code that a stage depends on, and the params it reads, as digests in `code.yaml`.

DVC compares values of parameters, so every stage has its entry of `code.yaml` among its parameters. A stage's code is
the digest of its import closure: the syntax trees of all modules that it imports, lazily or not, without comments and
docstrings. Its sections of params.yaml are hashed as resolved values, so that a changed default counts as well.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from potstill.artifacts import disk_errors, sha256_file, sha256_value, write_json, write_text
from potstill.config.params import Params
from potstill.errors import ParamsError, ToolError
from potstill.imports import imported_names, statements
from potstill.paths import CODE_CACHE, CODE_FILE, DVC_FILE

STAGE = "code"
# Folder of the code that runs now.
ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("potstill", "tasks")
_HEAD = "# Written by `dvc repro` and `potstill run`: digests of each stage's code and of the params that it reads.\n"
# The schema of params is no code of a stage: the values that the stage reads are hashed instead.
_SCHEMA = "potstill/config"


@dataclass(frozen=True)
class Module:
    """One Python file as a stage depends on it.

    Attributes:
        digest: of its syntax tree.
        imports: paths of the modules that it imports, relative to the root.
    """

    digest: str
    imports: tuple[str, ...]


class Code:
    """The modules of Potstill, parsed once for each content.

    Args:
        root: the folder of the packages.
        cache: where parsed modules are kept between processes; None keeps them nowhere.
    """

    def __init__(self, root: Path = ROOT, cache: Path | None = None) -> None:
        self._root = root
        self._cache = cache
        self._cached = _read_cache(cache)
        self._used: dict[str, Module] = {}
        self._modules: dict[str, Module] = {}

    def modules(self, stage: str) -> dict[str, str]:
        """Return path -> digest of each module in a stage's import closure; empty for a stage of another package."""
        queue = [path for path in [f"tasks/{stage}.py"] if (self._root / path).is_file()]
        closure: dict[str, str] = {}
        while queue:
            path = queue.pop()
            if path not in closure:
                module = self._module(path)
                closure[path] = module.digest
                queue.extend(module.imports)
        return dict(sorted(closure.items()))

    def _module(self, path: str) -> Module:
        if path not in self._modules:
            content = (self._root / path).read_bytes()
            # Python versions differ in the syntax tree of the same source.
            key = hashlib.sha256(f"{sys.version_info[:2]} {path}\n".encode() + content).hexdigest()
            self._used[key] = self._cached.get(key) or self._parse(path, content)
            self._modules[path] = self._used[key]
        return self._modules[path]

    def _parse(self, path: str, content: bytes) -> Module:
        tree = ast.parse(content)
        imports = sorted({name for name in map(self._file, imported_names(tree)) if name is not None})
        _strip(tree, schema=path.startswith(_SCHEMA))
        return Module(hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:32], tuple(imports))

    def _file(self, name: str) -> str | None:
        """Return the file of a module; None for another package's module, or a package itself, which holds no code."""
        path = Path(*name.split(".")).with_suffix(".py")
        return path.as_posix() if path.parts[0] in PACKAGES and (self._root / path).is_file() else None

    def save(self) -> None:
        """Keep the parsed modules for the next process. Several processes may save at the same time."""
        if self._cache is None or self._used == self._cached:
            return
        with disk_errors(self._cache):
            write_json(self._cache, {key: [module.digest, module.imports] for key, module in self._used.items()})


def _read_cache(path: Path | None) -> dict[str, Module]:
    with suppress(OSError, ValueError, TypeError):
        stored = json.loads(path.read_text(encoding="utf-8")) if path else {}
        return {key: Module(digest, tuple(imports)) for key, (digest, imports) in stored.items()}
    return {}


def _strip(node: ast.AST, *, schema: bool) -> None:
    """Remove docstrings from a tree and, where it is the schema of params, what the resolved values cover."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        if ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
        if schema:
            node.body = [statement for statement in node.body if not _is_schema(statement)]
    for statement in statements(node):
        _strip(statement, schema=schema)


def _is_schema(node: ast.AST) -> bool:
    """Whether a statement only says which values params may have: a field, a validator, or a class of these alone."""
    if isinstance(node, ast.FunctionDef):
        return any("validator" in ast.dump(decorator) for decorator in node.decorator_list)
    if isinstance(node, ast.ClassDef):
        return all(_is_schema(statement) for statement in node.body)
    return isinstance(node, (ast.AnnAssign, ast.Expr, ast.Pass))


def resolved(params: Params, sections: Mapping[str, Any] | list[str]) -> dict[str, Any]:
    """Return the values of some sections of params, defaults included."""
    return {name: params.section(name).model_dump(mode="json") for name in sections}


def sections_of(declared: Mapping[str, Any]) -> list[str]:
    """Return the sections of params.yaml that a stage of dvc.yaml receives."""
    return [item for item in declared.get("params", []) if isinstance(item, str)]


def named_files(params: Params, sections: list[str], workspace: Path) -> dict[str, str]:
    """Return path -> content sum of each file of the user's own that these sections name and the stage reads.

    Raises:
        ParamsError: a file does not exist.
    """
    templates = params.evaluate.behaviour.templates
    if "evaluate" not in sections or templates is None:
        return {}
    path = workspace / templates
    if not path.is_file():
        raise ParamsError(
            f"evaluate.behaviour.templates is {templates!r}, but there is no such file; write it, or set null"
        )
    return {templates: sha256_file(path)}


def identities(
    params: Params, graph: Mapping[str, Any], code: Code, workspace: Path = Path()
) -> dict[str, dict[str, str]]:
    """Return stage -> digests of its code and params, for the stages of dvc.yaml that depend on their entry.

    The params count with the content of the files that they name.
    """

    def values(sections: list[str]) -> dict[str, Any]:
        files = named_files(params, sections, workspace)
        return resolved(params, sections) | ({"files": files} if files else {})

    return {
        name: {
            "code": _digest(code.modules(name)),
            "params": _digest(values(sections_of(declared))),
        }
        for name, declared in graph.items()
        if {CODE_FILE.as_posix(): [name]} in declared.get("params", [])
    }


def _digest(value: Any) -> str:
    return sha256_value(value)[:32]


def write_code_file(workspace: Path, params: Params) -> None:
    """Bring `code.yaml` of a workspace up to date; a file that is up to date is not touched."""
    graph = yaml.safe_load((workspace / DVC_FILE).read_text(encoding="utf-8"))["stages"]
    if STAGE not in graph:
        return
    code = Code(cache=workspace / CODE_CACHE)
    text = _HEAD + yaml.safe_dump(identities(params, graph, code, workspace), sort_keys=False)
    code.save()
    path = workspace / CODE_FILE
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def check_code_file(workspace: Path, stage: str, code: Mapping[str, str]) -> None:
    """Refuse to run a stage with other code than `code.yaml` names: DVC would record its outs under the wrong digest.

    Args:
        workspace: folder of dvc.yaml.
        stage: its name.
        code: its modules now, from `Code.modules`.

    Raises:
        ToolError: they differ.
    """
    path = workspace / CODE_FILE
    if not path.exists():
        return
    with suppress(yaml.YAMLError, UnicodeDecodeError):
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        entry = entries.get(stage) if isinstance(entries, dict) else None
        if isinstance(entry, dict) and entry.get("code") == _digest(code):
            return
    raise ToolError(
        f"{CODE_FILE} names other code of {stage} than this Potstill has; `potstill run`, or `dvc repro` without "
        "--single-item, brings it up to date"
    )
