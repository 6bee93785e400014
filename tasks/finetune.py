"""finetune: a short run on gold labels; the distilled weights stay where dev does not improve."""

from __future__ import annotations

from potstill.artifacts import MANIFEST, read_json, whole_folder, write_manifest, write_text
from potstill.config.distill_params import Finetune
from potstill.distillation.objective.gold_labels import Supervised
from potstill.models.loading import load_classifier
from potstill.pretrained.heads import task_of
from potstill.training.loop import train
from tasks.learning import (
    dev_score,
    factorize_embeddings,
    open_split,
    prepare_setting,
    scoring_of,
    training_result,
)
from tasks.stage import Result, Stage, main
from tasks.student_building import save_student

# Left where a user of the folder looks; the temperature is known only when the exported file has been calibrated.
README = """The student as `save_pretrained` writes it. Its logits are not calibrated.

`transformers.pipeline` gives their softmax.
The service divides them by `temperature` of `data/serving/model.json` first.
The most probable label is the same.
"""


def run(stage: Stage) -> Result:
    """Make `data/student/`."""
    student = load_classifier(stage.deps["distilled"])
    factorize_embeddings(stage, student)
    setting = prepare_setting(stage, stage.params(Finetune), student, keep_start=True)
    score, scoring = dev_score(stage, open_split(stage, "dev", student=True), setting), scoring_of(stage)
    with stage.work("training"):
        outcome = train(student, open_split(stage, "train", student=True), Supervised(task_of(student)), score, setting)
    before = outcome.scores[0]
    kept = outcome.score <= before
    with whole_folder(stage.outs["student"]) as folder:
        save_student(stage, student, folder)
        write_text(folder / "README.md", README)
        steps = read_json(stage.deps["distilled"] / MANIFEST)["about"].get("steps", {}) | {"finetune": outcome.steps}
        write_manifest(folder, {scoring.dev_key: outcome.score, "kept_distilled": kept, "steps": steps})
    after = max(outcome.scores[1:])
    summary = (
        f"dev {scoring.words} {after:.4f} is not above {before:.4f}: the distilled weights stay"
        if kept
        else f"dev {scoring.words} {before:.4f} -> {outcome.score:.4f}"
    )
    return training_result(outcome, scoring, summary, {"kept_distilled": float(kept)})


if __name__ == "__main__":
    main(run, shared=True)
