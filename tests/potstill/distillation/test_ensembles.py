from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from potstill.config.distill_params import Distill
from potstill.data.tokens.batches import TokenDataset
from potstill.distillation.losses.logits import kl_divergence
from potstill.distillation.losses.means import ensemble_logits, mean_logits
from potstill.distillation.objective.composition import Blend, Distillation, distillation
from potstill.distillation.objective.gold_labels import OptimizerStep
from potstill.distillation.teachers.ensembles import AveragedSource, StackedSource, average
from potstill.distillation.teachers.mean_answers import pooled
from potstill.distillation.teachers.outputs import Needs, observe
from potstill.distillation.teachers.predict import model_inputs, predict_logits
from potstill.distillation.teachers.providers import LiveTeacher, TeacherTokensSource
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.errors import SignalError
from potstill.kinds.losses.task_losses import HEAD_LOSSES
from potstill.models.students.student import student_from_layers
from tests.potstill.models.tiny import make

CPU = torch.device("cpu")
WEIGHTS = (0.5, 0.2, 0.3)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def averaged(members: Tensor, temperature: float) -> Any:
    """Reference: mean [batch, ..., classes] of the members' softmax at T, in float64."""
    scaled = members.double().numpy() / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    found = powers / powers.sum(axis=-1, keepdims=True)
    return sum(weight * found[..., member, :] for member, weight in enumerate(WEIGHTS))


def dataset(count: int, seed: int = 0) -> TokenDataset:
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 12, count)
    flat = random.integers(5, 50, lengths.sum()).astype(np.int32)
    return TokenDataset(flat, lengths, None, random.integers(-1, 3, count), 0)


ROWS = dataset(24)


def model(seed: int, **sizes: int) -> Any:
    torch.manual_seed(seed)
    found = make("bert", **sizes)
    with torch.no_grad():  # `make` draws what it adds from one seed
        for weight in found.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return found


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
@pytest.mark.parametrize("shape", [(8, 3, 4), (4, 5, 3, 4)])
def test_the_softmax_of_ensemble_logits_is_the_mean_of_the_softened_probabilities(
    shape: tuple[int, ...], temperature: float
) -> None:
    members = draw(*shape)
    logits = ensemble_logits(members, WEIGHTS, temperature)
    assert logits.dtype == torch.float32
    found = torch.softmax(logits / temperature, dim=-1).numpy()
    assert found == pytest.approx(averaged(members, temperature), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_loss_and_gradient_are_those_against_the_mean_probabilities(temperature: float) -> None:
    members, student = draw(8, 3, 4).requires_grad_(), draw(8, 4, seed=1).requires_grad_()
    loss = kl_divergence(student, ensemble_logits(members, WEIGHTS, temperature), temperature)
    loss.sum().backward()
    taught = averaged(members.detach(), temperature)
    ours = torch.softmax(student.detach().double() / temperature, dim=-1).numpy()
    wanted = temperature**2 * (taught * (np.log(taught) - np.log(ours))).sum(axis=-1)
    assert loss.detach().numpy() == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert student.grad is not None
    assert student.grad.numpy() == pytest.approx(temperature * (ours - taught), rel=1e-4, abs=1e-5)
    assert members.grad is None  # nothing flows to a teacher


def test_ensemble_logits_differ_from_mean_logits_and_between_temperatures() -> None:
    members = draw(8, 3, 4)
    mean = mean_logits(members, WEIGHTS)
    assert mean.numpy() == pytest.approx(
        sum(weight * members[:, k].numpy() for k, weight in enumerate(WEIGHTS)), rel=1e-5
    )
    at_two = torch.softmax(ensemble_logits(members, WEIGHTS, 2.0) / 2, dim=-1)
    assert not torch.allclose(at_two, torch.softmax(mean / 2, dim=-1), atol=1e-3)
    assert not torch.allclose(at_two, torch.softmax(ensemble_logits(members, WEIGHTS, 1.0) / 2, dim=-1), atol=1e-3)


def test_equal_members_teach_the_same_as_one_of_them() -> None:
    one = draw(6, 4)
    logits = ensemble_logits(torch.stack([one] * 3, dim=1), WEIGHTS, 3.0)
    assert torch.allclose(torch.softmax(logits / 3, dim=-1), torch.softmax(one / 3, dim=-1), atol=1e-6)


def test_pooled_logits_are_the_log_of_the_mean_probabilities() -> None:
    members = draw(8, 3, 4)
    each = [*members.numpy().swapaxes(0, 1)]
    assert np.exp(pooled(each, WEIGHTS, "single_label")) == pytest.approx(averaged(members, 1.0), rel=1e-5)
    assert pooled(each[:1], [1.0], "single_label") is each[0]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_each_label_averages_the_teachers_that_know_it(temperature: float) -> None:
    members, weights = draw(8, 3, 2), [(0.25, 0.0), (0.75, 0.4), (0.0, 0.6)]
    found = torch.sigmoid(HEAD_LOSSES["multi_label"].mean(members, weights, temperature) / temperature)
    each = torch.sigmoid(members / temperature)
    assert torch.allclose(found[:, 0], 0.25 * each[:, 0, 0] + 0.75 * each[:, 1, 0], atol=1e-6)
    assert torch.allclose(found[:, 1], 0.4 * each[:, 1, 1] + 0.6 * each[:, 2, 1], atol=1e-6)
    mean = mean_logits(members, weights)
    assert torch.allclose(mean[:, 0], 0.25 * members[:, 0, 0] + 0.75 * members[:, 1, 0], atol=1e-6)
    with pytest.raises(SignalError, match="where"):
        mean_logits(draw(8, 3, 4), weights)  # weights of two labels, logits of four


@pytest.mark.parametrize("shape", [(8, 4), (8, 2, 4)])
def test_signals_of_another_number_of_teachers_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SignalError, match=r"where \[batch, \.\.\., 3 teachers, classes\] are needed; run the signals"):
        ensemble_logits(draw(*shape), WEIGHTS, 2.0)


