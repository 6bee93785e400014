"""The common parts of folders for other runtimes: a graph with calibrated logits, settings and tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, helper
from tokenizers import Tokenizer

from potstill.artifacts import write_json
from potstill.inference.runtime import TOKENIZER, ModelCard
from potstill.kinds.definitions.task_kinds import KINDS

LOGITS = "logits"
# README.md of each target, and the pages for browsers.
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Source:
    """A finished student.

    Attributes:
        serving: its serving folder, with the tokenizer.
        fp32: its ONNX file in fp32.
        card: the card of the serving folder.
    """

    serving: Path
    fp32: Path
    card: ModelCard


def calibrated_model(source: Source) -> ModelProto:
    """Load the fp32 model with logits divided by the temperature as its one output: their softmax is calibrated."""
    model = onnx.load(source.fp32)
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["unscaled" if name == LOGITS else name for name in node.output]
    graph.initializer.append(helper.make_tensor("temperature", onnx.TensorProto.FLOAT, [], [source.card.temperature]))
    graph.node.append(helper.make_node("Div", ["unscaled", "temperature"], [LOGITS], "scale_logits"))
    for output in [output for output in graph.output if output.name != LOGITS]:
        graph.output.remove(output)
    return model


def write_settings(folder: Path, source: Source, settings: Mapping[str, Any] = {}) -> None:
    """Write config.json, tokenizer.json and tokenizer_config.json as transformers and transformers.js read them.

    Args:
        folder: an existing folder.
        source: the student.
        settings: further keys of config.json.
    """
    card = source.card
    shutil.copyfile(source.serving / TOKENIZER, folder / TOKENIZER)
    tokenizer = Tokenizer.from_file(str(source.serving / TOKENIZER))
    side = str((tokenizer.truncation or {}).get("direction", "right")).lower()
    names = [str(label) for label in card.labels]
    head = KINDS[card.kind].head
    config = {
        # The layers are in the model's file. This only says that it is an encoder in one file.
        "model_type": "bert",
        "architectures": [f"Bert{head.suffix}"],
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": head.problem_type or "single_label_classification",
        "pad_token_id": card.pad_token_id,
        "potstill": {
            **card.model_dump(include={"task", "labels", "pair", "inputs", "max_length", "temperature"}),
            **_special_tokens(tokenizer, pair=card.pair),
            "truncation_side": side,
        },
        **settings,
    }
    write_json(folder / "config.json", config)
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": card.max_length,
        "pad_token": tokenizer.id_to_token(card.pad_token_id),
        "truncation_side": side,
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config)


def _special_tokens(tokenizer: Tokenizer, *, pair: bool) -> dict[str, int]:
    """Count the special tokens before and after a text, or a pair of texts."""
    tokenizer.no_truncation()
    special = tokenizer.encode("a", "a" if pair else None).special_tokens_mask
    return {"before": special.index(0), "after": special[::-1].index(0)}
