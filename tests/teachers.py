"""Tiny teachers as people save them: one that is really trained on tests/cases/teachers/ok.csv, and what goes wrong."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

CASES = REPOSITORY / "tests" / "cases" / "teachers"
NAMES = ["ham", "spam"]


def read_rows(name: str = "ok.csv") -> list[tuple[str, str]]:
    """(text, label) rows of a case."""
    with (CASES / name).open(encoding="utf-8", newline="") as handle:
        return [(row["text"], row["label"]) for row in csv.DictReader(handle)]


def teach(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    labels: Any,
    steps: int = 60,
    loss: Callable[..., Any] | None = None,
    rate: float = 3e-3,
) -> None:
    """Train a sequence classifier for a few seconds, in place; `loss` is cross-entropy over classes by default."""
    import torch

    answers = torch.as_tensor(labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(texts), (32,), generator=generator).tolist()
        inputs = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        (loss or torch.nn.functional.cross_entropy)(model(**inputs).logits, answers[rows]).backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()


def write_teacher(folder: Path) -> Path:
    """A BERT of two layers that tells ham from spam, with its tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from potstill.data.tokens.wordpiece import SPECIAL, train_wordpiece

    rows = read_rows()
    trained = train_wordpiece([text for text, _ in rows], vocabulary=400, min_frequency=1, lowercase=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, **SPECIAL)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=trained.get_vocab_size(), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=70, pad_token_id=0, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, id2label=dict(enumerate(NAMES)), label2id={"ham": 0, "spam": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    teach(model, tokenizer, [text for text, _ in rows], [NAMES.index(label) for _, label in rows])
    model.save_pretrained(folder)
    return folder


def copy_of(teacher: Path, folder: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(teacher, folder))


def change_config(folder: Path, **keys: Any) -> None:
    """Set keys of config.json; None takes one away."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | keys
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8")


def change_weights(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Write other weights in the place of those that are there."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = change(load_file(path))
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata={"format": "pt"})


def widen_table(source: Path, folder: Path, rows: int) -> Path:
    """Write a copy of a BERT encoder whose table of token embeddings has that many rows, all of them zeros.

    Its weights are a header and a hole of the right size.
    """
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}), encoding="utf-8")
    weights = folder / "model.safetensors"
    stored = weights.read_bytes()
    header = json.loads(stored[8 : 8 + int.from_bytes(stored[:8], "little")])
    end = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            tensor["shape"][0] = rows if name == "embeddings.word_embeddings.weight" else tensor["shape"][0]
            tensor["data_offsets"] = [end, end + 4 * math.prod(tensor["shape"])]
            end += 4 * math.prod(tensor["shape"])
    text = json.dumps(header).encode()
    with weights.open("wb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        handle.truncate(8 + len(text) + end)
    return folder
