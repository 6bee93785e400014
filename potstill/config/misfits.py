"""What does not fit in params, as sentences: the key, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import date
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

Sections = Mapping[str, Any]


def field_names(model: type[BaseModel]) -> list[str]:
    """The keys of a section as params.yaml has them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def misfits(sections: Sections, values: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> str:
    """Say what does not fit, each in one clause; of names that YAML reads as something else one clause for each key.

    Args:
        sections: name of a section -> its type.
        values: what was checked.
        errors: what pydantic found, `loc` from the section on.
    """
    items = [dict(error) for error in errors]
    strings = {_outer(item["loc"]) for item in items if item["type"] == "string_type"}
    misread: dict[str, list[Any]] = {}
    clauses: list[str] = []
    for item in items:
        place = _outer(item["loc"])
        null_name = item["input"] is None and place != item["loc"]
        if place not in strings or not (null_name or isinstance(item["input"], (bool, float, date))):
            clauses.append(_explain(sections, item))
            continue
        keys = place[:-2] if place[-1] == "[key]" else place[: -1 if isinstance(place[-1], int) else None]
        misread.setdefault(".".join(_walk(sections, [str(key) for key in keys])[0]), []).append(item["input"])
    clauses += [_explain_names(key, list(dict.fromkeys(values))) for key, values in misread.items()]
    return "; ".join(dict.fromkeys(clauses))


def _outer(place: tuple[Any, ...]) -> tuple[Any, ...]:
    """The place of a value, without the type that pydantic adds where several are allowed."""
    return place[:-1] if place[-1:] in (("str",), ("int",)) else place


def _explain_names(key: str, values: Sequence[Any]) -> str:
    """Names that YAML has read as truth values, numbers or dates."""
    known = {"True": ("yes", "true"), "False": ("no", "false"), "None": ("null", "nothing")}
    words = [known.get(str(value), (str(value), f"a {type(value).__name__}")) for value in values]
    written = [word for word, _ in words]
    read = " and ".join(f"{word} as {kind}" for word, kind in words)
    quoted = ", ".join(f'"{word}"' for word in written)
    return f"{key}: YAML reads {read}; quote {'it' if len(written) == 1 else 'them'}: {quoted}"


def _explain(sections: Sections, item: dict[str, Any]) -> str:
    """One misfit in one clause: the key, the value, what is allowed."""
    parts = [str(part) for part in item["loc"]]
    key = ".".join(_walk(sections, parts)[0])
    if item["type"] == "extra_forbidden":
        owner = _walk(sections, parts[:-1])[1]
        known = list(sections) if len(parts) == 1 else field_names(owner) if _is_model(owner) else []
        near = difflib.get_close_matches(parts[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}" if known else "remove it"
        return f"unknown key {key!r}; {hint}"
    if item["type"] == "missing":
        return f"{key} is missing"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if item["type"] == "value_error" and isinstance(item["input"], dict):
        return f"{key}: {message}" if key else message
    return f"{key} = {item['input']!r}: {message}"


def _walk(sections: Sections, path: list[str]) -> tuple[list[str], Any]:
    """The parts of a key as the user wrote it, without the kinds that pydantic puts in, and the type at its end."""
    shown: list[str] = path[:1]
    found: Any = sections.get(path[0]) if path else None
    for part in path[1:]:
        found = _plain(found)
        members = [member for member in get_args(found) if _is_model(member)]
        if get_origin(found) in (Union, UnionType) and members:
            found = next((member for member in members if _kind(member) == part), None)
            continue
        shown.append(part)
        if _is_model(found):
            fields = found.model_fields.items()
            found = next((field.annotation for name, field in fields if part in (name, field.alias)), None)
        else:  # an item of a list or a dict
            found = (get_args(found) or (None,))[-1]
    return shown, _plain(found)


def _plain(annotation: Any) -> Any:
    """Without its limits, and the section of a section or null."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    members = [member for member in get_args(annotation) if _is_model(member)]
    alone = get_origin(annotation) in (Union, UnionType) and [_kind(member) for member in members] == [None]
    return members[0] if alone else annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kind(model: type[BaseModel]) -> object:
    """The kind of a member of a union, or None."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation)[0] if field is not None else None
