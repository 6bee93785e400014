"""An Optuna study that resumes: every trial is one training, whose dev scores decide whether it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from potstill.config.search_params import Search
from potstill.errors import TrainingError
from potstill.progress import say
from potstill.studies.space import Choice, choice_of, combinations, grid, suggest

if TYPE_CHECKING:
    from optuna import Study
    from optuna import Trial as OptunaTrial
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

# Trials that run to their end before the median says anything.
STARTUP_TRIALS = 4
PARTS = ("layers", "temperature", "alpha", "learning_rate", "losses")
_ERROR = "error"

State = Literal["complete", "pruned", "failed"]
# Trains a choice, tells every dev score, returns the best.
Train = Callable[[Choice, Callable[[float], None]], float]


@dataclass(frozen=True)
class Trial:
    """One finished trial.

    Attributes:
        number: in the order they were begun.
        choice: what was trained.
        state: `complete`; `pruned`, ended early; or `failed`, the loss became NaN or infinite.
        score: the best dev score; the last one told of a pruned trial, None of a failed one.
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
    """Bring a study to `search.trials` finished trials; one that was interrupted goes on, its open trial first.

    Args:
        storage: SQLite file of studies.
        name: of the study in it; a study of another space or other data has another name.
        search: the space, the sampler and the pruner.
        layers: lists of layers to choose from.
        train: trains a choice; a choice that was trained already is not trained again.
        evaluations: dev scores that a whole training tells.
        seed: of the sampler.

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
    # A sampler that begins again would draw what it drew before.
    study.sampler = _sampler(search, layers, seed + len(study.trials))
    _take_up(study)
    wanted = search.trials if search.sampler == "tpe" else min(search.trials, combinations(search, layers))
    if (done := len(finished(study))) and done < wanted:
        say(f"search: goes on behind {done} of {wanted} trials")
    if done < wanted:
        study.optimize(lambda trial: _objective(trial, search, layers, train, wanted), n_trials=wanted - done)
    return finished(study)


def finished(study: Study) -> list[Trial]:
    """The trials that have an end of their own: complete, pruned, or failed for a reason that training gave."""
    names: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
    return [
        Trial(one.number, choice_of(one.params), names[one.state.name], one.value)
        for one in study.get_trials(deepcopy=False)
        if _is_finished(one)
    ]


def _is_finished(trial: FrozenTrial) -> bool:
    return trial.state.name in ("COMPLETE", "PRUNED") or (trial.state.name == "FAIL" and _ERROR in trial.user_attrs)


def _take_up(study: Study) -> None:
    """Close the trials that an interrupted run left, and try their choices first."""
    import optuna

    trials = study.get_trials(deepcopy=False)
    known = [one.params for one in trials if _is_finished(one)]
    known += [one.system_attrs["fixed_params"] for one in trials if one.state.name == "WAITING"]
    for one in trials:
        if one.state == optuna.trial.TrialState.RUNNING:
            study.tell(one.number, state=optuna.trial.TrialState.FAIL)
        elif one.state != optuna.trial.TrialState.FAIL or _is_finished(one):
            continue
        if set(one.params) == set(PARTS) and one.params not in known:
            study.enqueue_trial(one.params)
            known.append(one.params)


def _objective(trial: OptunaTrial, search: Search, layers: Sequence[Sequence[int]], train: Train, wanted: int) -> float:
    from optuna import TrialPruned

    choice = suggest(trial, search, layers)
    number = len(finished(trial.study)) + 1
    same = next((one for one in finished(trial.study) if one.choice == choice and one.state == "complete"), None)
    if same is not None and same.score is not None:
        say(f"search: trial {number} of {wanted}: as trial {same.number}, {same.score:.4f}")
        return same.score
    say(f"search: trial {number} of {wanted}: {describe(choice)}")
    told: list[float] = []

    def watch(score: float) -> None:
        told.append(score)
        trial.report(score, len(told))
        if trial.should_prune():
            raise TrialPruned

    try:
        score = train(choice, watch)
    except TrainingError as error:
        trial.set_user_attr(_ERROR, str(error))
        say(f"search: trial {number} failed: {error}")
        return float("nan")  # which Optuna takes for a failure
    except TrialPruned:
        say(f"search: trial {number} ended early at {told[-1]:.4f}, behind the others")
        raise
    say(f"search: trial {number}: dev {score:.4f}")
    return score


def describe(choice: Choice) -> str:
    """A choice in a line."""
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
