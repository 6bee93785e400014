"""Reading and writing the YAML of params.yaml, and checking one section of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from potstill.config.base import Section
from potstill.config.misfits import misfits
from potstill.errors import ParamsError

# Values that a file may have, with all that its aliases stand for: a few lines of them can stand for billions.
_MOST_VALUES = 100_000


class _Loader(yaml.SafeLoader):
    """A loader with the floats of YAML 1.2: `1e-05`, as `dvc exp run -S` writes it, is a text to PyYAML's 1.1.

    Like DVC, it refuses a key that a mapping has twice, of which PyYAML keeps the last one.
    """

    def get_single_node(self) -> yaml.Node | None:
        """Read the document, and refuse one whose aliases stand for too much."""
        node = super().get_single_node()
        if node is not None and _count_values(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {_MOST_VALUES} values; write them out")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read a mapping, whose keys have to differ."""
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"line {line} has the key {key.value!r} a second time; remove one of the two")
                keys.add((key.tag, key.value))
        return node


def _count_values(node: yaml.Node, counts: dict[int, float]) -> float:
    """Count the values of a node; of one that contains itself there is no end."""
    if id(node) not in counts:
        counts[id(node)] = math.inf
        items = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for item in items for part in (item if isinstance(item, tuple) else (item,))]
        counts[id(node)] = 1 + sum(_count_values(part, counts) for part in parts)
    return counts[id(node)]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """The value of a YAML text, with YAML 1.2's floats.

    Raises:
        YAMLError: it is none, it is nested too deeply, a mapping has a key twice, or its aliases stand for more than
            anybody writes.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, LookupError, AttributeError) as error:  # such as a date in the 13th month
        raise yaml.YAMLError(f"it has a value that is none ({error})") from error


def as_yaml(value: Any) -> str:
    """A value as params.yaml has it, on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.strip().removesuffix("...").strip()


def read_params(path: Path) -> dict[str, Any]:
    """Read the values of a params file, not checked yet."""
    try:
        value = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ParamsError(f"{path} does not exist; make one with `potstill init`") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except OSError as error:  # a folder, or no permission
        raise ParamsError(f"{path} cannot be read ({error.strerror}); it has to be a YAML file") from error
    if not isinstance(value, dict):
        raise ParamsError(f"{path} must be a mapping of sections (project, ingest, ...)")
    return value


def parse_section(name: str, kind: type[Section], values: Mapping[str, Any]) -> Section:
    """Check a single section. See `params_file.load_params` for errors."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        errors = [dict(item) | {"loc": (name, *item["loc"])} for item in error.errors()]
        raise ParamsError(misfits({name: kind}, values, errors)) from error
