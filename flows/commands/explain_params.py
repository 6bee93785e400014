"""`potstill params`: what a key or a section of params.yaml means, and who receives it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from potstill.config.key_reference import REQUIRED, Key, Schema, describe, find, keys, kind_of, sections, summarize
from potstill.paths import DVC_FILE
from tasks.identity import STAGE, sections_of
from tasks.stage import default_file

# Longest line, in characters.
_WIDTH = 120
# Steps and commands that receive a section, next to the stages of dvc.yaml.
_READERS = {
    "gate": ["gate"],
    "promote": ["promote"],
    "sign": ["package", "register", "`potstill serve`"],
    "search": ["`potstill search`"],
    "serve": ["package", "`potstill serve`"],
    "watch": ["package", "`potstill serve`", "`potstill drift`"],
    "predict": ["`potstill predict`"],
    "stream": ["`potstill predict --from`"],
    "alerts": ["`potstill predict --from`", "`potstill predict --watch`"],
    "smoke": ["smoke"],
    "compute": ["training stages", "signals", "`potstill join`"],
    "schedule": ["`potstill schedule`", "every stage"],
    "notify": [
        f"`potstill {command}`"
        for command in ("run", "approve", "promote", "rollback", "veto", "drift", "feedback", "notify")
    ],
    "servers": ["`potstill up`", "`potstill schedule`"],
}


def show(workspace: Path, path: str | None) -> None:
    """Print what a key or a section means, or what sections there are.

    Args:
        workspace: folder of dvc.yaml; if it has none, the stages are those of Potstill's own.
        path: the key with dots; None: all sections.

    Raises:
        ParamsError: there is no such key.
    """
    width = min(shutil.get_terminal_size((_WIDTH, 24)).columns, _WIDTH)
    dvc_file = workspace / DVC_FILE
    graph = read_graph(dvc_file if dvc_file.exists() else default_file("dvc.yaml"))
    lines = _overview() if path is None else _explanation(path, receivers(path.partition(".")[0], graph))
    for indent, text in lines:
        print(textwrap.fill(text, width, initial_indent=indent, subsequent_indent=" " * len(indent)))


def read_graph(path: Path) -> dict[str, Any]:
    """Read the stages of a dvc.yaml, as it declares them."""
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["stages"])


def receivers(section: str, graph: Mapping[str, Any]) -> list[str]:
    """List the stages and commands that receive a section of params.yaml.

    Args:
        section: its name.
        graph: stages of a dvc.yaml.
    """
    stages = [name for name in graph if name != STAGE]
    receiving = [name for name in stages if section in sections_of(graph[name])]
    return _READERS.get(section, []) + (["every stage"] if receiving == stages else receiving)


def _overview() -> Iterator[tuple[str, str]]:
    """Yield an indent and a text for each section."""
    for name, section in sections().items():
        yield f"{name:<10} ", summarize(section)
    yield "", "`potstill params distill` explains a section, `potstill params distill.temperature` a key."


def _explanation(path: str, stages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield an indent and a text for each line about a key, in all its meanings."""
    for key in find(path):
        title = f"{path} ({', '.join(key.kinds)})" if key.kinds else path
        yield "", f"{title}: {key.description or describe(key.sections[0])}"
        facts = {"type": key.type, "limits": key.limits, "default": key.default, "stages": ", ".join(stages)}
        for name, text in facts.items():
            if text:
                yield f"  {name:<8} ", text
        yield from _section_lines(key.sections)


def _section_lines(kinds: Sequence[Schema]) -> Iterator[tuple[str, str]]:
    for section in kinds:
        if kind_of(section) is not None:
            yield f"  kind {kind_of(section)}: ", describe(section)
    for key in keys(kinds):
        yield "  ", _headline(key)
        yield "      ", key.description


def _headline(key: Key) -> str:
    name = f"{key.name} ({', '.join(key.kinds)})" if key.kinds else key.name
    return f"{name}: {key.type}; {REQUIRED if key.default == REQUIRED else f'default {key.default}'}"
