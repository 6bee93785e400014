"""Sentences about values of params that do not fit: the key, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import date
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from potstill.errors import redacted

Sections = Mapping[str, Any]


def field_names(model: type[BaseModel]) -> list[str]:
    """The keys of a section as params.yaml has them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def misfits(sections: Sections, values: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> str:
    """Say what does not fit, a clause for each error; names that YAML misreads share a clause for each key.

    Args:
        sections: name of a section -> its type.
        values: the values that were checked.
        errors: pydantic's errors, their `loc` from the section on.
    """
    items = [dict(error) for error in errors]
    texts = {_outer(item["loc"]) for item in items if item["type"] == "string_type"}
    misread: dict[str, list[Any]] = {}
    clauses: list[str] = []
    for item in items:
        path = _outer(item["loc"])
        null_name = item["input"] is None and path != item["loc"]
        if path not in texts or not (null_name or isinstance(item["input"], (bool, float, date))):
            clauses.append(_explain(sections, item))
            continue
        keys = path[:-2] if path[-1] == "[key]" else path[: -1 if isinstance(path[-1], int) else None]
        misread.setdefault(".".join(_walk(sections, [str(key) for key in keys])[0]), []).append(item["input"])
    clauses += [_explain_names(key, list(dict.fromkeys(values))) for key, values in misread.items()]
    return "; ".join(dict.fromkeys(clauses))


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Say that there is no such key, and which one may have been meant.

    Args:
        key: with dots, as the user wrote it.
        known: the keys that there are in place of its last part.
    """
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}" if known else "remove it"
    return f"unknown key {key!r}; {hint}"


def _outer(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The path of a value, without the type that pydantic adds if several are allowed."""
    return path[:-1] if path[-1:] in (("str",), ("int",)) else path


def _explain_names(key: str, values: Sequence[Any]) -> str:
    """Say which names YAML has read as truth values, numbers or dates."""
    known = {"True": ("yes", "true"), "False": ("no", "false"), "None": ("null", "nothing")}
    words = [known.get(str(value), (str(value), f"a {type(value).__name__}")) for value in values]
    written = [word for word, _ in words]
    read = " and ".join(f"{word} as {kind}" for word, kind in words)
    quoted = ", ".join(f'"{word}"' for word in written)
    return f"{key}: YAML reads {read}; quote {'it' if len(written) == 1 else 'them'}: {quoted}"


def _explain(sections: Sections, item: dict[str, Any]) -> str:
    """Say in one clause what does not fit: the key, the value, what is allowed."""
    parts = [str(part) for part in item["loc"]]
    key = ".".join(_walk(sections, parts)[0])
    if item["type"] == "extra_forbidden":
        owner = _walk(sections, parts[:-1])[1]
        if len(parts) == 1:
            return unknown_key(key, list(sections))
        return unknown_key(key, field_names(owner) if _is_model(owner) else [])
    if item["type"] == "missing":
        return f"{key} is missing"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if item["type"] == "value_error" and isinstance(item["input"], dict):
        return f"{key}: {message}" if key else message
    return f"{key} = {redacted(repr(item['input']))}: {message}"


def _walk(sections: Sections, path: list[str]) -> tuple[list[str], Any]:
    """The parts of a key as the user wrote it, without the kinds that pydantic inserts, and the type at its end."""
    keys: list[str] = path[:1]
    annotation: Any = sections.get(path[0]) if path else None
    for part in path[1:]:
        annotation = _plain(annotation)
        members = [member for member in get_args(annotation) if _is_model(member)]
        if get_origin(annotation) in (Union, UnionType) and members:
            annotation = next((member for member in members if _kind(member) == part), None)
            continue
        keys.append(part)
        if _is_model(annotation):
            fields = annotation.model_fields.items()
            annotation = next((field.annotation for name, field in fields if part in (name, field.alias)), None)
        else:  # an item of a list or a dict
            annotation = (get_args(annotation) or (None,))[-1]
    return keys, _plain(annotation)


def _plain(annotation: Any) -> Any:
    """An annotation without its limits; of a section or null, the section."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    members = [member for member in get_args(annotation) if _is_model(member)]
    optional = get_origin(annotation) in (Union, UnionType) and [_kind(member) for member in members] == [None]
    return members[0] if optional else annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(model: type[BaseModel]) -> object:
    """The kind of a member of a union, or None."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation)[0] if field is not None else None
