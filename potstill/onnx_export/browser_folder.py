"""The student as transformers.js loads it, in a browser or on a phone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.onnx_export.block_weights import store_in_blocks
from potstill.onnx_export.label_check import Run, onnx_run
from potstill.onnx_export.target_files import scaled_logits, write_settings

if TYPE_CHECKING:
    from potstill.inference.runtime import ModelCard

# The releases that the tests load the folder with. The second is the one that the first asks for.
TRANSFORMERS_JS = "4.3.2"
ONNXRUNTIME_WEB = "1.31.0-dev.20260914-8d85527a0"
_PAGES = Path(__file__).parent / "templates"
# File name in the folder `onnx` and its name in transformers.js, for fp32 weights and for weights in 8 bits.
_FILES = {True: ("model.onnx", "fp32"), False: ("model_quantized.onnx", "q8")}


def write_browser_folder(folder: Path, fp32: Path, serving: Path, card: ModelCard, *, exact: bool) -> Run:
    """Write everything but README.md and the manifest.

    Args:
        folder: an existing folder.
        fp32: the ONNX file of the fp32 model.
        serving: the serving folder, which has the tokenizer.
        card: its card.
        exact: whether weights stay in fp32; else they have 8 bits.

    Returns:
        What computes the logits of the file that was written.
    """
    import onnx

    name, dtype = _FILES[exact]
    model = scaled_logits(fp32, card.temperature)
    if not exact:
        store_in_blocks(model)
    path = folder / "onnx" / name
    path.parent.mkdir()
    onnx.save(model, path)
    write_settings(folder, serving, card, {"transformers.js_config": {"dtype": dtype}})
    for page in ("index.html", "classify.js"):
        shutil.copyfile(_PAGES / page, folder / page)
    return onnx_run(path)
