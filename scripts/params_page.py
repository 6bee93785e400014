#!/usr/bin/env python
"""The tables of docs/params.md, written from the docstrings, types, limits and defaults in potstill/config.

A table stands between the lines `<!-- params: PATH -->` and `<!-- end -->`. The path names one section, or several that
share a table; `sections` stands for the list of all sections, `training` for the keys of all sections that train.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from flows.commands.explain_params import read_graph, receivers
from potstill.config.key_reference import (
    OF_ITS_KEYS,
    REQUIRED,
    Key,
    Schema,
    describe,
    find,
    keys,
    kind_of,
    sections,
    summarize,
    training_section,
)

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "params.md"
_TABLE = re.compile(r"(<!-- params: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str) -> str:
    """Write the tables into a page.

    Raises:
        ValueError: a section has no table in the page.
    """
    shown = {section["title"] for _, paths, _ in _TABLE.findall(text) for section in _kinds(paths)}
    missing = [path for path, section in _all_sections() if section["title"] not in shown and _own_keys([section])]
    if missing:
        raise ValueError(f"{PAGE} has no table for {', '.join(missing)}")
    return _TABLE.sub(lambda match: f"{match[1]}\n{_render(match[2])}\n{match[3]}", text)


def _render(paths: str) -> str:
    if paths == "sections":
        return _list_sections()
    kinds = _kinds(paths)
    shown = keys(kinds) if paths == "training" else _own_keys(kinds)
    tables = [_table(("key", "type", "default", "what it sets"), map(_cells, shown))]
    if len(kinds) > 1:
        tables.insert(0, _table(("kind", "what it is"), ([f"`{kind_of(kind)}`", describe(kind)] for kind in kinds)))
    return "\n".join(tables)


def _own_keys(kinds: Sequence[Schema]) -> list[Key]:
    """The keys that not every section that trains has."""
    common = keys([training_section()])
    return [key for key in keys(kinds) if key not in common]


def _list_sections() -> str:
    graph = read_graph(REPOSITORY / "dvc.yaml")
    rows = [
        [f"[`{name}`](#{name})", ", ".join(receivers(name, graph)), summarize(section)]
        for name, section in sections().items()
    ]
    return _table(("section", "who receives it", "what it sets"), rows)


def _kinds(paths: str) -> list[Schema]:
    """The kinds of the sections at some paths, each kind once."""
    if paths in ("sections", "training"):
        return [training_section()] if paths == "training" else []
    kinds = [section for path in paths.split() for section in find(path)[0].sections]
    return list({section["title"]: section for section in kinds}.values())


def _all_sections() -> Iterator[tuple[str, Schema]]:
    """Path and schema of every section and of every section in it."""
    waiting = list(sections().items())
    for path, section in waiting:
        yield path, section
        waiting += [(f"{path}.{key.name}", below) for key in keys([section]) for below in key.sections]


def _cells(key: Key) -> list[str]:
    name = f"`{key.name}`"
    if key.kinds:
        name += f" of {', '.join(f'`{kind}`' for kind in key.kinds)}"
    limits = f"; {key.limits}" if key.limits else ""
    default = key.default if key.default in (REQUIRED, OF_ITS_KEYS) else f"`{key.default}`"
    return [name, key.type + limits, default, key.description]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["|" + "---|" * len(head)] + [_row(cell.replace("|", r"\|") for cell in row) for row in rows]
    return "\n".join([_row(head), *lines]) + "\n"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the page."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
