"""What our own line of texts is measured beside: the same INT8 student behind BentoML's adaptive batching.

As BentoML's documentation has it: one batchable endpoint, one worker, a batch tokenized, padded and computed in one
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

    # Time enough that no request of the loads is shed, which BentoML does where it expects to take longer.
    @bentoml.api(batchable=True, batch_dim=0, max_batch_size=64, max_latency_ms=5000)  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[dict[str, float | str]]:
        """[texts] label and score."""
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
        return [{"label": names[at], "score": float(row[at])} for row, at in zip(shares, shares.argmax(1), strict=True)]
