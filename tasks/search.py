"""search: finds the cheapest student that passes the gates on dev, by a study over `distill` and static students.

It is no DVC stage, since the pipeline uses nothing that it writes: a page, the params of each point, and the serving
folder of the cheapest student. Each trial is the distill stage with other params. The best trial of each size passes
through finetune and export, as in the pipeline. The test split is never opened.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from potstill.artifacts import is_whole, read_json, sha256_value, verify, write_json
from potstill.config.params import Params
from potstill.config.search_params import Search
from potstill.data.tokens.token_folder import TokenFolder
from potstill.distillation.objective.terms import misfit
from potstill.errors import ParamsError
from potstill.evaluation.naming import QUANTIZED
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier
from potstill.models.students.student import check_layers
from potstill.paths import DISTILLED, SEARCH_REPORT, STUDIES
from potstill.progress import say
from potstill.studies.folds import split_folds
from potstill.studies.outcome import SearchOutcome, write_outcome
from potstill.studies.space import Choice, candidate_layers, distill_section, set_arguments, settings, static_changes
from potstill.studies.study import Trial, by_score, describe, run_study
from tasks import distill, export, finetune, quantize
from tasks.learning import open_tokens
from tasks.measuring import BuiltStudent, measure
from tasks.relocation import relocated_stage
from tasks.stage import Stage, load_stage
from tasks.student_building import student_builder

DATABASE = STUDIES / "studies.db"


def search(params: Params) -> SearchOutcome:
    """Finish the study, measure its best students, and write `reports/search/`.

    Returns:
        The trials and the points, and among these the cheapest that passes the gates.

    Raises:
        ChecksumError: tokens, teacher or signals are missing or altered.
        ModelError: `search.layers` names layers that the teacher lacks.
        ParamsError: none of `search.losses` fits the task, or `general.layers` or `distill.mutual` names other layers
            than the search tries.
    """
    return _Search(params).run()


@dataclass
class _Search:
    """A search of the workspace in the current folder."""

    params: Params
    clock: dict[str, float] = field(default_factory=dict)

    def run(self) -> SearchOutcome:
        """Run all trials, and measure and report their best students."""
        space = self.space
        for path in self.stage.deps.values():
            verify(path)
        # Dev scores that a trial reports if it is not pruned.
        evaluations = space.folds or self.params.distill.epochs * space.evaluations_per_epoch
        trials = run_study(
            DATABASE, self.name, space, self.layers, self.train,
            evaluations=evaluations, seed=self.params.project.seed,
        )  # fmt: skip
        students = {**self._best_students(trials), **self._static_students()}
        points, rows = measure(students, self.params, self.stage, self._quantized_teacher())
        outcome = SearchOutcome(self.name, rows, trials, points)
        write_outcome(outcome, self.params, SEARCH_REPORT)
        return outcome

    @cached_property
    def space(self) -> Search:
        """The section `search` without the losses that do not fit the task, which are printed."""
        search, task = self.params.search, self.params.prepare.task
        misfits = {
            name: reason
            for name, terms in search.losses.items()
            if (reason := next(filter(None, (misfit(term.kind, task) for term in terms)), None)) is not None
        }
        if len(misfits) == len(search.losses):
            raise ParamsError(f"search.losses has none for a {task} task: {next(iter(misfits.values()))}")
        for name, reason in misfits.items():
            say(f"search: without {name!r} of search.losses: {reason}")
        changed: dict[str, object] = {
            "losses": {name: terms for name, terms in search.losses.items() if name not in misfits}
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
        """The name of the study, a hash of space, data, code and params.

        The number of trials does not change it. Nor do the params that trials set, so that those of a trial can be
        copied to `params.yaml` while the study continues.
        """
        space = self.space.model_dump(mode="json", exclude={"trials", "static"})
        example = Choice(tuple(self.layers[0]), 1.0, 1.0, 1.0, next(iter(self.space.losses)))
        return sha256_value({"space": space, "distill": load_stage("distill", self._params_of(example)).key})[:16]

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
        """Refuse layers that another setting excludes, since no params.yaml could reproduce such a point."""
        general, mutual = self.params.general.layers, self.params.distill.mutual
        fixed = {"general.layers": None if general is None else [general],
                 "distill.mutual": None if mutual is None else mutual.students}  # fmt: skip
        for key, allowed in fixed.items():
            excluded = next((layers for layers in chosen if allowed is not None and layers not in allowed), None)
            if excluded is not None:
                raise ParamsError(
                    f"the search tries layers {excluded}, but {key} is for {' or '.join(map(str, allowed or []))}; set "
                    f"search.layers to those, or {key} to null for the search"
                )

    # --- trials ---

    def train(self, choice: Choice, watch: Callable[[float], None]) -> float:
        """Train a choice and return its score: on dev, or the mean over the folds of train."""
        trial_dir = self._trial_dir(choice)
        if not self.space.folds:
            score = self._distil(self._params_of(choice), trial_dir, {}, watch)
            self._keep_best(choice, score)
            return score
        tokens, scores = self.stage.deps["tokens"], []
        folds = split_folds(tokens, STUDIES / "folds", self.space.folds, self.params.project.seed)
        for number, fold in enumerate(folds):
            fold_dir = trial_dir / f"fold-{number}"
            scores.append(self._distil(self._params_of(choice), fold_dir, {tokens: fold}, None))
            watch(sum(scores) / len(scores))
        shutil.rmtree(trial_dir)
        return sum(scores) / len(scores)

    def _trial_dir(self, choice: Choice) -> Path:
        return STUDIES / self.name / choice.key

    def _params_of(self, choice: Choice) -> Params:
        section = distill_section(self.params.distill, self.space, choice)
        return self.params.model_copy(update={"distill": section})

    def _distil(
        self, params: Params, student_dir: Path, moved: dict[Path, Path], watch: Callable[[float], None] | None
    ) -> float:
        """Write `student_dir/distilled`, and return its best dev score."""
        stage = relocated_stage("distill", params, student_dir, moved, clock=self.clock, watch=watch)
        try:
            distill.run(stage)
        except Exception:  # an interruption is no Exception, so it keeps the checkpoints
            shutil.rmtree(stage.checkpoints, ignore_errors=True)
            raise
        shutil.rmtree(stage.checkpoints, ignore_errors=True)
        return float(verify(student_dir / "distilled")[KINDS[self.params.prepare.task].scoring.dev_key])

    def _keep_best(self, choice: Choice, score: float) -> None:
        """Keep only the weights of the best trial of each size, since those of many trials would fill the disk."""
        record = STUDIES / self.name / f"best-of-{len(choice.layers)}.json"
        earlier_best = read_json(record) if record.exists() else None
        if earlier_best is not None and earlier_best["key"] != choice.key:
            if score <= earlier_best["score"]:
                shutil.rmtree(self._trial_dir(choice))
                return
            shutil.rmtree(STUDIES / self.name / earlier_best["key"], ignore_errors=True)
        write_json(record, {"key": choice.key, "score": score})

    # --- what is measured ---

    def _quantized_teacher(self) -> Path:
        """Quantize the teacher, as the pipeline does; a complete folder stays as it is."""
        stage = relocated_stage("quantize", self.params, STUDIES / self.name, {}, clock=self.clock)
        if not is_whole(*stage.outs.values()):
            quantize.run(stage)
        return stage.outs[QUANTIZED]

    def _best_students(self, trials: list[Trial]) -> dict[str, BuiltStudent]:
        """Build the student of the best trial of each size, as the pipeline would ship it."""
        best: dict[int, Choice] = {}
        for trial in by_score(trials):
            if trial.state == "complete":
                best.setdefault(len(trial.choice.layers), trial.choice)
        return {
            f"{size} layer{'s' if size > 1 else ''}": self._layer_student(best[size])
            for size in sorted(best, reverse=True)
        }

    def _layer_student(self, choice: Choice) -> BuiltStudent:
        params, student_dir = self._params_of(choice), self._trial_dir(choice)
        self._build(params, student_dir, describe(choice))
        sections = {"distill": params.distill.model_dump(mode="json")}
        return BuiltStudent("layers", student_dir, settings(self.space, choice), sections, choice)

    def _static_students(self) -> dict[str, BuiltStudent]:
        """Build the static students, with the teacher's vocabulary or a trimmed one."""
        students: dict[str, BuiltStudent] = {}
        if self.space.static.dimensions and KINDS[self.params.prepare.task].marks_spans:
            say("search: no static student: it labels whole texts, and the task marks spans in them")
            return students
        student = self.tokens.student
        if self.space.static.dimensions and student is not self.tokens and student.kept_ids is None:
            say("search: no static student: distill.student has a tokenizer of its own, whose tokens the teacher lacks")
            return students
        for width in self.space.static.dimensions:
            changed, name = static_changes(self.params, width), f"static, {width} dimensions"
            sections = {key: self.params.section(key).model_dump(mode="json") | changed[key] for key in changed}
            plans = {key: type(self.params.section(key)).model_validate(values) for key, values in sections.items()}
            params = self.params.model_copy(update=plans)
            student_dir = STUDIES / self.name / f"static-{width}-{sha256_value(sections)[:12]}"
            self._build(params, student_dir, name)
            students[name] = BuiltStudent("static", student_dir, set_arguments(changed), sections)
        return students

    def _build(self, params: Params, student_dir: Path, description: str) -> None:
        """Build a student, from distillation to its serving folder; complete folders stay as they are."""
        if not is_whole(student_dir / "distilled"):
            say(f"search: {description}, on all rows")
            self._distil(params, student_dir, {}, None)
        moved = {DISTILLED: student_dir / "distilled"}
        for name, function in (("finetune", finetune.run), ("export", export.run)):
            stage = relocated_stage(name, params, student_dir, moved, clock=self.clock)
            if not is_whole(*stage.outs.values()):
                say(f"search: {name} of {description}")
                function(stage)
            shutil.rmtree(stage.checkpoints, ignore_errors=True)
