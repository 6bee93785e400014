"""The student as OpenVINO reads it: its intermediate representation (IR)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from potstill.errors import ToolError
from potstill.onnx_export.label_check import Run
from potstill.onnx_export.target_files import LOGITS, Source, calibrated_model, write_settings

MODEL = "openvino_model.xml"
# Products in fp32 on every machine. The default is bfloat16 where the processor has it.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}


def write_openvino_folder(folder: Path, source: Source, *, exact: bool) -> Run:
    """Write everything but README.md and the manifest.

    Args:
        folder: an existing folder.
        source: the student.
        exact: whether weights stay in fp32; else they have 16 bits.

    Returns:
        What computes the logits of the files that were written.

    Raises:
        ToolError: OpenVINO is not installed.
    """
    openvino = load_openvino()
    core = openvino.Core()
    model = core.read_model(calibrated_model(source).SerializeToString())
    openvino.save_model(model, folder / MODEL, compress_to_fp16=not exact)
    write_settings(folder, source)
    request = core.compile_model(folder / MODEL, "CPU", PRECISION).create_infer_request()
    return lambda inputs: request.infer(dict(inputs))[LOGITS].copy()


def load_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which would report the import.

    Raises:
        ToolError: OpenVINO is not installed.
    """
    # Python's mark of a module that cannot be imported. OpenVINO then does without.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise ToolError(
            "the target openvino needs OpenVINO, which is not installed; install it: pip install 'potstill[openvino]'"
        ) from error
    return openvino  # type: ignore[no-any-return]
