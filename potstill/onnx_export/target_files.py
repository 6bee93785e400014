"""What the folders for other runtimes have in common: the graph with calibrated logits, settings and tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from potstill.artifacts import write_json
from potstill.inference.runtime import TOKENIZER, ModelCard
from potstill.kinds.definitions.task_kinds import KINDS

if TYPE_CHECKING:
    from onnx import ModelProto


def scaled_logits(path: Path, temperature: float) -> ModelProto:
    """Load a model with one output, its logits divided by the temperature, so that their softmax is calibrated.

    Args:
        path: an ONNX file whose first output is `logits`.
        temperature: the divisor.
    """
    import onnx
    from onnx import helper

    model = onnx.load(path)
    graph = model.graph
    (logits,) = [output for output in graph.output if output.name == "logits"]
    for node in graph.node:
        node.output[:] = ["unscaled" if name == logits.name else name for name in node.output]
    divisor = helper.make_tensor("temperature", onnx.TensorProto.FLOAT, [], [temperature])
    graph.initializer.append(divisor)
    graph.node.append(helper.make_node("Div", ["unscaled", divisor.name], [logits.name], "scale_logits"))
    kept = onnx.ValueInfoProto.FromString(logits.SerializeToString())
    del graph.output[:]
    graph.output.append(kept)
    return model


def write_settings(folder: Path, serving: Path, card: ModelCard, settings: Mapping[str, Any]) -> None:
    """Write config.json, tokenizer.json and tokenizer_config.json as transformers and transformers.js read them.

    Args:
        folder: an existing folder.
        serving: the serving folder, whose tokenizer is copied.
        card: its card.
        settings: further keys of config.json.
    """
    shutil.copyfile(serving / TOKENIZER, folder / TOKENIZER)
    tokenizer = Tokenizer.from_file(str(serving / TOKENIZER))
    side = (tokenizer.truncation or {}).get("direction", "right")
    names = [str(label) for label in card.labels]
    head = KINDS[card.kind].head
    write_json(
        folder / "config.json",
        {
            # The layers are in the model's file. This only says that it is an encoder with one file.
            "model_type": "bert",
            "architectures": [f"Bert{head.suffix}"],
            "id2label": {str(index): name for index, name in enumerate(names)},
            "label2id": {name: index for index, name in enumerate(names)},
            "problem_type": head.problem_type or "single_label_classification",
            "pad_token_id": card.pad_token_id,
            "potstill": _reading(tokenizer, card) | {"truncation_side": side},
            **settings,
        },
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": card.max_length,
            "pad_token": tokenizer.id_to_token(card.pad_token_id),
            "truncation_side": side,
        },
    )


def _reading(tokenizer: Tokenizer, card: ModelCard) -> dict[str, Any]:
    """Say how a text becomes the model's input: the card, and how many special tokens are before and after it."""
    tokenizer.no_truncation()
    special = tokenizer.encode("a", "a" if card.pair else None).special_tokens_mask
    first_word = special.index(0)
    last_word = len(special) - 1 - special[::-1].index(0)
    return {
        "task": card.task,
        "labels": card.labels,
        "pair": card.pair,
        "inputs": card.inputs,
        "max_length": card.max_length,
        "temperature": card.temperature,
        "before": first_word,
        "after": len(special) - 1 - last_word,
    }
