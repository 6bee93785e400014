"""What each key of params means: description, type, limits and default, read from the schema of the sections."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from potstill.config.misfits import unknown_key
from potstill.config.params import Params
from potstill.config.training_params import Training
from potstill.config.yaml_file import as_yaml
from potstill.errors import ParamsError

Schema = Mapping[str, Any]
REQUIRED = "required"
OF_ITS_KEYS = "those of its keys"
_TYPES = {"boolean": "true or false", "string": "text"}


@dataclass(frozen=True)
class Key:
    """One key of a section, and which kinds of the section have it.

    Attributes:
        name: its name in the section.
        description: what it sets.
        type: in words.
        limits: in words; empty if there are none.
        default: as YAML, or `REQUIRED`; `OF_ITS_KEYS` for a section that may be left out.
        kinds: the kinds that have it; empty if all have it, or if there are none.
        sections: schemas of the section below it, one for each kind; empty for a plain value.
    """

    name: str
    description: str
    type: str
    limits: str
    default: str
    kinds: tuple[str, ...]
    sections: tuple[Schema, ...]


def sections() -> dict[str, Schema]:
    """The sections of params.yaml by name."""
    return {name: _models(field)[0] for name, field in _schema()["properties"].items()}


def training_section() -> Schema:
    """The keys that all sections of stages that train have in common."""
    return Training.model_json_schema()


def describe(section: Schema) -> str:
    """The docstring of a section on one line."""
    return " ".join(section["description"].split())


def summarize(section: Schema) -> str:
    """The first paragraph of a section's docstring."""
    return " ".join(section["description"].partition("\n\n")[0].split())


def kind_of(section: Schema) -> str | None:
    """The kind of a section that is one of several kinds."""
    kind = section["properties"].get("kind")
    return None if kind is None else kind["const"]


def keys(kinds: Sequence[Schema]) -> list[Key]:
    """The keys of a section, given as the schemas of its kinds; kinds that agree on a key share one entry."""
    merged: list[Key] = []
    for section in kinds:
        for key in _keys_of_kind(section):
            index = next((i for i, known in enumerate(merged) if replace(known, kinds=key.kinds) == key), None)
            if index is None:
                merged.append(key)
            else:
                merged[index] = replace(key, kinds=(*merged[index].kinds, *key.kinds))
    return [replace(key, kinds=()) if len(key.kinds) == len(kinds) else key for key in merged]


def _keys_of_kind(section: Schema) -> Iterator[Key]:
    kind = kind_of(section)
    for name, field in section["properties"].items():
        if name != "kind":
            required = name in section.get("required", ())
            yield _key(name, field, required=required, kinds=() if kind is None else (kind,))


def _key(name: str, field: Schema, *, required: bool, kinds: tuple[str, ...] = ()) -> Key:
    return Key(
        name=name,
        description=field.get("description", ""),
        type=_type(field),
        limits=", ".join(_limits(field)),
        default=REQUIRED if required else _default(field),
        kinds=kinds,
        sections=tuple(_models(field)),
    )


def find(path: str) -> list[Key]:
    """The key at a path with dots, once for each meaning that it has in the kinds of its section.

    Positions in lists and names in mappings may be left out: `distill.terms.0.weight` or `distill.terms.weight`.

    Raises:
        ParamsError: there is no such key; the message says which one may have been meant.
    """
    first, *parts = path.split(".")
    if first not in sections():
        raise ParamsError(unknown_key(first, list(sections())))
    matches = [_key(first, _schema()["properties"][first], required=first in _schema()["required"])]
    containers: list[str] = []
    for index, part in enumerate(parts):
        below = [key for match in matches for key in keys(match.sections)]
        named = [key for key in below if key.name == part]
        if named:
            matches = named
            containers = re.findall("list|mapping", matches[0].type)
        elif containers and (containers[0] == "mapping" or part.isdecimal()):
            containers = containers[1:]
        else:
            known = list(dict.fromkeys(key.name for key in below))
            raise ParamsError(unknown_key(".".join([first, *parts[: index + 1]]), known))
    return matches


