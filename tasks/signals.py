"""signals: computes the teacher's outputs over train and transfer once, for every student to learn from."""

from __future__ import annotations

import torch

from potstill.artifacts import whole_folder
from potstill.compute.distributed import current_world
from potstill.compute.precision import Precision
from potstill.config.teacher_params import Signals
from potstill.distillation.teachers.ensembles import StackedSource
from potstill.distillation.teachers.providers import LiveTeacher, Source, TeacherTokensSource
from potstill.distillation.teachers.signal_store import Extracted, extract, teacher_identity, write_store
from potstill.models.loading import load_classifier
from tasks.learning import choose, open_tokens, teacher_members
from tasks.stage import Result, Stage, main

SPLITS = ("train", "transfer")


def run(stage: Stage) -> Result:
    """Write `data/signals/`."""
    signals = stage.params(Signals)
    folder = stage.deps["teacher"]
    teacher = load_classifier(folder)
    device, precision = choose(stage, teacher)
    dataset = open_tokens(stage).split(*SPLITS)
    with stage.work("inference"):
        extracted = extract(
            _source(stage, LiveTeacher(teacher, device, precision), device, precision),
            dataset,
            signals,
            identity=teacher_identity(folder),
            work=stage.checkpoints,
            environment={"device": device.type, "precision": precision},
        )
    if current_world().is_first:
        with whole_folder(stage.outs["signals"]) as out:
            write_store(out, extracted)
    return _result(extracted)


def _source(stage: Stage, first: LiveTeacher, device: torch.device, precision: Precision) -> Source:
    """Return the teacher, or all members of an ensemble; a member with a tokenizer of its own reads its own tokens."""
    sources: list[Source] = [first]
    for member in teacher_members(stage)[1:]:
        live = LiveTeacher(load_classifier(member.folder), device, precision)
        if member.tokens == ".":
            sources.append(live)
        else:
            sources.append(TeacherTokensSource(live, open_tokens(stage).member(member.tokens).split(*SPLITS)))
    return first if len(sources) == 1 else StackedSource(tuple(sources))


def _result(extracted: Extracted) -> Result:
    """Describe the store in one line, with its rounding errors as metrics."""
    fidelity = extracted.metadata["fidelity"]
    logits = fidelity["arrays"]["logits"]
    metrics = {
        "signals": float(len(extracted.keys)),
        "rounding_error": logits["largest_error"],
        "mean_rounding_error": logits["mean_error"],
    }
    metrics |= {f"rounding_kl_at_{T}": value for T, value in fidelity.get("kl", {}).items()}
    metrics |= {"changed_argmax": fidelity["changed_argmax"]} if "changed_argmax" in fidelity else {}
    other_arrays = ", ".join(name for name in fidelity["arrays"] if name != "logits")
    summary = (
        f"{len(extracted.keys):,} signals for {extracted.rows:,} rows in {extracted.metadata['dtype']}, "
        f"largest rounding error of a logit {logits['largest_error']:.2g}"
    )
    return Result(summary + (f"; also stored: {other_arrays}" if other_arrays else ""), metrics)


if __name__ == "__main__":
    main(run, shared=True)
