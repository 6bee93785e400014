"""finetune: trains the student briefly on gold labels, and keeps the distilled weights if dev does not improve."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from potstill.artifacts import MANIFEST, read_json, whole_folder, write_manifest, write_text
from potstill.config.distill_params import Finetune
from potstill.data.tokens.token_folder import TokenFolder
from potstill.kinds.definitions.task_kinds import KINDS
from tasks.stage import Result, Stage, main

# For users of the folder. The temperature is known only after the exported file has been calibrated.
README = """The student as `save_pretrained` writes it. Its logits are not calibrated.

`transformers.pipeline` gives their softmax.
The service divides them by `temperature` of `data/serving/model.json` first.
The most probable label is the same.
"""


def run(stage: Stage) -> Result:
    """Write `data/student/`."""
    distilled = read_json(stage.deps["distilled"] / MANIFEST)["about"]
    return _keep(stage, distilled) if stage.params(Finetune).epochs == 0 else _train(stage, distilled)


def _keep(stage: Stage, distilled: dict[str, Any]) -> Result:
    """Copy the distilled student."""
    dev_key = KINDS[TokenFolder.open(stage.deps["tokens"]).task].scoring.dev_key
    with whole_folder(stage.outs["student"]) as folder:
        shutil.copytree(stage.deps["distilled"], folder, dirs_exist_ok=True)
        facts = {name: distilled[name] for name in ("steps", "choices", "curves", dev_key)}
        _finish(folder, facts | {"kept_distilled": True})
    return Result("nothing to train: finetune.epochs is 0", {dev_key: distilled[dev_key]})


def _train(stage: Stage, distilled: dict[str, Any]) -> Result:
    """Train the distilled student on gold labels."""
    # Loading them takes several times as long as a copy.
    from potstill.distillation.objective.gold_labels import Supervised
    from potstill.models.loading import load_classifier
    from potstill.training.curves import learning_curve
    from potstill.training.dev_scores import dev_score
    from potstill.training.loop import train
    from tasks.learning import open_tokens, prepare_setting, restore_rank, training_result
    from tasks.student_building import save_student

    tokens = open_tokens(stage)
    task, scoring = tokens.task, KINDS[tokens.task].scoring
    student = load_classifier(stage.deps["distilled"])
    restore_rank(tokens, student)
    setting = prepare_setting(stage, stage.params(Finetune), student, keep_start=True)
    rows, score = tokens.student.split("train"), dev_score(task, tokens.student.split("dev"), setting)
    with stage.work("training"):
        outcome = train(student, rows, Supervised(task), score, setting)
    before, after = outcome.scores[0], max(outcome.scores[1:])
    unchanged = outcome.score <= before
    facts = {
        "steps": distilled["steps"] | {"finetune": outcome.steps},
        "choices": distilled["choices"] | {"finetune": outcome.choices},
        "curves": distilled["curves"] | {"finetune": learning_curve(outcome)},
    }
    with whole_folder(stage.outs["student"]) as folder:
        save_student(tokens, student, folder)
        _finish(folder, facts | {scoring.dev_key: outcome.score, "kept_distilled": unchanged})
    summary = f"dev {scoring.words} {before:.4f} -> {outcome.score:.4f}"
    if unchanged:
        summary = f"dev {scoring.words} {after:.4f} is not above {before:.4f}: the distilled weights stay"
    return training_result(outcome, scoring, summary, {"kept_distilled": float(unchanged)})


def _finish(folder: Path, facts: dict[str, Any]) -> None:
    """Write what users of the folder need, and facts about the training into its manifest."""
    write_text(folder / "README.md", README)
    write_manifest(folder, facts)


if __name__ == "__main__":
    main(run, shared=True)
