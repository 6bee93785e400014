#!/usr/bin/env python
"""The packages of a Bento: everything that pyproject.toml's base install brings along, as requirements.lock pins it.

`python scripts/serving_pins.py` prints what bentofile.yaml should list; `--write` writes it there. With all of them
pinned, a Bento is installed the same way later: BentoML's own locking asks a package index when a Bento is built.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

REPOSITORY = Path(__file__).resolve().parent.parent


def serving_pins() -> list[str]:
    """`name==version` of the base install and all it requires on Linux, sorted by name."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: dict[str, set[str]] = {}
    for requirement in project["dependencies"]:
        _add(Requirement(requirement), found)
    locked = _locked()
    return [f"{name}=={locked.get(name) or metadata.version(name)}" for name in sorted(found)]


def _add(requirement: Requirement, found: dict[str, set[str]]) -> None:
    name = canonicalize_name(requirement.name)
    if name in found and requirement.extras <= found[name]:
        return
    found.setdefault(name, set()).update(requirement.extras)
    for line in metadata.requires(name) or []:
        further = Requirement(line)
        if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in ("", *found[name])):
            _add(further, found)


def _locked() -> dict[str, str]:
    """Name -> version; the first of several, which is the one of the oldest Python, that of the image."""
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\n]+)", lock, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in reversed(pins)}


def main() -> None:
    """Print or write the pins."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write them into bentofile.yaml")
    pins = serving_pins()
    if not parser.parse_args().write:
        print("\n".join(pins))
        return
    path = REPOSITORY / "bentofile.yaml"
    editor = YAML()
    editor.width, editor.preserve_quotes = 120, True
    editor.indent(mapping=2, sequence=4, offset=2)
    document = editor.load(path.read_text(encoding="utf-8"))
    document["python"]["packages"][:] = pins
    with path.open("w", encoding="utf-8") as handle:
        editor.dump(document, handle)


if __name__ == "__main__":
    main()
