"""What our service is measured beside: a model in `transformers.pipeline` behind a plain BentoML service.

As BentoML's documentation has it: one typed endpoint, one worker. `PEER_MODEL` is a `save_pretrained` folder.
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
        """[texts] label and score."""
        # One text goes without the data loader that a list goes through.
        asked, size = (texts, 32) if len(texts) > 1 else (texts[0], 1)
        found: list[dict[str, float | str]] = self._classify(asked, batch_size=size, truncation=True, max_length=128)
        return found
