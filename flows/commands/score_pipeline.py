"""`potstill score`: the ML Test Score of the pipeline, with its proofs checked where the tests are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.commands.ml_test_score import ITEMS, PAGE, SECTIONS, TARGET, Item, score, section_points
from flows.json_output import print_json
from potstill.errors import PotstillError
from tasks.identity import ROOT


def show(*, as_json: bool) -> None:
    """Print the score, its items and whether their proofs exist.

    Args:
        as_json: whether to print JSON.

    Raises:
        PotstillError: this is a checkout, and a test or a page that the score names is not there.
    """
    checked = has_tests(ROOT)
    if checked and (missing := missing_proofs(ROOT, ITEMS)):
        raise PotstillError(
            f"the score names what does not exist: {', '.join(missing)}; correct flows/commands/ml_test_score.py"
        )
    if as_json:
        print_json(to_json(checked=checked))
        return
    _print_table()
    state = f"each exists in {ROOT}" if checked else "only a checkout of Potstill has them"
    print(f"{sum(len(item.tests) for item in ITEMS)} tests prove this; {state}")


def to_json(*, checked: bool) -> dict[str, Any]:
    """Return the score as plain values.

    Args:
        checked: whether the ids were looked up in a checkout.
    """
    return {
        "score": score(),
        "wanted": TARGET,
        "sections": section_points(),
        "items": [asdict(item) for item in ITEMS],
        "checked": checked,
    }


def has_tests(root: Path) -> bool:
    """Whether a folder is a checkout, with the tests and pages that an installed package lacks."""
    return (root / "tests" / "conftest.py").is_file() and (root / PAGE).is_file()


def missing_proofs(root: Path, items: Iterable[Item]) -> list[str]:
    """List the tests and pages of items that do not exist in a checkout."""
    items = list(items)
    tests = {test for item in items for test in item.tests}
    pages = {page for item in items for page in item.pages}
    files = {test.partition("::")[0] for test in tests}
    defined = {f"{name}::{function}" for name in files for function in _functions(root / "tests" / name)}
    lost_tests = [f"tests/{test}" for test in sorted(tests - defined)]
    return lost_tests + [f"docs/{page}" for page in sorted(pages) if not _has_anchor(root / "docs", page)]


def _functions(path: Path) -> list[str]:
    """List the functions that a file defines at its top level; none where there is no file."""
    if not path.is_file():
        return []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _has_anchor(folder: Path, page: str) -> bool:
    """Whether a page exists and has a heading of that anchor, as GitHub makes it."""
    name, _, anchor = page.partition("#")
    path = folder / name
    if not path.is_file():
        return False
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return not anchor or anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def _print_table() -> None:
    points = section_points()
    for section, title in SECTIONS.items():
        table = Table(title=f"{title}: {points[section]:g} of 7", title_justify="left", show_edge=False)
        for heading in ("points", "practice", "why"):
            table.add_column(heading, overflow="fold")
        for item in ITEMS:
            if item.section == section:
                table.add_row(f"{item.points:g}", item.practice, item.reason)
        Console().print(table)
        print()
    weakest = min(points, key=lambda section: points[section])
    print(f"ML Test Score {score():g}, that of the weakest section ({SECTIONS[weakest].lower()}); {TARGET:g} is wanted")
