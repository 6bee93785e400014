from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill.config.distill_params import Distill
from potstill.config.training_params import Mixup
from potstill.data.tokens.batches import SPAN, Batch, TokenDataset, ragged
from potstill.distillation.objective.composition import distillation
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.predict import model_inputs, predict_logits, predict_signals
from potstill.distillation.teachers.providers import LiveTeacher
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.errors import ModelError, SignalError
from potstill.models.mixup import MixedBatch, mix, mixed_embeddings
from potstill.models.students.student import student_from_layers
from potstill.training.loop import Setting, train
from tests.potstill.models.tiny import make
from tests.potstill.training.test_adversarial import rows

CPU = torch.device("cpu")


def test_draws_depend_on_seed_step_and_rows() -> None:
    batch = rows(40).batch(np.arange(40))
    first, again, later = mix(batch, 0.4, 1, 7), mix(batch, 0.4, 1, 7), mix(batch, 0.4, 1, 8)
    assert first.partners.tolist() == again.partners.tolist() != later.partners.tolist()
    assert first.shares.tolist() == again.shares.tolist() != later.shares.tolist()
    assert sorted(first.partners.tolist()) == list(range(40))
    assert 0.5 <= first.shares.min() <= first.shares.max() <= 1
    assert first.shares.std() > 0.05
    # Mixed rows have no gold label.
    assert set(first.labels.tolist()) == {-1}
    assert first.tokens == batch.tokens
    scores = Batch(batch.rows, batch.input_ids, batch.attention_mask, None, batch.labels.astype(np.float32))
    assert np.isnan(mix(scores, 0.4, 1, 7).labels).all()


def test_embeddings_are_mixed_where_both_rows_have_tokens() -> None:
    model, batch = make("bert"), rows(5).batch(np.arange(5))
    mixed = mix(batch, 1.0, 3, 0)
    table = model.get_input_embeddings().weight.detach()
    seen: list[torch.Tensor] = []
    with torch.no_grad(), mixed_embeddings(model, mixed):
        handle = model.base_model.embeddings.word_embeddings.register_forward_hook(lambda *call: seen.append(call[2]))
        logits = model(**model_inputs(mixed, CPU)).logits
        handle.remove()
    wanted = table[torch.from_numpy(batch.input_ids)].clone()
    for row, (partner, share) in enumerate(zip(mixed.partners, mixed.shares, strict=True)):
        for place in range(batch.input_ids.shape[1]):
            if batch.attention_mask[partner, place]:
                own, theirs = (table[batch.input_ids[which, place]] for which in (row, partner))
                wanted[row, place] = share * own + (1 - share) * theirs
    real = torch.from_numpy(batch.attention_mask).bool()
    assert seen[0][real].numpy() == pytest.approx(wanted[real].numpy(), abs=1e-6)
    with torch.no_grad():
        other = model(inputs_embeds=wanted, attention_mask=torch.from_numpy(batch.attention_mask)).logits
    assert logits.numpy() == pytest.approx(other.numpy(), abs=1e-5)


def test_other_batches_are_not_mixed() -> None:
    model, batch = make("bert"), rows(5).batch(np.arange(5))
    with torch.no_grad():
        plain = model(**model_inputs(batch, CPU)).logits
        with mixed_embeddings(model, batch):
            assert torch.equal(model(**model_inputs(batch, CPU)).logits, plain)


def test_a_store_refuses_mixed_rows() -> None:
    stored = StoredSignals(np.zeros((5, 3), dtype=np.float32), np.arange(5))
    with pytest.raises(SignalError, match="mixed with others"):
        stored(mix(rows(5).batch(np.arange(5)), 1.0, 0, 0))


class Watched(LiveTeacher):
    """A live teacher that records its batches and outputs."""

    calls: list[tuple[Batch, Outputs]]

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        found = super().__call__(batch, needs)
        self.calls.append((batch, found))
        return found


def marked(head: str, count: int) -> TokenDataset:
    """Rows with labels for a head; in tasks on tokens every second token is labelled, and some have no gold label."""
    found = rows(count)
    if head == "ForTokenClassification":
        tags = [np.where(np.arange(length) % 2, -100, length % 3 - 1) for length in found.lengths.tolist()]
        found.labels = ragged(tags)
    elif head == "ForQuestionAnswering":
        found.labels = np.array([(row % 3 - 1, row % 3 - 1) for row in range(count)], dtype=SPAN)
    return found


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"])
def test_teacher_and_student_see_the_same_mixed_rows_and_their_loss_is_added(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, data = make("bert", head, num_labels=2 if head == "ForQuestionAnswering" else 3), marked(head, 24)
    plan = Distill(
        epochs=1, learning_rate=1e-3, batch_tokens=4096, dropout=0.0, layers=[0, 1, 2, 3], alpha=1.0,
        mixup=Mixup(alpha=1.0, weight=0.5),
    )  # fmt: skip
    student = student_from_layers(teacher, plan.layers)
    stored = StoredSignals(predict_signals(teacher, data), np.arange(len(data)))
    Watched.calls = []
    monkeypatch.setattr("potstill.distillation.objective.composition.LiveTeacher", Watched)
    goal = distillation(plan, student, teacher, stored, device=CPU, precision="fp32", seed=1)
    outcome = train(student, data, goal, lambda _: 0.0, Setting("distill", plan, 3, CPU, "fp32", tmp_path))
    # The student equals the teacher, so that only on the same mixed rows their outputs are equal.
    last = {name: value for _, name, value in outcome.history}
    assert last["loss_kl"] == pytest.approx(0.0, abs=1e-6)
    assert last["loss_mixup"] == pytest.approx(0.0, abs=1e-6)
    ((batch, answer),) = Watched.calls
    assert isinstance(batch, MixedBatch)
    assert set(batch.labels.ravel().tolist()) == {-1}
    clean = stored(data.batch(batch.rows)).logits
    real = torch.from_numpy(batch.attention_mask).bool() if clean.dim() == 3 else slice(None)
    assert float((answer.logits - clean)[real].abs().max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_student_learns_from_mixed_rows(tmp_path: Path, precision: Any) -> None:
    teacher, data = make("bert"), rows(64)
    plan = Distill(
        epochs=12, learning_rate=3e-3, batch_tokens=256, dropout=0.0, layers=[3, 0], alpha=1.0, mixup=Mixup(),
        freeze_embeddings=True,
    )  # fmt: skip
    student = student_from_layers(teacher, plan.layers)
    stored = StoredSignals(predict_logits(teacher, data), np.arange(len(data)))
    goal = distillation(plan, student, teacher, stored, device=CPU, precision=precision, seed=1)
    outcome = train(student, data, goal, lambda _: 0.0, Setting("distill", plan, 3, CPU, precision, tmp_path))
    mixed = [value for _, name, value in outcome.history if name == "loss_mixup"]
    assert mixed[-1] < 0.7 * mixed[0]


def test_mixup_needs_the_same_tokenizer(tmp_path: Path) -> None:
    teacher, data = make("bert"), rows(8)
    plan = Distill(epochs=1, learning_rate=1e-3, layers=[0], mixup=Mixup())
    stored = StoredSignals(np.zeros((8, 3), dtype=np.float32), np.arange(8))
    with pytest.raises(ModelError, match=r"mixup blends rows token by token, .* set distill\.mixup to null"):
        distillation(
            plan, make("bert"), teacher, stored, device=CPU, precision="fp32", seed=1, teacher_rows=data
        )  # fmt: skip
