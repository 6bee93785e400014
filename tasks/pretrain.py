"""pretrain: provides the base. A given teacher is linked as it is; without one, an encoder is trained from scratch."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from potstill.artifacts import MANIFEST, link_file, read_json, sha256_file, whole_folder, write_manifest
from potstill.config.teacher_params import Pretrain
from potstill.data.tokens.tokenization import STUDENT
from potstill.pretrained.members import MEMBERS
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Write `data/base/`."""
    given_dir = stage.deps["given"]
    kind = read_json(given_dir / MANIFEST)["about"]["kind"]
    if kind == "scratch":
        return _train_from_scratch(stage)
    with whole_folder(stage.outs["base"]) as folder:
        # Share the bytes on disk: outs are replaced as a whole and never written to.
        shutil.copytree(given_dir, folder, copy_function=link_file, dirs_exist_ok=True)
    return Result(f"nothing to train: the teacher is given ({kind})")


def _train_from_scratch(stage: Stage) -> Result:
    from potstill.data.corpus import read_corpus
    from potstill.models.loading import save_model
    from potstill.training.pretraining import prepare_pretraining
    from tasks.learning import prepare_setting

    params = stage.params(Pretrain)
    prepared = stage.deps["prepared"]
    texts = read_corpus(prepared)
    with TemporaryDirectory(prefix="potstill-") as tokenizer:
        work = prepare_pretraining(texts, params, stage.project.seed, Path(tokenizer))
        setting = prepare_setting(stage, params, work.model)
        with stage.work("training"):
            outcome = work.train(setting)
        with whole_folder(stage.outs["base"]) as folder:
            for model in (STUDENT, MEMBERS):
                if (stage.deps["given"] / model).exists():
                    shutil.copytree(stage.deps["given"] / model, folder / model, copy_function=link_file)
            save_model(work.model.cpu(), folder, Path(tokenizer))
            write_manifest(folder, {"kind": "scratch", "prepared": sha256_file(prepared / MANIFEST)})
    loss = -outcome.score
    return Result(
        f"{work.masking.vocabulary:,} tokens and an encoder of {params.layers} layers from {len(texts):,} texts; "
        f"masked-language-model loss {loss:.2f} nats on held-out texts "
        f"(perplexity {math.exp(min(loss, 100)):,.1f})",
        {"held_out_loss": loss, "vocabulary": float(work.masking.vocabulary), "rows_seen": float(outcome.rows)},
        outcome.history,
    )


if __name__ == "__main__":
    main(run, shared=True)
