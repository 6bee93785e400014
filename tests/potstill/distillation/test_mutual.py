from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from potstill.config.training_params import Training
from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.distillation.objective.composition import Blend, Distillation, make_terms
from potstill.distillation.objective.gold_labels import OptimizerStep, Supervised, Terms
from potstill.distillation.objective.mutual import MutualLearning
from potstill.distillation.teachers.outputs import Outputs
from potstill.distillation.teachers.predict import model_inputs, predict_logits
from potstill.distillation.teachers.providers import LiveTeacher
from potstill.distillation.teachers.signal_store import StoredSignals
from potstill.errors import ModelError
from potstill.models.cohort import Cohort
from potstill.models.students.student import student_from_layers
from potstill.training.loop import Setting
from potstill.training.together import Best, train_students
from tests.potstill.distillation.test_composition import config
from tests.potstill.models.tiny import make
from tests.scores import accuracy

CPU = torch.device("cpu")
LAYERS = [[0, 2], [1, 3], [0, 1, 3]]


def rows(count: int, seed: int) -> TokenDataset:
    """Label 1 where token 7 is in the row; a third has no gold label."""
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 12, count)
    flat = random.integers(10, 50, lengths.sum()).astype(np.int32)
    labels = random.integers(0, 2, count)
    flat[np.cumsum(lengths)[labels == 1] - 2] = 7
    return TokenDataset(flat, lengths, None, np.where(random.random(count) < 1 / 3, -1, labels), 0)


TRAIN = rows(120, 0)
DEV = TRAIN.select(np.flatnonzero(TRAIN.labels >= 0)[:40])


@pytest.fixture(scope="module")
def teacher() -> Any:
    torch.manual_seed(6)
    return make("bert", num_labels=2)


def setting(folder: Path, **changes: object) -> Setting:
    plan = {"epochs": 2, "learning_rate": 3e-3, "batch_tokens": 128, "checkpoint_seconds": 1e6} | changes
    return Setting("distill", Training.model_validate(plan), 11, CPU, "fp32", folder)


def score(found: Any) -> float:
    return accuracy(predict_logits(found, DEV), DEV.labels)


def students(teacher: Any) -> list[Any]:
    return [student_from_layers(teacher, layers) for layers in LAYERS]


def own(teacher: Any, each: list[Any], kind: type[Distillation] = Distillation) -> list[Distillation]:
    """Make each student's objective: the blend and a term on hidden states, with a live teacher."""
    configs = [config(kind="hidden", weight=0.1), config(kind="relations", heads=4, schedule="decay", fraction=0.5)]
    live = LiveTeacher(teacher, CPU)
    return [kind(live, Blend(2.0, 0.7), make_terms(configs, one, teacher, seed=1)) for one in each]


def terms_of(goal: MutualLearning, each: list[Any], part: Batch) -> Terms:
    step = OptimizerStep.of([part])
    found = goal.observe(Cohort(each), part, CPU, goal.needs(0, 1))
    return goal(found, part, step)


def softened(logits: Tensor, temperature: float) -> Any:
    return torch.softmax(logits.detach().double() / temperature, dim=-1)


def test_each_student_learns_its_own_loss_and_the_mean_of_the_others(teacher: Any) -> None:
    each, part, T = students(teacher), TRAIN.batch(np.arange(30)), 3.0
    goals = own(teacher, each)
    terms = terms_of(MutualLearning(goals, T, 0.5), each, part)
    found = {name: float(term.detach()) for name, term in terms.items()}
    logits = [one(**model_inputs(part, CPU)).logits for one in each]
    for place, goal in enumerate(goals):
        outputs = goal.observe(each[place], part, CPU, goal.needs(0, 1))
        for name, term in goal(outputs, part, OptimizerStep.of([part])).items():
            wanted = pytest.approx(float(term.detach()), rel=1e-5)
            assert found[f"student{place + 1}_{name}"] == wanted, name
        others = [softened(other, T) for number, other in enumerate(logits) if number != place]
        mean, ours = sum(others) / len(others), softened(logits[place], T)
        mutual = 0.5 * T**2 * (mean * (mean.log() - ours.log())).sum() / 30
        assert found[f"student{place + 1}_mutual"] == pytest.approx(float(mutual), rel=1e-4, abs=1e-7)
    assert len(found) == 3 * 5


