from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from potstill.distillation.teachers.predict import predict_logits
from potstill.training.dev_scores import dev_score
from tests.potstill.training.test_loop import DEV, model, setting


def test_agreement_with_the_teacher_decides_between_equal_scores(tmp_path: Path, tiny_base: Path) -> None:
    student = model(tiny_base)
    logits = predict_logits(student, DEV)
    answers = logits.argmax(axis=1)
    teacher = np.where(np.arange(len(DEV))[:, None] < 25, -logits, logits)  # another answer to a quarter
    alone = dev_score("single_label", DEV, setting(tmp_path))(student)
    assert alone == pytest.approx(float((answers == DEV.labels).mean()))
    both = dev_score("single_label", DEV, setting(tmp_path), teacher_logits=teacher)(student)
    assert both == (alone, pytest.approx(0.75))


def test_other_labels_than_those_of_dev_can_be_what_is_right(tmp_path: Path, tiny_base: Path) -> None:
    student = model(tiny_base)
    answers = predict_logits(student, DEV).argmax(axis=1)
    assert dev_score("single_label", DEV, setting(tmp_path), labels=answers)(student) == 1.0
