"""Change params.yaml from the command line: the changes are checked as a whole, then written with all comments kept."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from potstill.artifacts import write_text
from potstill.config.params_file import parse_params
from potstill.config.yaml_file import load_yaml, read_params
from potstill.errors import ParamsError


def change_params(path: Path, sections: Path | None, settings: list[str]) -> list[str]:
    """Change params.yaml; a result that is not valid is not written.

    Args:
        path: params.yaml.
        sections: a YAML file whose top-level sections replace those of the same name.
        settings: `key=value`, the key with dots (`distill.temperature`), the value in YAML.

    Returns:
        One sentence for each value that changed.

    Raises:
        ParamsError: a setting that cannot be read, or a result that is not valid.
    """
    before = read_params(path)
    document = edit_params(path)
    if sections is not None:
        document.update(_read_sections(sections))
    for setting in settings:
        _set(document, setting)
    text = dump_params(document)
    after = load_yaml(text)
    parse_params(after, where=f"{path} with these changes")
    changed = list(_differences(before, after, ""))
    if changed:
        write_text(path, text)
    return changed


def _read_sections(path: Path) -> dict[str, Any]:
    """Read the sections of the file that `--params` names.

    Raises:
        ParamsError: there is no such file, or it does not hold sections.
    """
    advice = "name a YAML file whose top-level sections replace those of params.yaml"
    if not path.exists():
        near = difflib.get_close_matches(path.name, [file.name for file in path.parent.glob("*.y*ml")], n=1)
        hint = f" (did you mean {path.with_name(near[0])}?)" if near else ""
        raise ParamsError(f"--params {path} does not exist{hint}; {advice}")
    if path.is_dir():
        raise ParamsError(f"--params {path} is a folder; {advice}")
    try:
        path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        why = "is not text" if isinstance(error, UnicodeDecodeError) else f"cannot be read ({error.strerror})"
        raise ParamsError(f"--params {path} {why}; {advice}") from error
    try:
        return read_params(path)
    except ParamsError as error:
        raise ParamsError(f"--params {error}; {advice}") from error


def edit_params(path: Path) -> Any:
    """Open params.yaml as a document that keeps its comments while it is changed."""
    return _round_trip().load(path.read_text(encoding="utf-8"))


def dump_params(document: Any) -> str:
    """Return the text of an edited params.yaml."""
    text = io.StringIO()
    _round_trip().dump(document, text)
    return text.getvalue()


def _round_trip() -> Any:
    from ruamel.yaml import YAML

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096
    editor.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    editor.representer.add_representer(str, _represent_text)
    editor.indent(mapping=2, sequence=4, offset=2)
    return editor


def _represent_text(representer: Any, text: str) -> Any:
    """Quote a text that PyYAML, which reads params.yaml, would take for something else: no, on, 3:30."""
    import yaml

    tag = "tag:yaml.org,2002:str"
    resolver: Any = yaml.SafeLoader("")
    is_text = resolver.resolve(yaml.ScalarNode, text, (True, False)) == tag
    return representer.represent_scalar(tag, text, style=None if is_text else "'")


def _set(document: Any, setting: str) -> None:
    key, equals, raw = setting.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ParamsError(f"--set {setting!r} is not KEY=VALUE, such as --set distill.temperature=4")
    value = _parse_value(key, raw)
    parent = document
    for index, part in enumerate(parts[:-1]):
        child = _child(parent, part)
        if child is None:
            child = parent[part] = {}
        if not isinstance(child, (dict, list)):
            raise ParamsError(f"--set {key}: {'.'.join(parts[: index + 1])} is a single value, nothing is below it")
        parent = child
    last = parts[-1]
    if isinstance(parent, list):
        _child(parent, last)
        parent[int(last)] = value
    else:
        parent[last] = value


def _parse_value(key: str, raw: str) -> Any:
    """Parse a value as YAML 1.2, as the editor does: 1e-4 is a number there, but a text to PyYAML."""
    from ruamel.yaml.error import YAMLError

    try:
        value = _round_trip().load(raw)
    except (YAMLError, ValueError, LookupError) as error:  # a ValueError: a date in the 13th month
        raise ParamsError(f"--set {key}: {raw!r} is not a YAML value") from error
    return float(value) if isinstance(value, float) else value


def _child(parent: Any, part: str) -> Any:
    if isinstance(parent, list):
        if not part.isdecimal() or int(part) >= len(parent):
            raise ParamsError(f"--set: {part!r} is no position in a list of {len(parent)}")
        return parent[int(part)]
    return parent.get(part)


def _differences(before: Any, after: Any, key: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys([*before, *after]):
            yield from _differences(before.get(name), after.get(name), f"{key}.{name}" if key else str(name))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(old, new, f"{key}.{index}")
    elif before != after:
        yield f"params: {key} = {after!r} (was {before!r})"
