"""Compares the student as it ships with other forms of it: static INT8 in onnxruntime, and OpenVINO.

Run in a workspace after `potstill run`: `python benchmarks/runtimes.py [--rounds 5] [--write]`. All forms read the same
test texts on one core, in turns, alone and in lists of 32. What counts is processor time, to which other load adds
little, and a ratio is taken within a round. What ships computes one text a call in lists too, because its answers would
depend on each other otherwise; the other forms share calls. Score and agreement with fp32 are those of dev. OpenVINO
and its quantization are not dependencies of Potstill: `pip install 'potstill[openvino]' nncf`. `--write` puts the table
into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from potstill import environment

environment.prepare()

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from results import flags, machine, publish, spread, today, versions  # noqa: E402

from potstill.compute.processor import saturates  # noqa: E402
from potstill.data.tokens.batches import TokenDataset  # noqa: E402
from potstill.data.tokens.token_folder import TokenFolder  # noqa: E402
from potstill.evaluation.gold import read_texts  # noqa: E402
from potstill.inference.runtime import Student, logits_of, read_card  # noqa: E402
from potstill.kinds.definitions.task_kinds import KINDS  # noqa: E402
from potstill.onnx_export.eight_bits import OPERATORS  # noqa: E402
from potstill.onnx_export.logit_parity import feed  # noqa: E402
from potstill.onnx_export.openvino_folder import load_openvino  # noqa: E402
from potstill.onnx_export.outliers import divide_outliers  # noqa: E402
from potstill.onnx_export.serving_folder import write_serving_folder  # noqa: E402
from potstill.onnx_export.variants import CALIBRATION_ROWS  # noqa: E402
from potstill.paths import EXPORT, PREPARED, SERVING, TEST_SPLIT, TOKENS  # noqa: E402

MARK = "<!-- runtimes -->"
SHIPPED, FP32 = "as it ships", "fp32"
# Texts of a list.
LIST = 32
# Train texts that show static quantization the range of its inputs.
SAMPLE = 128
# NNCF's alpha that smooths no outliers.
NO_SMOOTHING = -1.0

Feed = dict[str, Any]
Times = dict[str, dict[int, list[float]]]


class OpenVINOSession:
    """OpenVINO behind the interface of an onnxruntime session, on one core."""

    def __init__(self, model: Any, precision: str) -> None:
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision}
        self._request = load_openvino().Core().compile_model(model, "CPU", settings).create_infer_request()

    def run(self, names: Sequence[str], inputs: Feed) -> list[Any]:
        """Compute the outputs of these names."""
        outputs = self._request.infer(inputs)
        return [outputs[name].copy() for name in names]


def student(model: Path, folder: Path, tokens: TokenFolder) -> Student:
    """Load an ONNX file whose answers do not depend on each other into the serving runtime, on one core."""
    folder.mkdir()
    write_serving_folder(folder, model, "fp32", tokens, read_card(SERVING).temperature)
    return Student(folder, threads=1)


def sample_feeds(path: Path, rows: TokenDataset) -> list[Feed]:
    """Return the inputs of the calibration, one text each."""
    names = [item.name for item in onnx.load(path).graph.input]
    return [feed(rows.batch(np.array([row])), names) for row in range(SAMPLE)]


def quantize_statically(source: Path, target: Path, feeds: list[Feed], *, attention: bool) -> None:
    """Quantize with a fixed scale for the inputs of each product, of attention too if asked."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Reads the calibration's inputs."""

        def __init__(self) -> None:
            self._feeds: Iterator[Feed] = iter(feeds)

        def get_next(self) -> Feed | None:
            """Return the next inputs."""
            return next(self._feeds, None)

    graph = onnx.load(source).graph
    weights = {weight.name for weight in graph.initializer}
    attends = [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] not in weights]
    quantize_static(
        source, target, Reader(), calibrate_method=CalibrationMethod.MinMax, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=saturates(),
        op_types_to_quantize=OPERATORS, nodes_to_exclude=[] if attention else attends,
    )  # fmt: skip


