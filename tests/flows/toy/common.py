"""What the toy stages share. They stand under the real stage contract and make real, tiny outs in a second or less."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LABELS = ["negative", "positive"]
WORDS = {"good": 1.0, "fine": 0.6, "bad": -1.0, "poor": -0.5}


def texts(rows: int) -> list[tuple[str, int]]:
    """(text, label) rows, all of them different."""
    words = list(WORDS)
    return [(f"{words[row % 4]} film number{row}", int(row % 4 < 2)) for row in range(rows)]


def trouble(stage: str) -> None:
    """What a test asks this stage to do, by the environment: fail, wait for it, or hang with a child of its own."""
    if os.environ.get("TOY_FAIL") == stage:
        from potstill.errors import LabelError

        raise LabelError("row 7 has the label 'maybe'; allowed are negative, positive")
    if os.environ.get("TOY_WAIT") == stage:
        waiting = Path(".work/waiting")
        waiting.touch()
        while waiting.exists():
            time.sleep(0.1)
    if os.environ.get("TOY_HANG") == stage:
        Path(".work/hanging").write_text(f"{os.getpid()}\n", encoding="utf-8")
        subprocess.run([sys.executable, "-c", "import time; time.sleep(300)"], check=True)


def write_student(folder: Path, sharpness: float) -> None:
    """A serving folder: a bag of words, scored by an embedding of one number a word."""
    import onnx
    from onnx import TensorProto, helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    from potstill.artifacts import write_json

    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{word: index for index, word in enumerate(WORDS, start=2)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = [[-sharpness * weight, sharpness * weight] for weight in [0.0, 0.0, *WORDS.values()]]
    flat = [value for row in table for value in row]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["each"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("Mul", ["each", "wide"], ["real"]),
        helper.make_node("ReduceSum", ["real", "middle"], ["logits"], keepdims=0),
    ]
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["b", "s"]) for n in ("input_ids", "attention_mask")]
    graph = helper.make_graph(
        nodes,
        "toy",
        ids,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 2])],
        [
            helper.make_tensor("table", TensorProto.FLOAT, [len(table), 2], flat),
            helper.make_tensor("last", TensorProto.INT64, [1], [2]),
            helper.make_tensor("middle", TensorProto.INT64, [1], [1]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "model.onnx"))
    card: dict[str, Any] = {
        "format": 1, "task": "classification", "variant": "int8", "labels": LABELS, "pair": False, "max_length": 16,
        "pad_token_id": 0, "temperature": 1.0, "inputs": ["input_ids", "attention_mask"],
    }  # fmt: skip
    write_json(folder / "model.json", card)
