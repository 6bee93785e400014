"""A model as ONNX in fp32 and INT8, written in the same way for a student and for the teacher it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from potstill.config.evaluation_params import Export
from potstill.data.tokens.batches import TokenDataset
from potstill.onnx_export.eight_bits import most_sensitive, quantize_int8
from potstill.onnx_export.logit_parity import Logits, flat, onnx_logits
from potstill.onnx_export.onnx_model import export_onnx
from potstill.onnx_export.outliers import divide_outliers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Rows of dev, enough to find the largest inputs of products and the products with the largest INT8 error.
CALIBRATION_ROWS = 256
# Counts the time of a block as `Stage.work` does.
Clock = Callable[[str], AbstractContextManager[None]]


def write_variants(
    model: PreTrainedModel,
    paths: tuple[Path, Path],
    dev: TokenDataset,
    reference: Logits,
    settings: Export,
    *,
    pair: bool,
    clock: Clock,
) -> None:
    """Write a model as fp32 and as dynamic INT8.

    Args:
        model: the trained model.
        paths: the files to write, fp32 and INT8.
        dev: its first `CALIBRATION_ROWS` rows show how large the inputs of products get, and choose the products to
            compute in fp32.
        reference: the model's logits over dev, or at least over those rows.
        settings: how many such products there are, and the bits of the token embeddings.
        pair: whether the model reads token types.
        clock: counts the inference.
    """
    fp32, int8 = paths
    export_onnx(model, fp32, pair=pair)
    sample = dev.select(np.arange(min(CALIBRATION_ROWS, len(dev))))
    with TemporaryDirectory(prefix="potstill-") as folder:
        divided = Path(folder) / "divided.onnx"
        with clock("inference"):
            divide_outliers(fp32, divided, sample)
            products = _fp32_products(divided, settings.int8_fp32_products, sample, reference)
        quantize_int8(divided, int8, products, embedding_bits=settings.embedding_bits)


def _fp32_products(model: Path, count: int, sample: TokenDataset, reference: Logits) -> list[str]:
    """Choose the products that stay in fp32: those with the largest mean error of a logit over some rows of dev."""
    # The sample is the first rows, so their logits are the first of `reference`.
    expected = flat(reference[: len(sample)]) if reference.dtype.kind == "O" else reference

    def mean_error(path: Path) -> float:
        logits = flat(onnx_logits(path, sample, batch_tokens=1))
        return float(np.abs(logits - expected[: len(logits)]).mean())

    return most_sensitive(model, count, mean_error)
