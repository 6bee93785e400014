from __future__ import annotations

from pathlib import Path

import pytest
import torch

from potstill.errors import ModelError
from potstill.models.students.start import is_pooler, start_from_general
from potstill.models.students.student import student_from_layers
from tests.potstill.models.tiny import CLASSES, make


def general(folder: Path, kind: str, head: str = "") -> Path:
    """A general student of another teacher."""
    student = make(kind, head, num_hidden_layers=2, n_layers=2)
    for weight in student.parameters():
        torch.nn.init.constant_(weight, 0.5)
    student.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("head", ["", "ForMaskedLM"])
@pytest.mark.parametrize("kind", CLASSES)
def test_embeddings_and_layers_come_from_the_general_student_and_the_head_from_the_teacher(
    tmp_path: Path, kind: str, head: str
) -> None:
    student = student_from_layers(make(kind), [0, 2])
    before = {name: value.clone() for name, value in student.state_dict().items()}
    start_from_general(student, general(tmp_path, kind, head))
    inner = {f"{student.base_model_prefix}.{name}" for name in student.base_model.state_dict() if not is_pooler(name)}
    for name, weight in student.named_parameters():
        if name in inner:
            assert (weight == 0.5).all(), name
        else:
            assert torch.equal(weight, before[name]), name


def test_another_shape_is_refused(tmp_path: Path) -> None:
    student = student_from_layers(make("bert", vocab_size=60), [0, 2])
    with pytest.raises(ModelError, match=r"differs in shape from the student of distill .*size mismatch .*; give both"):
        start_from_general(student, general(tmp_path, "bert"))
