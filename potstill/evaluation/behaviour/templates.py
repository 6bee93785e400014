"""The user's tests, as templates in a YAML file: texts with {slots}, lists of their values, and what is expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from zlib import crc32

import numpy as np
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from potstill.config.base import Strict
from potstill.config.behaviour_params import TEST_NAMES
from potstill.config.misfits import misfits
from potstill.config.yaml_file import load_yaml
from potstill.errors import ParamsError
from potstill.evaluation.behaviour.cases import BehaviourTest, Case, Direction
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind

if TYPE_CHECKING:
    from potstill.inference.runtime import Label, Text

Name = Annotated[str, Field(min_length=1, max_length=80)]
# A text, or both texts of a pair.
Template = str | Annotated[list[str], Field(min_length=2, max_length=2)]
Slots = dict[str, Annotated[list[str], Field(min_length=1)]]
# Numbers of cases above it do not fit into 64 bits.
_MOST_CASES = 2**62


class TemplateTest(Strict):
    """The fields that all kinds of tests have."""

    name: Name
    text: Template
    slots: Slots = Field(default_factory=dict)

    @property
    def templates(self) -> list[str]:
        """The texts of the test, each with slots."""
        changed = getattr(self, "changed", None)
        return [part for value in (self.text, changed) if value is not None for part in _parts(value)]

    @field_validator("text", "changed", check_fields=False)
    @classmethod
    def _slots_are_names(cls, value: str | list[str]) -> str | list[str]:
        for part in _parts(value):
            _slots_of(part)
        return value


class Functionality(TemplateTest):
    """Minimum functionality test: the right answer to a text."""

    kind: Literal["mft"]
    label: str | int | list[str | int] | None = None
    number: float | None = None


class Invariance(TemplateTest):
    """Invariance test: `changed` has the same answer as `text`."""

    kind: Literal["inv"]
    changed: Template


class Directional(TemplateTest):
    """Directional test: from `text` to `changed`, the probability of the label moves."""

    kind: Literal["dir"]
    changed: Template
    label: str | int | None = None
    direction: Direction


AnyTest = Annotated[Functionality | Invariance | Directional, Field(discriminator="kind")]


class TemplateFile(Strict):
    """A file of tests, with slots that all of them share."""

    slots: Slots = Field(default_factory=dict)
    tests: Annotated[list[AnyTest], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [test.name for test in self.tests]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"tests.{index}.name: two tests are called {name!r}; rename one")
            if name in TEST_NAMES:
                raise ValueError(f"tests.{index}.name: {name!r} is a test of Potstill's; choose another name")
        return self

    @model_validator(mode="after")
    def _slots_have_values(self) -> Self:
        for index, test in enumerate(self.tests):
            slots = self.slots | test.slots
            used = {slot for template in test.templates for slot in _slots_of(template)}
            for slot in sorted(used - slots.keys()):
                raise ValueError(
                    f"tests.{index}: {{{slot}}} has no values; known slots: {', '.join(sorted(slots)) or 'none'}"
                )
            for slot in sorted(test.slots.keys() - used):
                raise ValueError(f"tests.{index}.slots names {slot!r}, which no text of the test has; remove it")
        return self


def read_templates(path: Path, task: TaskKind, labels: Sequence[Label] | None, *, pair: bool) -> TemplateFile:
    """Read and check a file of tests.

    Args:
        path: the file.
        task: kind of task, about labels or numbers.
        labels: the model's labels; None where they are not known yet, and not checked.
        pair: whether the model reads two texts.

    Raises:
        ParamsError: the file cannot be read or does not fit; the message names the file, the key and what is allowed.
    """
    try:
        value = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(
            f"{path} (evaluate.behaviour.templates) cannot be read as YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(value, dict):
        raise ParamsError(f"{path} must be a mapping with tests, and with slots if tests share them")
    try:
        file = TemplateFile.model_validate(value)
    except ValidationError as error:
        sections = {name: field.annotation for name, field in TemplateFile.model_fields.items()}
        raise ParamsError(f"{path}: " + misfits(sections, value, [dict(item) for item in error.errors()])) from error
    names = None if labels is None else [str(label) for label in labels]
    for index, test in enumerate(file.tests):
        problem = _misfit_of_texts(test, pair=pair) or _misfit_of_labels(test, task, names)
        if problem is not None:
            raise ParamsError(f"{path}: tests.{index}{problem}")
    return file


def _misfit_of_texts(test: AnyTest, *, pair: bool) -> str | None:
    """Say which text is a pair where the model reads single texts, or the other way round."""
    for key in ("text", "changed"):
        value = getattr(test, key, None)
        if value is not None and isinstance(value, str) is pair:
            form = "pairs; write [first text, second text]" if pair else "single texts; write one text"
            return f".{key} = {value!r}: the model reads {form}"
    return None


def _misfit_of_labels(test: AnyTest, task: TaskKind, labels: Sequence[str] | None) -> str | None:
    """Say which expectation the task does not have."""
    if isinstance(test, Invariance):
        return None
    number = test.number if isinstance(test, Functionality) else None
    if KINDS[task].form == "number":
        if test.label is not None:
            return f".label = {test.label!r}: the model answers numbers; remove it"
        return ".number is missing" if isinstance(test, Functionality) and number is None else None
    if number is not None:
        return f".number = {number!r}: the model answers labels; write label instead"
    allowed = "the model's labels" if labels is None else ", ".join(labels)
    if test.label is None:
        return f".label is missing; it has to be one of {allowed}"
    if isinstance(test.label, list) and KINDS[task].form != "labels":
        return f".label = {test.label!r}: a text has one label; name one of {allowed}"
    for label in test.label if isinstance(test.label, list) else [test.label]:
        if labels is not None and str(label) not in labels:
            return f".label = {label!r}: it has to be one of {allowed}"
    return None


def template_tests(file: TemplateFile, *, rows: int, seed: int) -> list[BehaviourTest]:
    """Fill in the slots of each test, with all combinations of their values or with `rows` drawn ones.

    Cases in which a change leaves the text as it is are left out.
    """
    return [_fill(test, file.slots | test.slots, rows, seed) for test in file.tests]


def _fill(test: AnyTest, slots: Slots, rows: int, seed: int) -> BehaviourTest:
    used = sorted({slot for template in test.templates for slot in _slots_of(template)})
    shape = [len(slots[slot]) for slot in used]
    total = min(prod(shape), _MOST_CASES)
    drawn: Sequence[int] = range(total)
    if total > rows:
        random = np.random.default_rng([seed, crc32(test.name.encode())])
        drawn = sorted(random.choice(total, size=rows, replace=False).tolist())
    cases = [_case(test, dict(zip(used, _values(slots, used, number), strict=True))) for number in drawn]
    different = tuple(case for case in cases if case.text != case.changed)
    if isinstance(test, Directional):
        return BehaviourTest(test.name, "DIR", different, test.direction)
    return BehaviourTest(test.name, "MFT" if isinstance(test, Functionality) else "INV", different)


def _values(slots: Slots, used: Sequence[str], number: int) -> list[str]:
    """Return the values of a combination by its number, with the last slot changing fastest."""
    values: list[str] = []
    for slot in reversed(used):
        number, index = divmod(number, len(slots[slot]))
        values.append(slots[slot][index])
    return values[::-1]


def _case(test: AnyTest, values: Mapping[str, str]) -> Case:
    text = _render(test.text, values)
    if isinstance(test, Functionality):
        label = tuple(test.label) if isinstance(test.label, list) else test.label
        return Case(text, None, test.number if label is None else label)
    changed = _render(test.changed, values)
    return Case(text, changed, test.label if isinstance(test, Directional) else None)


def _render(template: str | list[str], values: Mapping[str, str]) -> Text:
    parts = [part.format_map(values) for part in _parts(template)]
    return parts[0] if isinstance(template, str) else (parts[0], parts[1])


def _parts(template: str | list[str]) -> list[str]:
    return [template] if isinstance(template, str) else template


def _slots_of(template: str) -> set[str]:
    """List the slots of a template.

    Raises:
        ValueError: pydantic adds the key to its message.
    """
    try:
        fields: list[tuple[Any, ...]] = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ or }}}} for a brace of the text") from error
    slots = {name for _, name, form, conversion in fields if name is not None and not form and conversion is None}
    named = {name for _, name, _, _ in fields if name is not None}
    for name in sorted(named - {slot for slot in slots if slot.isidentifier()}):
        raise ValueError(f"{{{name}}} is no slot; a slot is a name in braces, and a brace of the text is {{{{ or }}}}")
    return slots
