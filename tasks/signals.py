"""signals: the teacher's logits over train and transfer, once."""

from __future__ import annotations

from potstill.artifacts import whole_folder
from potstill.config import Signals
from potstill.data.batches import TokenDataset
from potstill.distillation.signals import extract, teacher_identity, write_signals
from potstill.models.loading import load_classifier
from tasks.learning import choose, open_split
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Make `data/signals/`."""
    signals = stage.params(Signals)
    folder = stage.deps["teacher"]
    teacher = load_classifier(folder)
    device, precision = choose(stage, teacher)
    dataset = TokenDataset.concatenate([open_split(stage, "train"), open_split(stage, "transfer")])
    with stage.work("inference"):
        keys, logits = extract(teacher.to(device), dataset, batch_tokens=signals.batch_tokens, precision=precision)
    with whole_folder(stage.outs["signals"]) as out:
        error = write_signals(out, keys, logits, teacher_identity(folder), signals.dtype)
    summary = (
        f"{len(keys):,} signals for {len(dataset):,} rows in {signals.dtype}, "
        f"largest rounding error of a logit {error:.2g}"
    )
    return Result(summary, {"signals": float(len(keys)), "rounding_error": error})


if __name__ == "__main__":
    main(run)
