"""A peer for benchmarks/serving.py: a model in `transformers.pipeline`, served by a plain BentoML service.

It follows BentoML's documentation: one typed endpoint, one worker. `PEER_MODEL` is a `save_pretrained` folder.
"""

from __future__ import annotations

import os

import bentoml


@bentoml.service(name="peer", workers=1, logging={"access": {"enabled": False}})
class Peer:
    """Texts in, the most probable label of each out."""

    def __init__(self) -> None:
        from transformers import pipeline

        self._classify = pipeline("text-classification", model=os.environ["PEER_MODEL"], device="cpu")

    @bentoml.api  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[dict[str, float | str]]:
        """Return label and score of each text."""
        # A single text skips the data loader of a list.
        inputs: list[str] | str = texts if len(texts) > 1 else texts[0]
        size = 32 if len(texts) > 1 else 1
        answers: list[dict[str, float | str]] = self._classify(inputs, batch_size=size, truncation=True, max_length=128)
        return answers