def forms(scratch: Path, tokens: TokenFolder) -> dict[str, Student]:
    """Return the student in each form, on one core."""
    source, divided = EXPORT / "student.fp32.onnx", scratch / "divided.onnx"
    divide_outliers(source, divided, tokens.split("dev").select(np.arange(CALIBRATION_ROWS)))
    feeds = sample_feeds(source, tokens.split("train"))

    def static(*, attention: bool) -> Student:
        name = f"static-{attention}"
        quantize_statically(divided, scratch / f"{name}.onnx", feeds, attention=attention)
        return student(scratch / f"{name}.onnx", scratch / name, tokens)

    def openvino(name: str, precision: str, alpha: float | None = None) -> Student:
        model = load_openvino().Core().read_model(source)
        loaded = student(source, scratch / name, tokens)
        loaded._session = OpenVINOSession(model if alpha is None else _quantized(model, feeds, alpha), precision)
        return loaded

    return {
        SHIPPED: Student(SERVING, threads=1),
        FP32: student(source, scratch / "fp32", tokens),
        "static INT8, attention in fp32": static(attention=False),
        "static INT8, attention in 8 bits too": static(attention=True),
        "OpenVINO, fp32": openvino("f32", "f32"),
        "OpenVINO, bf16": openvino("bf16", "bf16"),
        "OpenVINO, 8 bits of NNCF": openvino("nncf", "f32", NO_SMOOTHING),
        "OpenVINO, 8 bits of NNCF, outliers smoothed by 0.5": openvino("smoothed", "f32", 0.5),
    }


def _quantized(model: Any, feeds: list[Feed], alpha: float) -> Any:
    """Quantize a model of OpenVINO, with outliers smoothed by alpha."""
    import nncf  # type: ignore[import-not-found]

    smoothing = nncf.AdvancedSmoothQuantParameters(matmul=alpha)
    return nncf.quantize(
        model,
        nncf.Dataset(feeds),
        subset_size=SAMPLE,
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smoothing),
    )


def seconds(model: Student, texts: list[Any], at_once: int) -> float:
    """Return the processor time of a text, in parts of so many texts."""
    model.predict(texts[:at_once])
    started = time.process_time()
    for first in range(0, len(texts), at_once):
        model.predict(texts[first : first + at_once])
    return (time.process_time() - started) / len(texts)


def measure(models: dict[str, Student], texts: list[Any], rounds: int) -> Times:
    """Return form -> texts at once -> seconds of processor time for a text, of each round."""
    times: Times = {name: {1: [], LIST: []} for name in models}
    names = list(models)
    for _ in range(rounds):
        names = names[1:] + names[:1]
        for at_once in (1, LIST):
            for name in names:
                times[name][at_once].append(seconds(models[name], texts, at_once))
    return times


def ratios(times: Times, name: str, at_once: int) -> str:
    """Format the texts/s of a form as a multiple of what ships."""
    rounds = zip(times[SHIPPED][at_once], times[name][at_once], strict=True)
    return spread([shipped / other for shipped, other in rounds], 2)


def table(models: dict[str, Student], times: Times, tokens: TokenFolder) -> list[str]:
    """Return a Markdown table: speed, dev score and closeness to fp32 of each form."""
    texts, labels = read_texts(PREPARED / "dev.parquet")
    scoring = KINDS[tokens.task].scoring
    predictions = {name: model.predict(texts) for name, model in models.items()}
    logits = {name: logits_of(answers, models[name].card) for name, answers in predictions.items()}
    shares = {name: np.array([answer.probabilities for answer in answers]) for name, answers in predictions.items()}
    lines = [
        f"| | one text a call | lists of {LIST} | dev score, % | agreement with fp32, % | a probability moves by |",
        "|---|---|---|---|---|---|",
    ]
    for name in models:
        score = scoring.score(logits[name], labels)
        agreement = scoring.agreement(logits[FP32], logits[name])
        moved = float(np.abs(shares[name] - shares[FP32]).max())
        lines.append(
            f"| {name} | {ratios(times, name, 1)} | {ratios(times, name, LIST)} | {100 * score:.1f} "
            f"| {100 * agreement:.1f} | {moved:.2f} |"
        )
    return lines


def main() -> None:
    """Measure, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=96, help="texts a form answers in a round, alone and in lists")
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    tokens = TokenFolder.open(TOKENS).student
    texts, _ = read_texts(TEST_SPLIT)
    with tempfile.TemporaryDirectory() as scratch:
        models = forms(Path(scratch), tokens)
        times = measure(models, texts[: arguments.texts], arguments.rounds)
        lines = table(models, times, tokens)
    rates = {at_once: 1 / statistics.median(of_texts) for at_once, of_texts in times[SHIPPED].items()}
    head = (
        f"{machine()} ({flags()}), {today()}; {versions('onnxruntime', 'openvino', 'nncf')}; {arguments.rounds} "
        f"alternating rounds of {arguments.texts} texts in processor time. What ships has {rates[1]:,.0f} texts/s of a "
        f"core alone, {rates[LIST]:,.0f} in lists."
    )
    section = "\n".join([head, "", *lines])
    publish(MARK, section, write=arguments.write)


if __name__ == "__main__":
    main()
