"""search: which student is the cheapest that is good enough? A study over `distill`, and static students, on dev.

Not a DVC stage: it makes nothing that the pipeline uses, only a page, the params of each point, and the serving folder
of the cheapest. Each trial is the distill stage with other params; the best of each size goes on through finetune and
export, as the pipeline would have it. The test split is never opened.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from potstill.artifacts import read_json, sha256_value, verify, write_json
from potstill.config.params import Params
from potstill.config.params_file import parse_distill
from potstill.config.search_params import Search
from potstill.data.tokens.token_folder import TokenFolder
from potstill.distillation.objective.terms import misfit
from potstill.errors import ParamsError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier
from potstill.models.students.student import check_layers
from potstill.paths import DISTILLED, SEARCH_REPORT, STUDIES
from potstill.progress import say
from potstill.studies.folds import split_folds
from potstill.studies.outcome import SearchOutcome, write_outcome
from potstill.studies.space import Choice, candidate_layers, distill_section, set_arguments, settings, static_changes
from potstill.studies.study import Trial, by_score, describe, run_study
from tasks import distill, export, finetune
from tasks.elsewhere import elsewhere, is_whole
from tasks.learning import open_tokens
from tasks.measuring import BuiltStudent, measure
from tasks.stage import Stage, load_stage
from tasks.student_building import student_builder

DATABASE = STUDIES / "studies.db"


def search(params: Params) -> SearchOutcome:
    """Bring the study to its end, measure what came of it, and write `reports/search/`.

    Returns:
        The trials and the points; the cheapest that passes the gates among them.

    Raises:
        ChecksumError: tokens, teacher or signals are missing or altered.
        ModelError: `search.layers` names layers that the teacher lacks.
        ParamsError: none of `search.losses` is for the task, or `general.layers` or `distill.mutual` are for other
            layers than those it tries.
    """
    return _Search(params).go()


@dataclass
class _Search:
    """One search of one workspace, which is the current folder."""

    params: Params
    clock: dict[str, float] = field(default_factory=dict)

    def go(self) -> SearchOutcome:
        space = self.space
        for path in self.stage.deps.values():
            verify(path)
        # Scores that a whole trial tells.
        evaluations = space.folds or self.params.distill.epochs * space.evaluations_per_epoch
        trials = run_study(
            DATABASE, self.name, space, self.layers, self.train,
            evaluations=evaluations, seed=self.params.project.seed,
        )  # fmt: skip
        points, rows = measure({**self._best(trials), **self._static()}, self.params, self.stage)
        outcome = SearchOutcome(self.name, rows, trials, points)
        write_outcome(outcome, self.params, SEARCH_REPORT)
        return outcome

    @cached_property
    def space(self) -> Search:
        """What the task can have of `search`; said where that is not all of it."""
        search, task = self.params.search, self.params.prepare.task
        missed = {
            name: reason
            for name, terms in search.losses.items()
            if (reason := next(filter(None, (misfit(term.kind, task) for term in terms)), None)) is not None
        }
        if len(missed) == len(search.losses):
            raise ParamsError(f"search.losses has none for a {task} task: {next(iter(missed.values()))}")
        for name, reason in missed.items():
            say(f"search: without {name!r} of search.losses: {reason}")
        changed: dict[str, object] = {
            "losses": {name: terms for name, terms in search.losses.items() if name not in missed}
        }
        if KINDS[task].form == "number":  # a number has no temperature to choose
            changed["temperature"] = [self.params.distill.temperature]
        return search.model_copy(update=changed)

    @cached_property
    def stage(self) -> Stage:
        return load_stage("distill", self.params)

    @cached_property
    def tokens(self) -> TokenFolder:
        return open_tokens(self.stage)

    @cached_property
    def name(self) -> str:
        """Of the study: another space, other data or other code make another one; more trials do not.

        Nor does what a trial sets itself, so that `params.yaml` can take the params of one in between.
        """
        space = self.space.model_dump(mode="json", exclude={"trials", "static"})
        some = Choice(tuple(self.layers[0]), 1.0, 1.0, 1.0, next(iter(self.space.losses)))
        return sha256_value({"space": space, "distill": load_stage("distill", self._chosen(some)).key})[:16]

    @cached_property
    def layers(self) -> list[list[int]]:
        folder = self.stage.deps["teacher"]
        available = student_builder(self.stage, self.tokens).available(load_classifier(folder))
        chosen = candidate_layers(self.space, available)
        self._check_fixed(chosen)
        for layers in chosen:
            check_layers(layers, available, str(folder))
        return chosen

    def _check_fixed(self, chosen: list[list[int]]) -> None:
        """Refuse layers that another setting rules out: no params could make such a point again."""
        general, mutual = self.params.general.layers, self.params.distill.mutual
        fixed = {"general.layers": None if general is None else [general],
                 "distill.mutual": None if mutual is None else mutual.students}  # fmt: skip
        for key, allowed in fixed.items():
            other = next((layers for layers in chosen if allowed is not None and layers not in allowed), None)
            if other is not None:
                raise ParamsError(
                    f"the search tries layers {other}, but {key} is for {' or '.join(map(str, allowed or []))}; set "
                    f"search.layers to those, or {key} to null for the search"
                )

    # --- trials ---

    def train(self, choice: Choice, watch: Callable[[float], None]) -> float:
        """Train a choice as the study asks: once and judged by dev, or once for each held-out part of train."""
        place = self._place(choice)
        if not self.space.folds:
            best = self._distil(self._chosen(choice), place, {}, watch)
            self._keep_best(choice, best)
            return best
        tokens, scores = self.stage.deps["tokens"], []
        folds = split_folds(tokens, STUDIES / "folds", self.space.folds, self.params.project.seed)
        for number, fold in enumerate(folds):
            scores.append(self._distil(self._chosen(choice), place / f"fold-{number}", {tokens: fold}, None))
            watch(sum(scores) / len(scores))
        shutil.rmtree(place)
        return sum(scores) / len(scores)

    def _place(self, choice: Choice) -> Path:
        return STUDIES / self.name / choice.key

    def _chosen(self, choice: Choice) -> Params:
        section = distill_section(self.params.distill, self.space, choice)
        return self.params.model_copy(update={"distill": section})

    def _distil(
        self, params: Params, place: Path, moved: dict[Path, Path], watch: Callable[[float], None] | None
    ) -> float:
        """Make `place/distilled`; its best dev score."""
        stage = elsewhere("distill", params, place, moved, clock=self.clock, watch=watch)
        try:
            distill.run(stage)
        except Exception:  # an interruption keeps the checkpoints, an end of its own does not
            shutil.rmtree(stage.checkpoints, ignore_errors=True)
            raise
        shutil.rmtree(stage.checkpoints, ignore_errors=True)
        return float(verify(place / "distilled")[KINDS[self.params.prepare.task].scoring.dev_key])

    def _keep_best(self, choice: Choice, best: float) -> None:
        """Keep the weights of the best of a size alone: those of many trials would fill the disk."""
        record = STUDIES / self.name / f"best-of-{len(choice.layers)}.json"
        known = read_json(record) if record.exists() else None
        if known is not None and known["key"] != choice.key:
            if best <= known["score"]:
                shutil.rmtree(self._place(choice))
                return
            shutil.rmtree(STUDIES / self.name / known["key"], ignore_errors=True)
        write_json(record, {"key": choice.key, "score": best})

    # --- what is measured ---

    def _best(self, trials: list[Trial]) -> dict[str, BuiltStudent]:
        """The best trial of each size, as the pipeline would ship it."""
        best: dict[int, Choice] = {}
        for trial in by_score(trials):
            if trial.state == "complete":
                best.setdefault(len(trial.choice.layers), trial.choice)
        return {
            f"{size} layer{'s' if size > 1 else ''}": self._layers(best[size]) for size in sorted(best, reverse=True)
        }

    def _layers(self, choice: Choice) -> BuiltStudent:
        params, place = self._chosen(choice), self._place(choice)
        self._make(params, place, describe(choice))
        sections = {"distill": params.distill.model_dump(mode="json")}
        return BuiltStudent("layers", place, settings(self.space, choice), sections, choice)

    def _static(self) -> dict[str, BuiltStudent]:
        """The static students; their tokens are the teacher's, or those of them that a trimmed vocabulary keeps."""
        found: dict[str, BuiltStudent] = {}
        if self.space.static.dimensions and KINDS[self.params.prepare.task].marks_spans:
            say("search: no static student: it answers about whole texts, and the task is about places in them")
            return found
        student = self.tokens.student
        if self.space.static.dimensions and student is not self.tokens and student.kept_ids is None:
            say("search: no static student: distill.student has a tokenizer of its own, whose tokens the teacher lacks")
            return found
        for width in self.space.static.dimensions:
            changed, name = static_changes(self.params, width), f"static, {width} dimensions"
            sections = {key: self.params.section(key).model_dump(mode="json") | changed[key] for key in changed}
            params = self.params.model_copy(update={"distill": parse_distill(sections["distill"])})
            place = STUDIES / self.name / f"static-{width}-{sha256_value(sections)[:12]}"
            self._make(params, place, name)
            found[name] = BuiltStudent("static", place, set_arguments(changed), sections)
        return found

    def _make(self, params: Params, place: Path, what: str) -> None:
        """A student from distillation to its serving folder; what is there already stays."""
        if not is_whole(place / "distilled"):
            say(f"search: {what}, on all rows")
            self._distil(params, place, {}, None)
        moved = {DISTILLED: place / "distilled"}
        for name, function in (("finetune", finetune.run), ("export", export.run)):
            stage = elsewhere(name, params, place, moved, clock=self.clock)
            if not is_whole(*stage.outs.values()):
                say(f"search: {name} of {what}")
                function(stage)
            shutil.rmtree(stage.checkpoints, ignore_errors=True)
