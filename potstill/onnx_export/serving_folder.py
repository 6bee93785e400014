"""The folder from which a model is served: its ONNX file, its tokenizer and its card (docs/artifacts.md)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from potstill.artifacts import write_json, write_manifest
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.token_folder import TokenFolder
from potstill.data.tokens.tokenization import write_served_tokenizer
from potstill.inference.runtime import CARD, MODEL, TOKENIZER
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.onnx_export.logit_parity import Logits
from potstill.onnx_export.onnx_model import gives_embedding, input_names


def write_serving_folder(
    folder: Path,
    model: Path,
    variant: str,
    tokens: TokenFolder,
    temperature: float,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a serving folder.

    Args:
        folder: an existing folder.
        model: the ONNX file, which is copied.
        variant: `fp32` or `int8`.
        tokens: the tokens that the model reads.
        temperature: divides its logits.
        metadata: metadata of the manifest.
    """
    info = tokens.info
    task = tokens.task
    card = {
        "format": 1,
        "task": KINDS[task].card_name,
        "variant": variant,
        "labels": tokens.labels,
        "pair": tokens.pair,
        "max_length": info["max_length"],
        "pad_token_id": info["pad_token_id"],
        "temperature": temperature,
        "inputs": list(input_names(pair=info["token_types"])),
        "embedding": gives_embedding(model),
    }
    if KINDS[task].marks_spans:
        card |= {"stride": info["stride"]}
    if KINDS[task].form == "span":
        train = info["splits"]["train"]
        card |= {"no_answer": train["questions"] > train["answers"]}
    shutil.copyfile(model, folder / MODEL)
    write_served_tokenizer(tokens.tokenizer_dir, info["max_length"], folder / TOKENIZER)
    write_json(folder / CARD, card)
    write_manifest(folder, metadata)


def served_temperature(logits: Logits, dev: TokenDataset, task: TaskKind) -> float:
    """Fit the temperature of a model on its logits over dev; 1 for a task without one."""
    temperature = KINDS[task].temperature(logits if logits.dtype.kind == "O" else logits.astype(np.float64), dev.labels)
    return 1.0 if temperature is None else temperature
