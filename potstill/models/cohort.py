"""Several students as one module, with the part of a transformers model's interface that training uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Cohort(nn.Module):
    """Students of one task that train together; the cohort's parameters are those of all students.

    Args:
        students: models of one family.
    """

    def __init__(self, students: Sequence[PreTrainedModel]) -> None:
        super().__init__()
        self.students = nn.ModuleList(students)

    @property
    def config(self) -> Any:
        """The config of the first student."""
        return self.students[0].config

    def set_attn_implementation(self, name: str) -> None:
        """Set the attention implementation of every student."""
        for student in each_model(self):
            student.set_attn_implementation(name)

    def save_pretrained(self, folder: Path) -> None:
        """Write each student to the folder `student-<n>`, where n counts from 1."""
        for number, student in enumerate(each_model(self), start=1):
            student.save_pretrained(folder / f"student-{number}")

    def get_input_embeddings(self) -> nn.ModuleList:
        """Return the token embeddings of every student."""
        return nn.ModuleList(student.get_input_embeddings() for student in each_model(self))


def each_model(model: nn.Module) -> Iterator[PreTrainedModel]:
    """Yield the students of a cohort; of any other model, the model itself."""
    yield from cast("list[PreTrainedModel]", model.students if isinstance(model, Cohort) else [model])
