"""The imports of a module, read from its syntax tree without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the direct child statements of a node, including except handlers and match cases."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        children = getattr(node, block, [])
        yield from children if isinstance(children, list) else []


def imported_names(node: ast.AST) -> Iterator[str]:
    """Yield the absolute names that a tree imports, inside functions too; some name an object of a module.

    Imports under `TYPE_CHECKING` are left out.
    """
    for statement in statements(node):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)
        elif not (isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"):
            yield from imported_names(statement)
