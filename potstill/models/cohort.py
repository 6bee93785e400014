"""Several students as one module, with the few parts of a transformers model that training asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Cohort(nn.Module):
    """Students of one task that train together; all their weights are its own.

    Args:
        students: of one family.
    """

    def __init__(self, students: Sequence[PreTrainedModel]) -> None:
        super().__init__()
        self.students = nn.ModuleList(students)

    @property
    def config(self) -> Any:
        """The first student's."""
        return self.students[0].config

    def set_attn_implementation(self, name: str) -> None:
        """Set it in every student."""
        for student in each_model(self):
            student.set_attn_implementation(name)

    def save_pretrained(self, folder: Path) -> None:
        """Write each student to `student-<n>`, with n from 1."""
        for number, student in enumerate(each_model(self), start=1):
            student.save_pretrained(folder / f"student-{number}")

    def get_input_embeddings(self) -> nn.ModuleList:
        """Those of every student."""
        return nn.ModuleList(student.get_input_embeddings() for student in each_model(self))


def each_model(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The students of a cohort, or the one model that it is."""
    yield from cast("list[PreTrainedModel]", model.students if isinstance(model, Cohort) else [model])
