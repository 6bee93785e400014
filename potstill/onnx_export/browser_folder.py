"""The student as transformers.js loads it, in a browser or on a phone."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx

from potstill.onnx_export.block_weights import store_in_blocks
from potstill.onnx_export.label_check import Run, onnx_run
from potstill.onnx_export.target_files import TEMPLATES, Source, calibrated_model, write_settings

# The releases that the tests load the folder with. The second is the one that the first asks for.
TRANSFORMERS_JS = "4.3.2"
ONNXRUNTIME_WEB = "1.31.0-dev.20260914-8d85527a0"
# The names by which transformers.js finds the file of a dtype.
_FILES = {"fp32": "model.onnx", "q8": "model_quantized.onnx"}
_PAGES = ("index.html", "classify.js")


def write_browser_folder(folder: Path, source: Source, *, exact: bool) -> Run:
    """Write everything but README.md and the manifest.

    Args:
        folder: an existing folder.
        source: the student.
        exact: whether weights stay in fp32; else they have 8 bits.

    Returns:
        What computes the logits of the file that was written.
    """
    model = calibrated_model(source)
    if not exact:
        store_in_blocks(model)
    dtype = "fp32" if exact else "q8"
    path = folder / "onnx" / _FILES[dtype]
    path.parent.mkdir()
    onnx.save(model, path)
    write_settings(folder, source, {"transformers.js_config": {"dtype": dtype}})
    for page in _PAGES:
        shutil.copyfile(TEMPLATES / page, folder / page)
    return onnx_run(path)
