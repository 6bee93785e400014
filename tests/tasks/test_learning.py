from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from potstill.artifacts import write_json
from potstill.distillation.teachers.predict import predict_logits
from tasks.learning import dev_score
from tasks.stage import Stage
from tests.potstill.training.test_loop import DEV, model, setting


def test_agreement_with_the_teacher_stands_beside_the_score(tmp_path: Path, tiny_base: Path) -> None:
    write_json(tmp_path / "tokens" / "info.json", {"task": "single_label"})
    stage = Stage("distill", {}, {"tokens": tmp_path / "tokens"}, {})
    student = model(tiny_base)
    logits = predict_logits(student, DEV)
    answers = logits.argmax(axis=1)
    teacher = np.where(np.arange(len(DEV))[:, None] < 25, -logits, logits)  # another answer to a quarter
    alone = dev_score(stage, DEV, setting(tmp_path))(student)
    assert alone == pytest.approx(float((answers == DEV.labels).mean()))
    assert dev_score(stage, DEV, setting(tmp_path), teacher)(student) == (alone, pytest.approx(0.75))
