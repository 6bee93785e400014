"""The members of an ensemble of teachers, which share the folder of the first member.

`members.json` lists the members of an ensemble. Each member except the first has its own model folder in `members/`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.artifacts import read_json, write_json
from potstill.errors import LabelCountError

# The folder of all members except the first; the same in `data/base`, `data/tokens` and `data/teacher`.
MEMBERS = "members"
_LIST = "members.json"
# Weight of a member, or its weight for each label if the members know different labels.
Weight = float | tuple[float, ...]


@dataclass(frozen=True)
class Member:
    """One model of a teacher.

    Attributes:
        folder: its `save_pretrained` folder.
        weight: weight of its probabilities, or of its probability of each label; the members' weights add up to 1.
        tokens: folder of its token ids in `data/tokens`; `.` if it has the student's token ids.
    """

    folder: Path
    weight: Weight = 1.0
    tokens: str = "."


def read_members(teacher: Path) -> list[Member]:
    """Read the members of a teacher in order; a teacher of one model is its only member."""
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
    """Write the list of members, whose folders are inside the teacher's; a teacher of one model has no list."""
    if len(members) > 1:
        items = [
            {"folder": member.folder.relative_to(teacher).as_posix(), "weight": member.weight, "tokens": member.tokens}
            for member in members
        ]
        write_json(teacher / _LIST, items)


def shares(weights: Sequence[float]) -> list[float]:
    """Scale weights so that they add up to 1."""
    return [weight / sum(weights) for weight in weights]


def shares_by_label(
    weights: Sequence[float], answered: Sequence[Collection[str] | None], labels: Sequence[str]
) -> list[Weight]:
    """Scale the members' weights so that they add up to 1 for each label, over the members that know the label.

    Args:
        weights: weight of each member.
        answered: labels that each member knows; None: all of them.
        labels: all labels.

    Returns:
        One number for each member if all members know every label. Otherwise one number for each member and label,
        which is 0 if the member does not know the label.

    Raises:
        LabelCountError: no member knows some label.
    """
    if all(known is None or set(known) >= set(labels) for known in answered):
        return [*shares(weights)]
    by_label = []
    for label in labels:
        effective = [
            weight if known is None or label in known else 0.0 for weight, known in zip(weights, answered, strict=True)
        ]
        if not any(effective):
            raise LabelCountError(
                f"none of the {len(weights)} teachers answers the label {label!r}; name it in teacher.labels or in the "
                "labels of one of teacher.members"
            )
        by_label.append(shares(effective))
    return list(zip(*by_label, strict=True))
