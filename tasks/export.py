"""export: writes the student as ONNX, in fp32 and dynamic INT8. INT8 ships unless it breaks a limit beyond noise."""

from __future__ import annotations

import math
from pathlib import Path

from potstill.artifacts import whole_folder, write_json, write_manifest
from potstill.config.evaluation_params import Export
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import ParityError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier
from potstill.onnx_export.choice import choose_variant
from potstill.onnx_export.eight_bits import narrowing_products
from potstill.onnx_export.logit_parity import Parity, compare, onnx_logits
from potstill.onnx_export.serving_folder import served_temperature, write_serving_folder
from potstill.onnx_export.variants import write_variants
from tasks.learning import open_tokens, restore_rank
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Write `data/export/` and `data/serving/`."""
    limits = stage.params(Export)
    tokens = open_tokens(stage)
    dev = tokens.student.split("dev")
    student = load_classifier(stage.deps["student"])
    with stage.work("inference"):
        reference = predict_logits(student, dev)
    restore_rank(tokens, student)
    with whole_folder(stage.outs["export"]) as folder:
        files = {variant: folder / f"student.{variant}.onnx" for variant in ("fp32", "int8")}
        write_variants(
            student,
            (files["fp32"], files["int8"]),
            dev,
            reference,
            limits,
            pair=tokens.student.info["token_types"],
            clock=stage.work,
        )
        with stage.work("inference"):
            logits = {
                "fp32": onnx_logits(files["fp32"], dev),
                # One row a call, as in serving: dynamic INT8 scales depend on the other rows of a batch.
                "int8": onnx_logits(files["int8"], dev, batch_tokens=1),
            }
        parity = {
            name: compare(
                reference,
                values,
                dev.whole_labels,
                tokens.task,
                replicates=limits.bootstrap,
                confidence=limits.confidence,
                seed=stage.project.seed,
            )
            for name, values in logits.items()
        }
        _require_parity(parity["fp32"], limits)
        variant, why = choose_variant(parity["int8"], limits, KINDS[tokens.task].scoring)
        numbers = {name: result.as_dict() for name, result in parity.items()}
        write_json(folder / "parity.json", numbers)
        choices = _choices(files["fp32"], limits.int8_fp32_products)
        write_manifest(folder, {"ships": variant, "why": why, "choices": {"export": choices}})
    temperature = served_temperature(logits[variant], dev, tokens.task)
    with whole_folder(stage.outs["serving"]) as folder:
        model = stage.outs["export"] / f"student.{variant}.onnx"
        write_serving_folder(folder, model, variant, tokens.student, temperature)
    metrics = {f"{name}_{key}": value for name, values in numbers.items() for key, value in values.items()}
    return Result(f"{variant} ships: {why}", metrics)


def _choices(model: Path, fp32_products: int) -> int:
    """Count the files among which dev chose: fp32, and INT8 with each set of products that could stay in fp32."""
    products = len(narrowing_products(model))
    return 1 + math.comb(products, min(fp32_products, products))


def _require_parity(fp32: Parity, limits: Export) -> None:
    if fp32.max_difference > limits.max_parity_difference:
        raise ParityError(
            f"the fp32 ONNX model's logits differ from the torch student's by {fp32.max_difference:.2g}, over "
            f"export.max_parity_difference = {limits.max_parity_difference:g}; nothing ships"
        )


if __name__ == "__main__":
    main(run)
