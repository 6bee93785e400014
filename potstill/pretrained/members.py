"""The members of a teacher of several models, in the folder of the first of them.

`members.json` lists them where there are several; each but the first is a model folder of its own below `members/`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.artifacts import read_json, write_json
from potstill.errors import LabelCountError

# The folder of all members but the first, in `data/base`, `data/tokens` and `data/teacher` alike.
MEMBERS = "members"
_LIST = "members.json"
# Of a member of several, or its weight for each label where members answer different ones.
Weight = float | tuple[float, ...]


@dataclass(frozen=True)
class Member:
    """One of a teacher's models.

    Attributes:
        folder: its `save_pretrained` folder.
        weight: of its probabilities, or of those of each label; over all members they add up to 1.
        tokens: where its own token ids lie below `data/tokens`; `.` for those that the student has.
    """

    folder: Path
    weight: Weight = 1.0
    tokens: str = "."


def read_members(teacher: Path) -> list[Member]:
    """The members of a teacher, the first one first; a plain model is its only member."""
    if not (teacher / _LIST).exists():
        return [Member(teacher)]
    return [
        Member(
            teacher / item["folder"],
            tuple(item["weight"]) if isinstance(item["weight"], list) else float(item["weight"]),
            item["tokens"],
        )
        for item in read_json(teacher / _LIST)
    ]


def write_members(teacher: Path, members: Sequence[Member]) -> None:
    """List the members, whose folders lie in the teacher's; a teacher of one has no list."""
    if len(members) > 1:
        items = [
            {"folder": one.folder.relative_to(teacher).as_posix(), "weight": one.weight, "tokens": one.tokens}
            for one in members
        ]
        write_json(teacher / _LIST, items)


def shares(weights: Sequence[float]) -> list[float]:
    """Weights made to add up to 1."""
    return [weight / sum(weights) for weight in weights]


def shares_by_label(
    weights: Sequence[float], answered: Sequence[Collection[str] | None], labels: Sequence[str]
) -> list[Weight]:
    """Weights made to add up to 1, over the members that answer a label.

    Args:
        weights: of each member.
        answered: the labels that each member answers; None: all of them.
        labels: all labels.

    Returns:
        One number for each member where all answer every label, else for each member one for each label, 0 where it
        does not answer it.

    Raises:
        LabelCountError: nobody answers a label.
    """
    if all(own is None or set(own) >= set(labels) for own in answered):
        return [*shares(weights)]
    columns = []
    for label in labels:
        asked = [weight if own is None or label in own else 0.0 for weight, own in zip(weights, answered, strict=True)]
        if not any(asked):
            raise LabelCountError(
                f"none of the {len(weights)} teachers answers the label {label!r}; name it in teacher.labels or in the "
                "labels of one of teacher.members"
            )
        columns.append(shares(asked))
    return [tuple(own) for own in zip(*columns, strict=True)]