def test_no_gradient_flows_to_a_student_from_what_it_teaches(teacher: Any) -> None:
    each, part = students(teacher), TRAIN.batch(np.arange(30))
    found = terms_of(MutualLearning([Supervised() for _ in each], 2.0, 1.0), each, part)
    found["student2_mutual"].backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in each[1].parameters())
    assert all(weight.grad is None for one in (each[0], each[2]) for weight in one.parameters())


def test_the_gradient_is_the_difference_of_the_softened_probabilities(teacher: Any) -> None:
    """The gradient of T^2 * KL by a logit is T * (student - mean of the others), divided by the rows."""
    T, rows = 4.0, 5
    logits = [torch.randn(rows, 2, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in range(3)]
    goal = MutualLearning([Supervised() for _ in logits], T, 1.0)
    (goal._mutual(logits[0], torch.stack(logits[1:], dim=1)).sum() / rows).backward()
    mean = (softened(logits[1], T) + softened(logits[2], T)) / 2
    assert logits[0].grad is not None
    assert torch.allclose(logits[0].grad.double(), T * (softened(logits[0], T) - mean) / rows, atol=1e-6)
    assert logits[1].grad is None


def test_other_tasks_use_their_own_loss() -> None:
    """Multi-label: T^2 * BCE with the mean softened probability; regression: the squared error to the mean."""
    T = 2.0
    ours, *others = (torch.randn(6, 3, generator=torch.Generator().manual_seed(n)) for n in range(3))
    stacked = torch.stack(others, dim=1)
    labels = MutualLearning([Supervised(), Supervised()], T, 1.0, "multi_label")
    yes = sum((other.double() / T).sigmoid() for other in others) / 2
    q = (ours.double() / T).sigmoid()
    wanted = T**2 * -(yes * q.log() + (1 - yes) * (1 - q).log()).mean(dim=-1)
    assert labels._mutual(ours, stacked).numpy() == pytest.approx(wanted.numpy(), rel=1e-4)
    numbers = MutualLearning([Supervised(), Supervised()], T, 1.0, "regression")
    distance = (ours[:, :1] - (others[0] + others[1])[:, :1] / 2).square().mean(dim=-1)
    assert numbers._mutual(ours[:, :1], stacked[..., :1]).numpy() == pytest.approx(distance.numpy(), rel=1e-5)
    assert numbers.describe()[-1] == "+ 1 * MSE to the mean of the others, for each of 2 students"


def test_two_micro_batches_equal_one_batch(teacher: Any) -> None:
    found = []
    for parts in ([range(60)], [range(30), range(30, 60)]):
        each = students(teacher)
        goal = MutualLearning(own(teacher, each), 2.0, 1.0)
        batches = [TRAIN.batch(np.array(part)) for part in parts]
        step = OptimizerStep.of(batches)
        for part in batches:
            outputs = goal.observe(Cohort(each), part, CPU, goal.needs(0, 1))
            torch.stack(list(goal(outputs, part, step).values())).sum().backward()
        found.append([weight.grad for one in each for weight in one.parameters() if weight.grad is not None])
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_students_learn_and_the_best_on_dev_is_selected(tmp_path: Path, teacher: Any) -> None:
    each = students(teacher)
    goal = MutualLearning([Supervised() for _ in each], 2.0, 1.0)
    best = train_students(each, goal, TRAIN, score, setting(tmp_path, epochs=12, learning_rate=5e-3))
    assert best.outcome.score == max(best.scores) == best.scores[best.index] == score(each[best.index]) > 0.8
    assert best.scores == [score(one) for one in each]
    names = {name for _, name, _ in best.outcome.history}
    assert names == {"loss", "dev"} | {f"loss_student{n}_{term}" for n in (1, 2, 3) for term in ("ce", "mutual")}


def test_the_student_is_selected_by_its_own_score(tmp_path: Path, teacher: Any) -> None:
    each = students(teacher)
    known = {id(one): value for one, value in zip(each, (0.2, 0.9, 0.5), strict=True)}
    goal = MutualLearning([Supervised() for _ in each], 2.0, 1.0)
    best = train_students(each, goal, TRAIN, lambda one: known[id(one)], setting(tmp_path, epochs=1))
    assert (best.index, best.scores, best.outcome.score) == (1, [0.2, 0.9, 0.5], 0.9)


def test_one_student_is_the_plain_loop(tmp_path: Path, teacher: Any) -> None:
    one = student_from_layers(teacher, [0, 2])
    best = train_students([one], Supervised(), TRAIN, score, setting(tmp_path, epochs=1))
    assert (best.index, best.scores) == (0, [])
    assert best.outcome.score == score(one)


class Stop(Exception):
    """Stands for a power cut."""


class CutShort(Distillation):
    def forward(self, outputs: Outputs, part: Batch, step: OptimizerStep) -> Terms:
        if step.index == 9:
            raise Stop
        return super().forward(outputs, part, step)


@pytest.mark.slow
def test_interrupted_and_resumed_equals_straight_through_to_the_bit(tmp_path: Path, teacher: Any) -> None:
    """With projections (a narrower student), dropout, accumulation, weight averaging and frozen embeddings."""
    plan = {"checkpoint_seconds": 1e-6, "average_decay": 0.9, "accumulate": 2, "batch_tokens": 64,
            "freeze_embeddings": True, "epochs": 2}  # fmt: skip

    def run(folder: str, kind: type[Distillation]) -> tuple[list[Any], MutualLearning, Best]:
        each = [make_narrow(), student_from_layers(teacher, [1, 3])]
        goal = MutualLearning(own(teacher, each, kind), 2.0, 1.0)
        torch.manual_seed(len(folder))  # whatever the process did
        return each, goal, train_students(each, goal, TRAIN, score, setting(tmp_path / folder, **plan))

    straight, goal, wanted = run("straight", Distillation)
    with pytest.raises(Stop):
        run("cut", CutShort)
    resumed, again, found = run("cut", Distillation)
    assert found.outcome.resumed_at == 9
    assert (found.outcome.history, found.scores, found.index) == (wanted.outcome.history, wanted.scores, wanted.index)
    for left, right in zip([*straight, goal], [*resumed, again], strict=True):
        other = right.state_dict()
        assert all(torch.equal(value, other[name]) for name, value in left.state_dict().items())


def make_narrow() -> Any:
    torch.manual_seed(4)
    return make("bert", num_labels=2, hidden_size=16, num_hidden_layers=2)


def test_one_student_alone_is_refused() -> None:
    with pytest.raises(ModelError, match="1 students cannot teach each other; give two or more"):
        MutualLearning([Supervised()], 2.0, 1.0)


def test_the_description_includes_the_mutual_term(teacher: Any) -> None:
    goal = MutualLearning(own(teacher, students(teacher)), 2.0, 0.5)
    assert goal.describe()[0] == "0.7 * T^2 * KL(T=2) + 0.3 * CE"
    assert goal.describe()[-1] == "+ 0.5 * T^2 * KL(T=2) to the mean of the others, for each of 3 students"


def test_stored_signals_serve_every_student(teacher: Any) -> None:
    each, part = students(teacher), TRAIN.batch(np.arange(20))
    stored = StoredSignals(predict_logits(teacher, TRAIN), np.arange(len(TRAIN)))
    found = [
        terms_of(MutualLearning([Distillation(source, Blend(2.0, 0.7), {}) for _ in each], 2.0, 1.0), each, part)
        for source in (stored, LiveTeacher(teacher, CPU))
    ]
    for name, term in found[0].items():
        assert float(term.detach()) == pytest.approx(float(found[1][name].detach()), rel=1e-4), name
