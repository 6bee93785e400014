from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from potstill.config.search_params import Search
from potstill.errors import TrainingError
from potstill.studies.space import Choice, candidate_layers, distill_section, settings
from potstill.studies.study import Trial, run_study

LAYERS = [[0, 2, 4], [0, 3], [0]]
Watch = Callable[[float], None]


def _search(**values: object) -> Search:
    return Search(**({"trials": 8, "pruner": "none"} | values))  # type: ignore[arg-type]


def _quality(choice: Choice) -> float:
    """Best at three layers, T = 2 and the largest learning rate."""
    return 0.6 + 0.05 * len(choice.layers) - 0.01 * abs(choice.temperature - 2) + 200 * choice.learning_rate


def _study(path: Path, search: Search, train: Callable[[Choice, Watch], float], name: str = "a") -> list[Trial]:
    return run_study(path / "studies.db", name, search, LAYERS, train, evaluations=4, seed=1)


class _Trainer:
    """Learns to a choice's quality in four steps."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.trained: list[Choice] = []
        self.interrupt_at = interrupt_at

    def __call__(self, choice: Choice, watch: Watch) -> float:
        self.trained.append(choice)
        for step in (1, 2, 3, 4):
            watch(_quality(choice) * step / 4)
        if len(self.trained) == self.interrupt_at:
            raise KeyboardInterrupt
        return _quality(choice)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_study_tries_choices_of_its_space(tmp_path: Path, sampler: str) -> None:
    search, trainer = _search(sampler=sampler), _Trainer()
    trials = _study(tmp_path, search, trainer)
    assert [trial.number for trial in trials] == list(range(8))
    for trial in trials:
        assert trial.score == _quality(trial.choice)
        assert list(trial.choice.layers) in LAYERS
        assert 1 <= trial.choice.temperature <= 4
        assert 5e-5 <= trial.choice.learning_rate <= 2e-4
    assert len(set(trainer.trained)) == len(trainer.trained)
    if sampler == "tpe":
        assert any(trial.choice.temperature not in (1.0, 4.0) for trial in trials)
        assert all(trial.choice.temperature == float(f"{trial.choice.temperature:.6g}") for trial in trials)


@pytest.mark.slow
def test_a_grid_is_tried_whole_and_then_done(tmp_path: Path) -> None:
    search = _search(sampler="grid", trials=100, alpha=[1.0], losses={"kl": []})
    trials = _study(tmp_path, search, _Trainer())
    assert len(trials) == 12
    assert len({trial.choice for trial in trials}) == 12
    later = _Trainer()
    assert _study(tmp_path, search, later) == trials
    assert later.trained == []


@pytest.mark.slow
def test_the_sampler_learns(tmp_path: Path) -> None:
    trials = _study(tmp_path, _search(trials=24), _Trainer())
    scores = [trial.score or 0.0 for trial in trials]
    assert sum(scores[12:]) > sum(scores[:12])


@pytest.mark.slow
def test_an_interrupted_study_goes_on_with_the_open_trial(tmp_path: Path) -> None:
    first = _Trainer(interrupt_at=3)
    with pytest.raises(KeyboardInterrupt):
        _study(tmp_path, _search(), first)
    second = _Trainer()
    trials = _study(tmp_path, _search(), second)
    assert second.trained[0] == first.trained[2]
    assert len(trials) == 8
    assert len(second.trained) <= 6
    choices = [trial.choice for trial in trials]
    assert choices[:2] == first.trained[:2]
    assert first.trained[2] in choices


@pytest.mark.slow
def test_a_killed_study_goes_on_with_the_open_trial(tmp_path: Path) -> None:
    first = _Trainer(interrupt_at=3)
    with pytest.raises(KeyboardInterrupt):
        _study(tmp_path, _search(), first)
    with sqlite3.connect(tmp_path / "studies.db") as database:  # as kill -9 leaves it
        assert database.execute("update trials set state = 'RUNNING' where state = 'FAIL'").rowcount == 1
    second = _Trainer()
    assert len(_study(tmp_path, _search(), second)) == 8
    assert second.trained[0] == first.trained[2]


def test_a_choice_is_never_trained_twice(tmp_path: Path) -> None:
    # One point in all: a sampler has nothing else to draw.
    search = _search(trials=3, temperature=[2.0], alpha=[1.0], learning_rate=[1e-4], losses={"kl": []})
    trainer = _Trainer()
    trials = run_study(tmp_path / "s.db", "a", search, [[0]], trainer, evaluations=4, seed=1)
    assert len(trials) == 3
    assert len(trainer.trained) == 1


@pytest.mark.slow
def test_bad_trials_end_early(tmp_path: Path) -> None:
    seen: list[int] = []

    def train(choice: Choice, watch: Watch) -> float:
        seen.append(0)
        # Each is worse than those before from its first evaluation.
        for step in range(1, 5):
            watch(step / 10 - len(seen) / 50)
            seen[-1] = step
        return 0.4 - len(seen) / 50

    trials = _study(tmp_path, _search(pruner="median", trials=10), train)
    assert [trial.state for trial in trials[:4]] == ["complete"] * 4
    assert all(trial.state == "pruned" for trial in trials[4:])
    assert seen == [4, 4, 4, 4, 0, 0, 0, 0, 0, 0]
    assert all(trial.score is not None and trial.score < 0.1 for trial in trials[4:])


@pytest.mark.slow
def test_hyperband_prunes_too(tmp_path: Path) -> None:
    random = iter([0.9, 0.8, *(0.1 / place for place in range(1, 60))])

    def train(choice: Choice, watch: Watch) -> float:
        quality = next(random)
        for step in range(1, 5):
            watch(quality * step / 4)
        return quality

    trials = _study(tmp_path, _search(pruner="hyperband", trials=12), train)
    assert {trial.state for trial in trials} == {"complete", "pruned"}


@pytest.mark.slow
def test_a_loss_that_diverges_fails_one_trial(tmp_path: Path) -> None:
    def train(choice: Choice, watch: Watch) -> float:
        if choice.learning_rate > 1e-4:
            raise TrainingError("the kl loss became nan at step 3")
        return 0.5

    trials = _study(tmp_path, _search(sampler="grid", trials=12), train)
    assert {(trial.choice.learning_rate > 1e-4, trial.state) for trial in trials} == {
        (True, "failed"), (False, "complete"),
    }  # fmt: skip
    assert len(_study(tmp_path, _search(sampler="grid", trials=12), train)) == 12  # failed ones count as tried


@pytest.mark.slow
def test_studies_of_other_names_do_not_mix(tmp_path: Path) -> None:
    _study(tmp_path, _search(trials=2), _Trainer())
    other = _Trainer()
    assert len(_study(tmp_path, _search(trials=2), other, name="b")) == 2
    assert other.trained


@pytest.mark.parametrize(
    ("available", "expected"),
    [(6, [[0, 2, 4], [0, 3], [0]]), (12, [[0, 2, 4, 6, 8, 10], [0, 3, 6, 9], [0, 6]]), (4, [[0, 2], [0]]), (1, [[0]])],
)
def test_layers_of_a_teacher_evenly_spaced(available: int, expected: list[list[int]]) -> None:
    candidates = candidate_layers(Search(), available)
    assert candidates == expected
    assert all(later <= earlier for earlier, later in pairwise(map(len, candidates)))


def test_a_choice_is_a_section_and_its_settings_say_the_same(tmp_path: Path) -> None:
    import yaml

    from flows.commands.params_changes import change_params
    from potstill.config.params_file import load_params
    from tests.conftest import REPOSITORY

    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    before = load_params(tmp_path / "params.yaml")
    choice = Choice((0, 3), 1.789, 0.625, 8.25e-05, "kl and dist")
    section = distill_section(before.distill, before.search, choice)
    lines = [line.removeprefix("--set '").removesuffix("'") for line in settings(before.search, choice)]
    change_params(tmp_path / "params.yaml", None, lines)
    assert load_params(tmp_path / "params.yaml").distill == section
    assert section.terms[0].kind == "dist"
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["distill"]["layers"] == [0, 3]
