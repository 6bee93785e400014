"""Toy stage: the student; `finetune.learning_rate` makes another one."""

from common import trouble, write_student

from potstill.artifacts import whole_folder, write_manifest
from potstill.config.distill_params import Finetune
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    trouble("export")
    with stage.work("training"), whole_folder(stage.outs["serving"]) as folder:
        write_student(folder, 2.0 + stage.params(Finetune).learning_rate)
        write_manifest(folder)
    return Result("a student", history=[(0, "loss", 1.0), (1, "loss", 0.5)])


if __name__ == "__main__":
    main(run)
