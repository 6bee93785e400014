"""general: distils the base into some of its layers on raw text, before any task, where params ask for it."""

from __future__ import annotations

from potstill.artifacts import whole_folder, write_manifest
from potstill.config.distill_params import General
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Write `data/general/`."""
    params = stage.params(General)
    if params.layers is not None:
        return _distil(stage, params)
    with whole_folder(stage.outs["general"]) as folder:
        write_manifest(folder, {"layers": None})
    return Result("nothing to train: general.layers is null")


def _distil(stage: Stage, params: General) -> Result:
    import torch

    from potstill.data.corpus import LEARNED
    from potstill.models.loading import save_model
    from potstill.progress import say
    from potstill.training.general_distillation import load_base, prepare_general
    from tasks.learning import open_tokens, prepare_setting

    torch.manual_seed(stage.project.seed)
    tokens = open_tokens(stage)
    teacher = load_base(stage.deps["base"], params)
    setting = prepare_setting(stage, params, teacher)
    work = prepare_general(teacher, tokens.split(*LEARNED), params, tokens.tokenizer_dir, setting)
    for line in work.objective.describe():
        say(f"general: {line}")
    with stage.work("training"):
        outcome = work.train(setting)
    with whole_folder(stage.outs["general"]) as folder:
        save_model(work.trained(params), folder, tokens.tokenizer_dir)
        write_manifest(folder, {"layers": params.layers, "held_out_loss": -outcome.score})
    summary = f"held-out loss {-outcome.score:.4f} with layers {params.layers} of the base, {len(work.rows):,} rows"
    return Result(summary, {"held_out_loss": -outcome.score, "rows_seen": float(outcome.rows)}, outcome.history)


if __name__ == "__main__":
    main(run, shared=True)
