from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill.config.distill_params import General
from potstill.config.teacher_params import Pretrain
from potstill.data.tokens.batches import Batch, TokenDataset, ragged
from potstill.distillation.objective.gold_labels import OptimizerStep, Terms
from potstill.distillation.objective.masked_tokens import MaskedLanguage
from potstill.distillation.teachers.outputs import Outputs
from potstill.errors import EmptyDataError, ModelError
from potstill.models.loading import load_classifier, load_encoder
from potstill.training import pretraining
from potstill.training.general_distillation import load_base, prepare_general
from potstill.training.held_out import hold_out
from potstill.training.loop import Setting
from potstill.training.pretraining import Pretraining, prepare_pretraining
from tests.conftest import generate_rows

CPU = torch.device("cpu")
TEXTS = [text for text, _ in generate_rows(150, seed=2)]
PLAN: dict[str, Any] = {
    "epochs": 3, "learning_rate": 5e-3, "batch_tokens": 256, "vocabulary": 120, "layers": 2, "width": 32, "heads": 2,
    "max_length": 24, "held_out": 0.1, "checkpoint_seconds": 1e-6, "average_decay": 0.9,
}  # fmt: skip


# Each word determines the others of its phrase.
PHRASES = [" ".join(name * 2 for name in (first, first.upper(), first + "x")) for first in "bcdfghkmpr"]


def phrases(count: int) -> list[str]:
    random = np.random.default_rng(1)
    return [" ".join(PHRASES[number] for number in random.integers(0, 10, 4)) for _ in range(count)]


def keys(rows: TokenDataset) -> set[bytes]:
    found = rows.keys()
    return {key.tobytes() for key in found}


def prepared(folder: Path, texts: list[str] = TEXTS, **changes: Any) -> tuple[Pretraining, Setting]:
    params = Pretrain(**(PLAN | changes))
    return prepare_pretraining(texts, params, 11, folder / "base"), Setting(
        "pretrain", params, 11, CPU, "fp32", folder / "checkpoints"
    )


@pytest.mark.slow
def test_a_model_learns_to_predict_masked_tokens(tmp_path: Path) -> None:
    work, setting = prepared(tmp_path, phrases(300), epochs=6, lowercase=False, checkpoint_seconds=1e9)
    outcome = work.train(setting)
    assert outcome.scores[0] < outcome.score
    assert -outcome.score < 0.75 * np.log(30)  # what the words' frequencies alone give


class Stop(Exception):
    """Stands for a power cut."""


@pytest.mark.slow
@pytest.mark.parametrize("cut", [3, 14])
def test_interrupted_and_resumed_equals_straight_through_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    work, setting = prepared(tmp_path / "straight")
    wanted = work.train(setting)

    class CutShort(MaskedLanguage):
        def forward(self, outputs: Outputs, batch: Batch, step: OptimizerStep) -> Terms:
            if step.total > 1 and step.index == cut - 1:
                raise Stop
            return super().forward(outputs, batch, step)

    with monkeypatch.context() as patched:
        patched.setattr(pretraining, "MaskedLanguage", CutShort)
        interrupted, setting = prepared(tmp_path / "cut")
        with pytest.raises(Stop):
            interrupted.train(setting)
    torch.manual_seed(999)  # whatever the process did before
    resumed, setting = prepared(tmp_path / "cut")
    found = resumed.train(setting)
    assert found.resumed_at == cut - 1
    assert (found.scores, found.history) == (wanted.scores, wanted.history)
    straight = work.model.state_dict()
    assert all(torch.equal(value, straight[name]) for name, value in resumed.model.state_dict().items())


def test_a_model_with_logits_of_masked_tokens_only_is_not_compiled(tmp_path: Path) -> None:
    work, setting = prepared(tmp_path, compile=True)
    with pytest.raises(ModelError, match="compile is true, but terms of the loss look into the model's layers"):
        work.train(setting)


def test_the_rest_of_a_long_text_becomes_further_rows(tmp_path: Path) -> None:
    short, _ = prepared(tmp_path / "a", max_length=8)
    long, _ = prepared(tmp_path / "b", max_length=64)
    words = [sum(int((part.lengths - 2).sum()) for part in (work.rows, work.held_out)) for work in (short, long)]
    assert words[0] == words[1]
    assert max(short.rows.lengths) == 8


def test_held_out_rows_are_a_seeded_share_and_copies_stay_together(tmp_path: Path) -> None:
    work, _ = prepared(tmp_path)
    assert not keys(work.rows) & keys(work.held_out)
    assert len(work.held_out) / (len(work.rows) + len(work.held_out)) == pytest.approx(0.1, abs=0.06)
    twice = work.rows.concatenate([work.rows, work.rows])
    learned, held = hold_out(twice, 0.2, 3)
    assert not keys(learned) & keys(held)
    assert [len(part) for part in hold_out(twice, 1e-9, 3)] == [len(twice) - 2, 2]


def test_too_few_texts_are_refused(tmp_path: Path) -> None:
    for texts in ([], ["one and the same text text"] * 5):
        with pytest.raises(EmptyDataError, match=r"give (some|more)"):
            prepare_pretraining(texts, Pretrain(**PLAN | {"min_frequency": 1}), 1, tmp_path)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Make a base encoder with a masked-language-modelling head."""
    work, _ = prepared(tmp_path, layers=4)
    work.model.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.slow
@pytest.mark.parametrize("masked_lm", [None, {"kl": 1.0, "ce": 0.5}])
def test_general_distillation_makes_a_student_more_similar_to_its_teacher(
    tmp_path: Path, base: Path, masked_lm: dict[str, float] | None
) -> None:
    rows = prepared(tmp_path / "rows")[0].rows
    rows = rows.with_labels(ragged([np.zeros(length, dtype=np.int64) for length in rows.lengths]))  # as entities have
    terms = [{"kind": "relations", "heads": 4}, {"kind": "hidden"}]
    plan = {"layers": [0, 2], "epochs": 3, "learning_rate": 2e-3, "batch_tokens": 256, "masked_lm": masked_lm}
    params = General.model_validate(plan | {"terms": terms})
    setting = Setting("general", params, 11, CPU, "fp32", tmp_path / "general")
    teacher = load_base(base, params)
    start = load_encoder(base).state_dict()
    work = prepare_general(teacher, rows, params, base, setting)
    assert len(work.student.base_model.encoder.layer) == 2
    outcome = work.train(setting)
    assert outcome.score > outcome.scores[0]
    kept = teacher.base_model.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in start.items() if not name.startswith("pooler."))


def test_predicting_masked_tokens_needs_a_head(tiny_base: Path) -> None:
    params = General.model_validate({"layers": [0], "masked_lm": {}})
    with pytest.raises(ModelError, match="BertModel, which has no head for masked language modelling"):
        load_base(tiny_base, params)
    assert load_classifier(tiny_base, ["0", "1"]).config.num_labels == 2
