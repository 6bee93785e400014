"""export: writes the student as ONNX, in fp32 and dynamic INT8. INT8 ships if it is within its limits, else fp32."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np

from potstill.artifacts import whole_folder, write_json, write_manifest
from potstill.config.evaluation_params import Export
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.token_folder import TokenFolder
from potstill.data.tokens.tokenization import write_served_tokenizer
from potstill.distillation.teachers.predict import predict_logits
from potstill.errors import ParityError
from potstill.inference.runtime import TOKENIZER
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier
from potstill.onnx_export.logit_parity import Logits, Parity, compare, flat, onnx_logits
from potstill.onnx_export.onnx_model import export_onnx, gives_embedding, input_names
from potstill.onnx_export.quantize import most_sensitive, narrowing_products, quantize_int8
from potstill.scores.scoring import Scoring
from tasks.learning import open_tokens, restore_rank
from tasks.stage import Result, Stage, main

# Rows of dev, enough to find the products with the largest INT8 error.
SENSITIVITY_ROWS = 256


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
        export_onnx(student, folder / "student.fp32.onnx", pair=tokens.student.info["token_types"])
        with stage.work("inference"):
            fp32_products = _fp32_products(folder / "student.fp32.onnx", limits.int8_fp32_products, dev, reference)
        quantize_int8(
            folder / "student.fp32.onnx",
            folder / "student.int8.onnx",
            fp32_products,
            embedding_bits=limits.embedding_bits,
        )
        with stage.work("inference"):
            logits = {
                "fp32": onnx_logits(folder / "student.fp32.onnx", dev),
                # One row a call, as in serving: dynamic INT8 scales depend on the other rows of a batch.
                "int8": onnx_logits(folder / "student.int8.onnx", dev, batch_tokens=1),
            }
        parity = {name: compare(reference, values, dev.whole_labels, tokens.task) for name, values in logits.items()}
        _require_parity(parity["fp32"], limits)
        variant, why = _choose(parity["int8"], limits, KINDS[tokens.task].scoring)
        numbers = {name: result.as_dict() for name, result in parity.items()}
        write_json(folder / "parity.json", numbers)
        choices = _choices(folder / "student.fp32.onnx", limits.int8_fp32_products)
        write_manifest(folder, {"ships": variant, "why": why, "choices": {"export": choices}})
    _write_serving(stage, tokens.student, variant, logits[variant], dev)
    metrics = {f"{name}_{key}": value for name, values in numbers.items() for key, value in values.items()}
    return Result(f"{variant} ships: {why}", metrics)


def _fp32_products(model: Path, count: int, dev: TokenDataset, reference: Logits) -> list[str]:
    """Choose the products that stay in fp32: those with the largest mean error of a logit over some rows of dev."""
    rows = np.arange(min(SENSITIVITY_ROWS, len(dev)))
    sample = dev.select(rows)
    # The sample is the first rows, so their logits are the first of `reference`.
    expected = flat(reference[: len(rows)]) if reference.dtype.kind == "O" else reference

    def mean_error(path: Path) -> float:
        logits = flat(onnx_logits(path, sample, batch_tokens=1))
        return float(np.abs(logits - expected[: len(logits)]).mean())

    return most_sensitive(model, count, mean_error)


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


def _choose(int8: Parity, limits: Export, scoring: Scoring) -> tuple[str, str]:
    """Choose the variant that ships, and say why."""
    if int8.accuracy_drop > limits.int8_max_accuracy_drop:
        return "fp32", (
            f"INT8 loses {100 * int8.accuracy_drop:.2f} points of dev {scoring.words}, over the limit of "
            f"{100 * limits.int8_max_accuracy_drop:.2f} (export.int8_max_accuracy_drop)"
        )
    likeness = "correlates with the student at" if scoring.key == "r2" else "agrees with the student on"
    if int8.agreement < limits.int8_min_agreement:
        return "fp32", (
            f"INT8 {likeness} {100 * int8.agreement:.2f}% of dev, under the limit of "
            f"{100 * limits.int8_min_agreement:.2f}% (export.int8_min_agreement)"
        )
    return "int8", (
        f"it {likeness} {100 * int8.agreement:.2f}% of dev and loses "
        f"{100 * int8.accuracy_drop:.2f} points of {scoring.words}"
    )


def _write_serving(stage: Stage, tokens: TokenFolder, variant: str, logits: Logits, dev: TokenDataset) -> None:
    info, task = tokens.info, tokens.task
    temperature = KINDS[task].temperature(logits if logits.dtype.kind == "O" else logits.astype(np.float64), dev.labels)
    card = {
        "format": 1,
        "task": KINDS[task].card_name,
        "variant": variant,
        "labels": tokens.labels,
        "pair": tokens.pair,
        "max_length": info["max_length"],
        "pad_token_id": info["pad_token_id"],
        "temperature": 1.0 if temperature is None else temperature,
        "inputs": list(input_names(pair=info["token_types"])),
        "embedding": gives_embedding(stage.outs["export"] / f"student.{variant}.onnx"),
    }
    if KINDS[task].marks_spans:
        card |= {"stride": info["stride"]}
    if KINDS[task].form == "span":
        train = info["splits"]["train"]
        card |= {"no_answer": train["questions"] > train["answers"]}
    with whole_folder(stage.outs["serving"]) as folder:
        shutil.copyfile(stage.outs["export"] / f"student.{variant}.onnx", folder / "model.onnx")
        write_served_tokenizer(tokens.tokenizer_dir, info["max_length"], folder / TOKENIZER)
        write_json(folder / "model.json", card)
        write_manifest(folder)


if __name__ == "__main__":
    main(run)
