"""Finished students in a workspace: what `potstill export` reads."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from potstill.artifacts import write_json, write_manifest
from potstill.data.tokens.tokenization import write_served_tokenizer
from potstill.inference.runtime import Text
from tests.potstill.serving.folders import card


def write_finished(model: Any, tokenizer: Path, workspace: Path, texts: Sequence[Text], **settings: Any) -> Path:
    """Write `data/export`, `data/serving` with INT8, and dev texts in `data/prepared`; return the workspace.

    Args:
        model: the torch model.
        tokenizer: folder of its tokenizer.
        workspace: a new folder.
        texts: dev texts, or pairs of texts.
        settings: further keys of the card.
    """
    from potstill.onnx_export.eight_bits import quantize_int8
    from potstill.onnx_export.onnx_model import export_onnx

    export, serving, prepared = (workspace / "data" / name for name in ("export", "serving", "prepared"))
    for folder in (export, serving, prepared):
        folder.mkdir(parents=True)
    pair = not isinstance(texts[0], str)
    export_onnx(model, export / "student.fp32.onnx", pair=pair)
    quantize_int8(export / "student.fp32.onnx", export / "student.int8.onnx")
    shutil.copyfile(export / "student.int8.onnx", serving / "model.onnx")
    labels = [*model.config.id2label.values()]
    model_card = card(labels=labels, pair=pair, pad_token_id=model.config.pad_token_id, **settings)
    write_json(serving / "model.json", model_card)
    write_served_tokenizer(tokenizer, model_card["max_length"], serving / "tokenizer.json")
    write_texts(prepared / "dev.parquet", texts)
    for folder in (export, serving, prepared):
        write_manifest(folder)
    return workspace


def write_texts(path: Path, texts: Sequence[Text]) -> None:
    """Write texts as a split of `data/prepared` has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("text",) if isinstance(texts[0], str) else ("text", "text_pair")
    columns = [list(texts)] if len(names) == 1 else [list(column) for column in zip(*texts, strict=True)]
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), path)
