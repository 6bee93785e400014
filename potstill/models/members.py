"""The members of a teacher that is an ensemble, in the folder of the first of them.

`members.json` lists them where there are several; each but the first is a model folder of its own below `members/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.artifacts import read_json, write_json

# The folder of all members but the first, in `data/base`, `data/tokens` and `data/teacher` alike.
MEMBERS = "members"
_LIST = "members.json"


@dataclass(frozen=True)
class Member:
    """One of a teacher's models.

    Attributes:
        folder: its `save_pretrained` folder.
        weight: of its probabilities; those of all members add up to 1.
        tokens: where its own token ids lie below `data/tokens`; `.` for those that the student has.
    """

    folder: Path
    weight: float = 1.0
    tokens: str = "."


def read_members(teacher: Path) -> list[Member]:
    """The members of a teacher, the first one first; a plain model is its only member."""
    if not (teacher / _LIST).exists():
        return [Member(teacher)]
    return [
        Member(teacher / item["folder"], float(item["weight"]), item["tokens"]) for item in read_json(teacher / _LIST)
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
