"""The student as OpenVINO reads it: its intermediate representation (IR)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from potstill.errors import ToolError
from potstill.onnx_export.label_check import Run
from potstill.onnx_export.target_files import scaled_logits, write_settings

if TYPE_CHECKING:
    from potstill.inference.runtime import ModelCard

# The name by which Optimum Intel looks for it.
MODEL = "openvino_model.xml"
# Products in fp32 on every machine. The default is bfloat16 where the processor has it.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


def write_openvino_folder(folder: Path, fp32: Path, serving: Path, card: ModelCard, *, exact: bool) -> Run:
    """Write everything but README.md and the manifest.

    Args:
        folder: an existing folder.
        fp32: the ONNX file of the fp32 model.
        serving: the serving folder, which has the tokenizer.
        card: its card.
        exact: whether weights stay in fp32; else they have 16 bits.

    Returns:
        What computes the logits of the files that were written.

    Raises:
        ToolError: OpenVINO is not installed.
    """
    openvino = load_openvino()
    core = openvino.Core()
    model = core.read_model(scaled_logits(fp32, card.temperature).SerializeToString())
    openvino.save_model(model, folder / MODEL, compress_to_fp16=not exact)
    write_settings(folder, serving, card, {})
    request = core.compile_model(folder / MODEL, "CPU", PRECISION).create_infer_request()
    return lambda inputs: request.infer(dict(inputs))["logits"].copy()


def load_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which otherwise reports every import.

    Raises:
        ToolError: OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # Python's mark of what cannot be imported
    try:
        import openvino
    except ImportError as error:
        raise ToolError(
            "the target openvino needs OpenVINO, which is not installed; install it: pip install 'potstill[openvino]'"
        ) from error
    return openvino