def total(goal: Distillation, student: Any) -> dict[str, float]:
    """The weighted terms of one batch of all rows."""
    part = ROWS.batch(np.arange(len(ROWS)))
    outputs = observe(student, model_inputs(part, CPU), goal.needs(0, 1))
    return {name: float(term.detach()) for name, term in goal(outputs, part, OptimizerStep.of([part])).items()}


def test_stored_and_live_members_with_different_tokens_give_the_same_loss() -> None:
    """The second member reads the same rows in the tokens of another vocabulary."""
    other = dataset(24, seed=5)
    teachers, rows = [model(1), model(2), model(3)], [ROWS, other, ROWS]
    logits = np.stack([predict_logits(one, own) for one, own in zip(teachers, rows, strict=True)], axis=1)
    live = [LiveTeacher(one, CPU) for one in teachers]
    members = StackedSource((live[0], TeacherTokensSource(live[1], other), live[2]))
    stored = StoredSignals(logits, np.arange(len(ROWS)))
    student = student_from_layers(teachers[0], [3, 0])
    sources = [AveragedSource(source, WEIGHTS) for source in (stored, members)]
    losses = [total(Distillation(source, Blend(2.0, 0.9), {}), student) for source in sources]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    part = ROWS.batch(np.arange(24))
    ours = torch.softmax(torch.from_numpy(predict_logits(student, ROWS)).double() / 2, dim=-1).numpy()
    taught = averaged(torch.from_numpy(logits), 2.0)
    gold = part.labels >= 0
    wanted = np.where(gold, 0.9, 1.0) * 4 * (taught * (np.log(taught) - np.log(ours))).sum(axis=-1)
    assert losses[0]["kl"] == pytest.approx(wanted.mean(), rel=1e-4)


