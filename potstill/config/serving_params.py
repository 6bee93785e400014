"""Sections `serve` and `watch`, the only ones in a Bento."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import Share, Strict


class Serve(Strict):
    """Address, limits and pages of the service; they go into the Bento."""

    host: str = "127.0.0.1"
    """Address to bind."""
    port: int = Field(3000, ge=0, le=65535)
    """Port to bind. 0: a free one."""
    max_texts: PositiveInt = 32
    """Texts of one request."""
    max_characters: PositiveInt = 20_000
    """Characters of a text, or of the two texts of a pair."""
    max_body_bytes: PositiveInt = 2_000_000
    """Bytes of a request, counted while it arrives."""
    max_queue: PositiveInt = 512
    """Texts of all requests that may wait for a core. A request beyond that is refused at once."""
    max_queue_seconds: float = Field(2.0, gt=0, le=60)
    """Seconds that a request may wait for a core before it is refused."""
    threads: NonNegativeInt = 0
    """Texts computed at the same time. 0: one per core."""
    page: bool = True
    """Whether there is a page at `/` to try texts on."""
    docs: bool = True
    """Whether there are the descriptions `/openapi.json` and `/schema.json`."""
    metrics: bool = True
    """Whether there are Prometheus metrics at `/metrics`."""
    abstain: bool = False
    """Whether answers of a lower confidence than the threshold of evaluate.abstention say `abstained: true`."""
    access_log: bool = False
    """Whether each request is a line in the log."""
    cors_origins: list[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]] = []
    """Other sites whose pages may call the service: `https://example.org`, or `*` for all. []: browsers refuse such
    calls."""

    @property
    def explained_words(self) -> int:
        """Most words, or runs of words, that are removed to explain an answer; the whole text is computed too."""
        return self.max_texts - 1

    @model_validator(mode="after")
    def _let_a_request_fit_into_the_queue(self) -> Self:
        if self.max_queue < self.max_texts:
            raise ValueError(
                f"max_queue is {self.max_queue}, but a request may have {self.max_texts} texts (max_texts) and would "
                "never fit; raise max_queue"
            )
        return self


class Watch(Strict):
    """What the service records of its traffic, and when `potstill drift` calls a change drift."""

    folder: str | None = "watch"
    """Where records are: a folder in the workspace, an absolute path, or a URL that fsspec knows. null: nowhere, so
    that counts are only at `/metrics`."""
    window_texts: PositiveInt = 1000
    """Texts after which a window of counts ends."""
    window_seconds: float = Field(600, ge=1)
    """Seconds after which a window of counts ends."""
    keep_windows: PositiveInt = 1000
    """Newest windows to keep for each model. Files of older ones are removed."""
    hash_texts: bool = False
    """Whether each answer is recorded with the sha256 of its text, so that labels can refer to texts."""
    capture: Share = 0.0
    """Share of the texts that are recorded, masked."""
    masks: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = {
        "email": r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+",
        "phone": r"(?<!\w)\+?\(?\d[\d ()./-]{5,20}\d",
        "number": r"\d+(?:[.,]\d+)*",
    }
    """Regular expressions by name, applied in order to recorded texts. A match is replaced by `[name]`."""
    judged_windows: PositiveInt = 20
    """Newest windows that `potstill drift` judges together."""
    min_texts: int = Field(500, ge=100)
    """Fewest texts that are judged. With less than 100, bins would be empty and chance not measurable."""
    max_psi: PositiveFloat | None = 0.25
    """Population stability index above which a change is drift. null: not judged."""
    max_ks: Annotated[float, Field(gt=0, le=1)] | None = 0.2
    """Kolmogorov-Smirnov distance above which a change is drift. null: not judged."""
    max_accuracy_drop: Share | None = 0.05
    """Drop of the estimated or measured accuracy above which a change is drift. null: not judged."""
    shadow: Share = 0.0
    """Share of the requests that a challenger answers too."""
    shadow_max_slowdown: float = Field(1.2, gt=1)
    """How many times longer the champion may take with a challenger before that is dropped."""

    @model_validator(mode="after")
    def _compile_masks(self) -> Self:
        for name, pattern in self.masks.items():
            try:
                matches_nothing = re.compile(pattern).match("") is not None
            except re.error as error:
                raise ValueError(f"masks.{name} is {pattern!r}, which is not a regular expression: {error}") from error
            if matches_nothing:
                raise ValueError(
                    f"masks.{name} is {pattern!r}, which also matches the empty text; make it match a character"
                )
        return self
