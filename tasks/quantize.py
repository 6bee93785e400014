"""quantize: writes the teacher as ONNX INT8 with the student's code, which its users could serve without a student.

Of several teachers it takes the best one on dev that answers every label.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from potstill.artifacts import MANIFEST, read_json, whole_folder, write_manifest
from potstill.config.evaluation_params import Export, Quantize
from potstill.data.tokens.token_folder import TokenFolder
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import ModelError, PotstillError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier
from potstill.onnx_export.logit_parity import Logits, flat, onnx_logits
from potstill.onnx_export.serving_folder import served_temperature, write_serving_folder
from potstill.onnx_export.variants import CALIBRATION_ROWS, write_variants
from potstill.pretrained.members import Member
from tasks.learning import open_tokens, teacher_members
from tasks.stage import Result, Stage, main

# protobuf, the format of ONNX files, holds less than 2 GiB.
LARGEST_BYTES = 2_000_000_000


@dataclass(frozen=True)
class _Choice:
    """One of the teacher's models, its number from 0 on, and how many there are."""

    member: Member
    number: int
    members: int


class _Absent(Exception):
    """The reason why there is no quantized teacher, as a clause."""


def run(stage: Stage) -> Result:
    """Write `data/teacher_int8/`: a serving folder, or the manifest alone with the reason why there is none."""
    required = stage.params(Quantize).teacher
    try:
        if required is False:
            raise _Absent("quantize.teacher is false")
        return _quantize(stage, _choose(stage))
    except _Absent as absent:
        if required is True:
            raise ModelError(
                f"there is no quantized teacher: {absent}; set quantize.teacher to auto, and the student is not "
                "compared with it"
            ) from absent
        with whole_folder(stage.outs["teacher_int8"]) as folder:
            write_manifest(folder, {"absent": str(absent)})
        return Result(f"no quantized teacher: {absent}")


def _choose(stage: Stage) -> _Choice:
    """Choose the model that is quantized."""
    members = teacher_members(stage)
    if len(members) == 1:
        return _Choice(members[0], 0, 1)
    # Where the models answer different labels, the weight of a label is 0 in those that lack it.
    complete = [number for number, member in enumerate(members) if np.all(np.asarray(member.weight) > 0)]
    if not complete:
        raise _Absent(f"none of the {len(members)} teachers answers every label")
    scores = read_json(stage.deps["teacher"] / MANIFEST)["about"]["member_scores"]
    best = max(complete, key=scores.__getitem__)
    return _Choice(members[best], best, len(members))


def _quantize(stage: Stage, choice: _Choice) -> Result:
    tokens = open_tokens(stage).member(choice.member.tokens)
    scoring = KINDS[tokens.task].scoring
    dev = tokens.split("dev")
    with TemporaryDirectory(prefix="potstill-") as temporary:
        parameters = _export(stage, choice, tokens, Path(temporary))
        model = Path(temporary) / "teacher.int8.onnx"
        with stage.work("inference"):
            logits: Logits = onnx_logits(model, dev, batch_tokens=1)
        if not np.isfinite(flat(logits)).all():
            raise _Absent("it answers NaN or infinity in INT8")
        facts: dict[str, Any] = {"member": choice.number, "members": choice.members, "parameters": parameters}
        with whole_folder(stage.outs["teacher_int8"]) as folder:
            temperature = served_temperature(logits, dev, tokens.task)
            write_serving_folder(folder, model, "int8", tokens, temperature, facts)
        megabytes = model.stat().st_size / 1e6
    score = scoring.score(logits, dev.whole_labels)
    origin = f" of teacher {choice.number + 1} of {choice.members}" if choice.members > 1 else ""
    return Result(
        f"dev {scoring.words} {score:.4f}{origin}, {megabytes:.1f} MB",
        {scoring.dev_key: score, "megabytes": megabytes},
    )


def _export(stage: Stage, choice: _Choice, tokens: TokenFolder, folder: Path) -> int:
    """Write `teacher.int8.onnx`, and return the model's number of weights."""
    model = load_classifier(choice.member.folder)
    parameters = int(model.num_parameters())
    if 4 * parameters > LARGEST_BYTES:
        raise _Absent(f"its {parameters / 1e6:,.0f}M weights are more than an ONNX file holds in fp32")
    dev = tokens.split("dev")
    with stage.work("inference"):
        reference = predict_logits(model, dev.select(np.arange(min(CALIBRATION_ROWS, len(dev)))))
    paths = folder / "teacher.fp32.onnx", folder / "teacher.int8.onnx"
    try:
        write_variants(
            model,
            paths,
            dev,
            reference,
            stage.params(Export),
            pair=tokens.info["token_types"],
            clock=stage.work,
        )
    except PotstillError as error:
        raise _Absent(str(error)) from error
    except Exception as error:  # the exporter raises exceptions of many types
        message = " ".join(str(error).split())[:200]
        raise _Absent(f"it cannot be written as ONNX ({type(error).__name__}: {message})") from error
    return parameters


if __name__ == "__main__":
    main(run)
