from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill.config.params_file import parse_distill
from potstill.data.tokens.tokenization import load_tokenizer
from potstill.distillation.objective.gold_labels import Supervised
from potstill.models.loading import load_classifier, save_model
from potstill.training.student_builder import StudentBuilder
from tests.potstill.training.test_loop import TRAIN


@pytest.fixture(scope="module")
def teacher(tiny_base: Path) -> Any:
    torch.manual_seed(3)
    return load_classifier(tiny_base, ["no", "yes"])


@pytest.fixture
def general(tiny_base: Path, tmp_path: Path) -> Path:
    """A general student of two layers, all weights the same."""
    student = load_classifier(tiny_base, ["no", "yes"])
    student.config.num_hidden_layers = 2
    del student.bert.encoder.layer[2:]
    for weight in student.parameters():
        torch.nn.init.constant_(weight, 0.5)
    save_model(student, tmp_path / "general", tiny_base)
    return tmp_path / "general"


def builder(base: Path, **settings: Any) -> StudentBuilder:
    params = parse_distill({"layers": [0, 2], "epochs": 1, "learning_rate": 1e-3} | settings)
    return StudentBuilder(params, 17, False, lambda: load_tokenizer(base, 32))


def built(of: StudentBuilder, teacher: Any) -> Any:
    return of.build(teacher, of.params.layers, TRAIN, Supervised("single_label"))


def test_a_general_student_gives_the_layers(teacher: Any, tiny_base: Path, general: Path) -> None:
    student = built(replace(builder(tiny_base), general_dir=general), teacher)
    assert (student.bert.encoder.layer[1].output.dense.weight == 0.5).all()
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)


def test_a_static_student_has_no_layers_to_start_from_a_general_one(
    teacher: Any, tiny_base: Path, general: Path
) -> None:
    """A search tries static students in a workspace that has a general student."""
    static = builder(tiny_base, student={"kind": "static", "dimensions": 8})
    ours, theirs = (built(replace(static, general_dir=folder), teacher).state_dict() for folder in (general, None))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_smaller_vocabulary_of_a_lower_rank(teacher: Any, tiny_base: Path) -> None:
    kept = np.arange(60, dtype=np.int64)
    student = built(replace(builder(tiny_base), kept_ids=kept, rank=8), teacher)
    assert student.config.vocab_size == 60
    assert student.get_input_embeddings().factors.shape == (60, 8)
