from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from potstill.config.distill_params import MaskedTerm
from potstill.config.term_params import HiddenTerm
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.masking import Masking
from potstill.distillation.objective.composition import make_terms
from potstill.distillation.objective.gold_labels import Objective, OptimizerStep, Terms
from potstill.distillation.objective.masked_teacher import MaskedBlend, MaskedDistillation, MaskedTeacher
from potstill.distillation.objective.masked_tokens import MaskedLanguage, predicting
from potstill.errors import ModelError
from tests.potstill.models.tiny import CLASSES, batch, make

CPU = torch.device("cpu")
MASKING = Masking(4, (0, 1, 2, 3, 4), 50, 0.3, seed=5)


def rows(count: int = 12) -> TokenDataset:
    random = np.random.default_rng(0)
    lengths = random.integers(5, 30, count)
    flat = random.integers(5, 50, lengths.sum()).astype(np.int32)
    return TokenDataset(flat, lengths, None, np.full(count, -1), 1)


def loss(objective: Objective, model: Any, parts: list[list[int]]) -> tuple[Terms, list[torch.Tensor]]:
    """Compute terms and gradients of one step of some batches."""
    model.zero_grad()
    batches = [objective.view(rows().batch(np.array(part)), 2) for part in parts]
    step = OptimizerStep.of(batches)
    terms: Terms = {}
    for one in batches:
        outputs = objective.observe(model, one, CPU, objective.needs(0, 1))
        found = objective(outputs, one, step)
        torch.stack(list(found.values())).sum().backward()
        terms = {name: terms.get(name, torch.tensor(0.0)) + value.detach() for name, value in found.items()}
    return terms, [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("kind", CLASSES)
def test_logits_of_selected_tokens_equal_those_of_all_tokens(kind: str) -> None:
    model = make(kind, "ForMaskedLM")
    inputs = batch()
    where = (torch.arange(40).reshape(2, 20) % 3 == 0) & (inputs["attention_mask"] != 0)
    with torch.no_grad():
        full = model(**inputs).logits
        with predicting(model, where):
            some = model(**inputs).logits
        assert torch.allclose(some, full[where], atol=1e-5)
        assert model(**inputs).logits.shape == full.shape


def test_a_model_without_a_masked_lm_head_is_refused() -> None:
    with (
        pytest.raises(ModelError, match="BertForSequenceClassification has no head for masked tokens"),
        predicting(make("bert"), torch.ones(2, 20, dtype=torch.bool)),
    ):
        pass


def test_the_loss_is_the_one_transformers_computes() -> None:
    model, objective = make("bert", "ForMaskedLM"), MaskedLanguage(MASKING)
    whole = objective.view(rows().batch(np.arange(12)), 2)
    labels = torch.from_numpy(np.where(whole.labels < 0, -100, whole.labels))
    inputs = {"input_ids": whole.input_ids, "attention_mask": whole.attention_mask}
    with torch.no_grad():
        wanted = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}, labels=labels).loss
    terms, _ = loss(objective, model, [list(range(12))])
    assert terms["mlm"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert (whole.labels >= 0).sum() > 20


def test_batches_of_a_step_add_up_to_one_large_batch() -> None:
    model, objective = make("bert", "ForMaskedLM"), MaskedLanguage(MASKING)
    one, gradients = loss(objective, model, [list(range(12))])
    several, others = loss(objective, model, [[0, 4, 8], [1, 2, 3, 5, 6], [7, 9, 10, 11]])
    assert several["mlm"].item() == pytest.approx(one["mlm"].item(), rel=1e-5)
    assert all(torch.allclose(left, right, atol=1e-5) for left, right in zip(gradients, others, strict=True))


def test_general_distillation_of_masked_tokens_equals_the_definition() -> None:
    """DistilBERT's triple loss, computed token by token."""
    teacher, student = make("bert", "ForMaskedLM"), make("bert", "ForMaskedLM", num_hidden_layers=2)
    terms = make_terms([HiddenTerm(kind="hidden", weight=0.5)], student, teacher, 1)
    weights = MaskedTerm(kl=2.0, ce=0.25, temperature=3.0)
    objective = MaskedDistillation(MASKING, MaskedTeacher(teacher, CPU), MaskedBlend(weights), terms)
    found, gradients = loss(objective, student, [[0, 1, 2], [3, 4]])

    masked = [objective.view(rows().batch(np.array(part)), 2) for part in ([0, 1, 2], [3, 4])]
    kl = ce = hidden = 0.0
    count = sum(int((one.labels >= 0).sum()) for one in masked)
    for one in masked:
        inputs = {"input_ids": torch.from_numpy(one.input_ids), "attention_mask": torch.from_numpy(one.attention_mask)}
        with torch.no_grad():
            ours, theirs = (model(**inputs, output_hidden_states=True) for model in (student, teacher))
        for row, place in np.argwhere(one.labels >= 0):
            p = functional.softmax(theirs.logits[row, place] / 3, -1)
            q = functional.log_softmax(ours.logits[row, place] / 3, -1)
            kl += 2 * 9 * float((p * (p.log() - q)).sum()) / count
            ce -= 0.25 * float(functional.log_softmax(ours.logits[row, place], -1)[one.labels[row, place]]) / count
        real = one.attention_mask != 0
        gap = (ours.hidden_states[-1] - theirs.hidden_states[-1])[torch.from_numpy(real)]
        hidden += 0.5 * float((gap**2).mean(-1).sum()) / sum(part.tokens for part in masked)
    assert found["kl"].item() == pytest.approx(kl, rel=1e-4)
    assert found["ce"].item() == pytest.approx(ce, rel=1e-4)
    assert found["hidden"].item() == pytest.approx(hidden, rel=1e-4)
    assert len(gradients) > 10
    assert all(weight.grad is None for weight in teacher.parameters())