@cache
def _schema() -> Schema:
    return Params.model_json_schema()


def _models(field: Schema) -> list[Schema]:
    """The schemas of the sections that a value is or contains."""
    if "$ref" in field:
        return [_schema()["$defs"][field["$ref"].rpartition("/")[2]]]
    inner = [*field.get("anyOf", ()), *field.get("oneOf", ()), *_contents(field)]
    return [model for alternative in inner for model in _models(alternative)]


def _contents(field: Schema) -> list[Schema]:
    """The schema of a list's items or of a mapping's values."""
    values = [field.get("items"), field.get("additionalProperties"), *field.get("patternProperties", {}).values()]
    return [value for value in values if isinstance(value, Mapping)]


def _type(field: Schema, *, plural: bool = False) -> str:
    """The type of a value in words."""
    if "enum" in field or "const" in field:
        return _join([as_yaml(value) for value in field.get("enum", [field.get("const")])])
    if "anyOf" in field:
        alternatives = [_type(member, plural=plural) for member in field["anyOf"] if member.get("type") != "null"]
        text = _join([word for alternative in alternatives for word in alternative.split(" or ")])
        optional = len(alternatives) < len(field["anyOf"])
        return text + (", or null" if " or " in text else " or null") * optional
    contents = "".join(_type(content, plural=True) for content in _contents(field))
    noun: str = field.get("type", "section")
    if noun == "array":
        return f"list{'s' * plural} of {contents}"
    if contents:
        return f"mapping{'s' * plural} of names to {contents}"
    return _TYPES.get(noun, noun) + "s" * plural


def _join(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _limits(field: Schema) -> list[str]:
    """The limits of a value in words, then those of its items or values."""
    limits = [*_range(field)]
    for noun, name in (("character", "Length"), ("item", "Items"), ("entry", "Properties")):
        limits += _count(noun, field.get(f"min{name}"), field.get(f"max{name}"))
    limits += [f"pattern `{field['pattern']}`"] if "pattern" in field else []
    limits += [f"names of pattern `{pattern}`" for pattern in field.get("patternProperties", ())]
    limits += [f"names {_join(field['propertyNames']['enum'])}"] if "propertyNames" in field else []
    limits += [limit for alternative in field.get("anyOf", ()) for limit in _limits(alternative)]
    for content in _contents(field):
        limits += [limit if limit.startswith("each ") else f"each {limit}" for limit in _limits(content)]
    return limits


def _range(field: Schema) -> Iterator[str]:
    if "minimum" in field and "maximum" in field:
        yield f"{field['minimum']} to {field['maximum']}"
        return
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    yield from (f"{word} {field[key]}" for key, word in words.items() if key in field)


def _count(noun: str, fewest: int | None, most: int | None) -> Iterator[str]:
    plural = noun.removesuffix("y") + "ies" if noun.endswith("y") else noun + "s"
    if fewest is not None and fewest == most:
        yield f"{fewest} {noun if fewest == 1 else plural}"
    elif fewest is not None:
        yield f"at least {fewest} {noun if fewest == 1 else plural}"


def _default(field: Schema) -> str:
    text = as_yaml(_short(field["default"], field))
    return OF_ITS_KEYS if text == "{}" and _type(field) == "section" else text


def _short(value: Any, field: Schema) -> Any:
    """A default without the defaults of the sections in it."""
    if isinstance(value, list):
        return [_short(item, field) for item in value]
    models = _models(field)
    if not isinstance(value, dict) or not models:
        return value
    model = next((model for model in models if kind_of(model) == value.get("kind")), None)
    if model is None:  # a mapping of names to sections
        return {name: _short(item, field) for name, item in value.items()}
    known = model["properties"]
    return {name: item for name, item in value.items() if item != known[name].get("default", REQUIRED)}
