"""A peer for benchmarks/serving.py: the same INT8 student with BentoML's adaptive batching.

It follows BentoML's documentation: one batchable endpoint, one worker, a batch tokenized, padded and computed in one
call on all cores. `PEER_MODEL` is a serving folder (docs/artifacts.md).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import bentoml


@bentoml.service(name="batchable", workers=1, logging={"access": {"enabled": False}})
class Batchable:
    """Texts in, the most probable label of each out."""

    def __init__(self) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        folder = Path(os.environ["PEER_MODEL"])
        self._card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(self._card["max_length"])
        self._tokenizer.enable_padding(pad_id=self._card["pad_token_id"])

    # Long enough that BentoML sheds no request of the loads, which it does when it expects to take longer.
    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=64, max_latency_ms=5000)  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[dict[str, float | str]]:
        """Return label and score of each text."""
        import numpy as np

        encodings = self._tokenizer.encode_batch_fast(texts)
        columns = {
            "input_ids": [encoding.ids for encoding in encodings],
            "attention_mask": [encoding.attention_mask for encoding in encodings],
            "token_type_ids": [encoding.type_ids for encoding in encodings],
        }
        feed = {name: np.array(columns[name], dtype=np.int64) for name in self._card["inputs"]}
        (logits,) = self._session.run(["logits"], feed)
        scaled = logits / self._card["temperature"]
        shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        names = [str(label) for label in self._card["labels"]]
        return [
            {"label": names[label], "score": float(row[label])}
            for row, label in zip(shares, shares.argmax(1), strict=True)
        ]
