"""proof: trains student and controls again for each further seed of `proof.seeds`, and keeps their test answers.

A further seed runs the functions of distill, finetune and control with the same params, rows and cached signals, and
another seed. Its models are deleted after they have answered. The served student is always that of the first seed.
With one seed there is nothing to train, and nothing slow is imported.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.artifacts import is_whole, whole_folder, write_manifest
from potstill.config.distill_params import Proof
from potstill.config.params_file import load_params
from potstill.paths import PARAMS
from potstill.progress import say
from tasks.relocation import relocated_stage
from tasks.stage import Result, Stage, main

if TYPE_CHECKING:
    from potstill.data.tokens.batches import TokenDataset
    from potstill.evaluation.summary import Answers

# Out of a stage that depends on the seed -> the model's name in the proof.
MODELS = {"student": "student", "control": "pretrained", "initialised": "initialised"}


def run(stage: Stage) -> Result:
    """Write `data/proof/`."""
    first = stage.project.seed
    count = stage.params(Proof).seeds
    further_seeds = range(first + 1, first + count)
    for number, seed in enumerate(further_seeds, start=2):
        _prove_seed(stage, seed, f"seed {seed} ({number} of {count})")
    with whole_folder(stage.outs["proof"]) as folder:
        for seed in further_seeds:
            shutil.copytree(_answers_dir(stage, seed), folder / f"seed-{seed}")
        write_manifest(folder, {"seeds": list(further_seeds)})
    if not further_seeds:
        return Result("one seed, nothing to train")
    return Result(f"student and controls of the seeds {first} to {further_seeds[-1]}", {"seeds": float(count)})


def _answers_dir(stage: Stage, seed: int) -> Path:
    """Return the folder of a seed's answers until the stage ends, so that an interrupted stage trains no seed twice."""
    return stage.checkpoints / f"answers-{seed}"


def _prove_seed(stage: Stage, seed: int, description: str) -> None:
    """Train a seed's models and keep their answers, unless an interrupted run has done so."""
    if not is_whole(_answers_dir(stage, seed)):
        from potstill.evaluation.teacher_gain import write_answers
        from tasks.learning import is_trained, open_tokens

        models = stage.checkpoints / f"models-{seed}"
        _train(stage, seed, description, models)
        test = open_tokens(stage).student.split("test")
        with stage.work("inference"):
            trained = {out: name for out, name in MODELS.items() if is_trained(models / out)}
            answers = {name: _answers(stage, models / out, test) for out, name in trained.items()}
        with whole_folder(_answers_dir(stage, seed)) as folder:
            write_answers(folder, test.labels, answers)
            write_manifest(folder)
        shutil.rmtree(models)
    say(f"proof: {description} has answered")


def _train(stage: Stage, seed: int, description: str, models: Path) -> None:
    """Run the stages that depend on the seed, with their outs below `models`; outs that are complete stay."""
    params = load_params(PARAMS)
    params = params.model_copy(update={"project": params.project.model_copy(update={"seed": seed})})
    moved: dict[Path, Path] = {}
    for name, function in seeded_stages().items():
        seed_stage = relocated_stage(name, params, models, moved, clock=stage._clock)
        if not is_whole(*seed_stage.outs.values()):
            say(f"proof: {name}, {description}")
            function(seed_stage)
        shutil.rmtree(seed_stage.checkpoints, ignore_errors=True)


def seeded_stages() -> dict[str, Callable[[Stage], Result]]:
    """Return the stages whose outs depend on the seed, in order."""
    from tasks import control, distill, finetune

    return {"distill": distill.run, "finetune": finetune.run, "control": control.run}


def _answers(stage: Stage, folder: Path, test: TokenDataset) -> Answers:
    """Return a model's test answers, calibrated on dev as the served student's are."""
    from potstill.compute.precision import choose_device
    from potstill.distillation.teachers.predict import predict_logits
    from potstill.evaluation.summary import Answers
    from potstill.kinds.definitions.task_kinds import KINDS
    from potstill.models.loading import load_classifier
    from potstill.scores.metrics import require_finite
    from tasks.learning import open_tokens

    model = load_classifier(folder).to(choose_device(stage.project.device))
    tokens = open_tokens(stage).student
    dev = tokens.split("dev")
    logits = predict_logits(model, test)
    require_finite(logits, folder.name)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    temperature = KINDS[tokens.task].temperature(predict_logits(model, dev), dev.labels)
    return Answers(logits, 1.0 if temperature is None else temperature, model.num_parameters(), size, tokens.task)


if __name__ == "__main__":
    main(run)
