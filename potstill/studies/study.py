"""An Optuna study that can be resumed. Every trial is one training run, whose dev scores decide whether it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from potstill.config.search_params import Search
from potstill.errors import TrainingError
from potstill.progress import say
from potstill.studies.space import Choice, grid, parse_choice, suggest

if TYPE_CHECKING:
    from optuna import Study
    from optuna import Trial as OptunaTrial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

# Trials that run to their end before the median prunes any.
STARTUP_TRIALS = 4
PARAMETERS = ("layers", "temperature", "alpha", "learning_rate", "losses")
_ERROR = "error"

State = Literal["complete", "pruned", "failed"]
# Trains a choice, reports every dev score to the callback, and returns the best.
Train = Callable[[Choice, Callable[[float], None]], float]


@dataclass(frozen=True)
class Trial:
    """One finished trial.

    Attributes:
        number: in the order in which trials began.
        choice: the choice that was trained.
        state: `complete`; `pruned`, ended early; or `failed`, the loss became NaN or infinite.
        score: the best dev score; for a pruned trial the last one, for a failed trial None.
    """

    number: int
    choice: Choice
    state: State
    score: float | None


def run_study(
    storage: Path,
    name: str,
    search: Search,
    layers: Sequence[Sequence[int]],
    train: Train,
    *,
    evaluations: int,
    seed: int,
) -> list[Trial]:
    """Run a study until it has `search.trials` finished trials; an interrupted study resumes with its open trial.

    Args:
        storage: SQLite file of studies.
        name: the study's name in it; a study of another space or other data has another name.
        search: the space, the sampler and the pruner.
        layers: lists of layers to choose from.
        train: trains a choice; a choice that was trained already is not trained again.
        evaluations: number of dev scores that a whole training run reports.
        seed: seed of the sampler.

    Returns:
        The finished trials, in order.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{storage}", study_name=name, load_if_exists=True, direction="maximize",
        pruner=_pruner(search, evaluations),
    )  # fmt: skip
    # With its first seed, the sampler of a resumed study would draw the same choices again.
    study.sampler = _sampler(search, layers, seed + len(study.trials))
    _requeue_interrupted(study)
    total = search.trials
    if search.sampler == "grid":
        total = min(total, math.prod(map(len, grid(search, layers).values())))
    done = len(finished(study))
    if 0 < done < total:
        say(f"search: resumes after {done} of {total} trials")
    if done < total:
        study.optimize(lambda trial: _objective(trial, search, layers, train, total), n_trials=total - done)
    return finished(study)


def finished(study: Study) -> list[Trial]:
    """Return the trials that were not interrupted: complete, pruned, or failed for a reason that training gave."""
    names: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return [
        Trial(trial.number, parse_choice(trial.params), names[trial.state.name], trial.value)
        for trial in study.get_trials(deepcopy=False)
        if _is_finished(trial)
    ]


def by_score(trials: Sequence[Trial]) -> list[Trial]:
    """Sort trials, the best first and those without a score last."""
    return sorted(trials, key=lambda trial: (trial.state != "complete", -(trial.score or 0.0)))


def _is_finished(trial: FrozenTrial) -> bool:
    return trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and _ERROR in trial.user_attrs)


def _requeue_interrupted(study: Study) -> None:
    """Close the trials that an interrupted run left open, and queue their choices to be tried first."""
    import optuna

    trials = study.get_trials(deepcopy=False)
    tried = [trial.params for trial in trials if _is_finished(trial)]
    tried += [trial.system_attrs["fixed_params"] for trial in trials if trial.state.name == "WAITING"]
    for trial in trials:
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        elif trial.state != optuna.trial.TrialState.FAIL or _is_finished(trial):
            continue
        if set(trial.params) == set(PARAMETERS) and trial.params not in tried:
            study.enqueue_trial(trial.params)
            tried.append(trial.params)


def _objective(trial: OptunaTrial, search: Search, layers: Sequence[Sequence[int]], train: Train, total: int) -> float:
    from optuna import TrialPruned

    choice = suggest(trial, search, layers)
    earlier = finished(trial.study)
    number = len(earlier) + 1
    same = next((other for other in earlier if other.choice == choice and other.state == "complete"), None)
    if same is not None and same.score is not None:
        say(f"search: trial {number} of {total}: as trial {same.number}, {same.score:.4f}")
        return same.score
    say(f"search: trial {number} of {total}: {describe(choice)}")
    scores: list[float] = []

    def watch(score: float) -> None:
        scores.append(score)
        trial.report(score, len(scores))
        if trial.should_prune():
            raise TrialPruned

    try:
        score = train(choice, watch)
    except TrainingError as error:
        trial.set_user_attr(_ERROR, str(error))
        say(f"search: trial {number} failed: {error}")
        return float("nan")  # a failure to Optuna
    except TrialPruned:
        say(f"search: trial {number} ended early at {scores[-1]:.4f}, below the other trials")
        raise
    say(f"search: trial {number}: dev {score:.4f}")
    return score


def describe(choice: Choice) -> str:
    """Describe a choice in one line."""
    return (
        f"layers {list(choice.layers)}, T {choice.temperature:g}, alpha {choice.alpha:g}, "
        f"learning rate {choice.learning_rate:g}, {choice.losses}"
    )


def _sampler(search: Search, layers: Sequence[Sequence[int]], seed: int) -> BaseSampler:
    from optuna.samplers import GridSampler, TPESampler

    return GridSampler(grid(search, layers), seed=seed) if search.sampler == "grid" else TPESampler(seed=seed)


def _pruner(search: Search, evaluations: int) -> BasePruner:
    from optuna.pruners import HyperbandPruner, MedianPruner, NopPruner

    if search.pruner == "median":
        return MedianPruner(n_startup_trials=STARTUP_TRIALS)
    if search.pruner == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=max(evaluations, 1))
    return NopPruner()