def test_terms_on_layers_use_the_first_member_and_terms_on_logits_all_members() -> None:
    teachers = [model(1), model(2), model(3)]
    logits = np.stack([predict_logits(one, ROWS) for one in teachers], axis=1)
    stored = average(StoredSignals(logits, np.arange(len(ROWS))), WEIGHTS)
    student = student_from_layers(teachers[0], [0, 2])
    terms: list[Any] = [{"kind": "hidden"}, {"kind": "kl", "temperature": 5.0}, {"kind": "mse"}, {"kind": "dist"}]
    params = Distill.model_validate({"layers": [0, 2], "epochs": 1, "learning_rate": 1e-3, "terms": terms})

    def goal(source: Any) -> dict[str, float]:
        return total(distillation(params, student, teachers[0], source, device=CPU, precision="fp32", seed=1), student)

    found = goal(stored)
    alone = goal(StoredSignals(logits[:, 0], np.arange(len(ROWS))))
    assert found["hidden"] == pytest.approx(alone["hidden"], rel=1e-6)
    for name in ("kl", "kl_2", "mse", "dist"):
        assert found[name] != pytest.approx(alone[name], rel=1e-3), name
    ours = torch.from_numpy(predict_logits(student, ROWS)).double()
    taught = averaged(torch.from_numpy(logits), 5.0)
    softened = torch.softmax(ours / 5, dim=-1).numpy()
    wanted = 25 * (taught * (np.log(taught) - np.log(softened))).sum(axis=-1)
    assert found["kl_2"] == pytest.approx(wanted.mean(), rel=1e-3)
    mean = sum(weight * logits[:, k] for k, weight in enumerate(WEIGHTS))
    assert found["mse"] == pytest.approx(((ours.numpy() - mean) ** 2).mean(), rel=1e-4)


def test_one_teacher_is_no_ensemble() -> None:
    stored = StoredSignals(np.zeros((2, 3), dtype=np.float32), np.arange(2))
    assert average(stored, [1.0]) is stored
    both = AveragedSource(stored, WEIGHTS)
    assert both.name == stored.name
    assert not both.supports(Needs(hidden=frozenset({1})))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_multi_label_averages_probabilities_and_regression_averages_outputs(temperature: float) -> None:
    members = draw(4, 3, 2)
    found = HEAD_LOSSES["multi_label"].mean(members, WEIGHTS, temperature)
    yes = (members / temperature).sigmoid()
    wanted = sum(weight * yes[:, member] for member, weight in enumerate(WEIGHTS))
    torch.testing.assert_close((found / temperature).sigmoid(), wanted)
    numbers = HEAD_LOSSES["regression"].mean(members, WEIGHTS, temperature)
    torch.testing.assert_close(numbers, mean_logits(members, WEIGHTS))
    pool = pooled([*members.numpy().swapaxes(0, 1)], WEIGHTS, "regression")
    np.testing.assert_allclose(pool, numbers.numpy())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_question_answering_averages_probabilities_over_the_tokens_of_a_row(temperature: float) -> None:
    members = draw(2, 6, 3, 2)
    members[1, 4:] = -torch.inf  # padding
    found = HEAD_LOSSES["question_answering"].mean(members, WEIGHTS, temperature)
    assert found.shape == (2, 6, 2)
    for row, length in enumerate((6, 4)):
        scaled = members[row, :length].double() / temperature
        wanted = sum(weight * scaled[:, member].softmax(dim=0) for member, weight in enumerate(WEIGHTS))
        torch.testing.assert_close((found[row, :length].double() / temperature).softmax(dim=0), wanted)
        assert found[row, length:].isneginf().all()
    each = [np.array([draw(5, 2, seed=at).numpy(), None], dtype=object) for at in range(3)]
    for at, one in enumerate(each):
        one[1] = draw(3, 2, seed=9 + at).numpy()
    pool = pooled(each, WEIGHTS, "question_answering")
    assert [row.shape for row in pool] == [(5, 2), (3, 2)]
    one = sum(
        weight * torch.from_numpy(side[1]).double().softmax(dim=0) for weight, side in zip(WEIGHTS, each, strict=True)
    )
    assert np.exp(pool[1]) == pytest.approx(np.asarray(one), rel=1e-5)
