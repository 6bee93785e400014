"""Sections `serve` and `watch`: all that a Bento carries of params."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from potstill.config.base import Positive, Share, Strict


class Serve(Strict):
    """Bind address, limits and open doors of the service; they go into the Bento."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 3000
    max_texts: Positive = 32
    max_characters: Positive = 20_000
    # Of a request, counted while it arrives.
    max_body_bytes: Positive = 2_000_000
    # Texts of all requests that may wait for a core, and how long a request may.
    max_queue: Positive = 512
    max_queue_seconds: Annotated[float, Field(gt=0, le=60)] = 2.0
    threads: Annotated[int, Field(ge=0)] = 0
    # The page at /, the descriptions (/openapi.json, /schema.json), /metrics, and a line in the log for each request.
    page: bool = True
    docs: bool = True
    metrics: bool = True
    access_log: bool = False
    # Other sites whose pages may ask, as https://example.org; none: browsers refuse them.
    cors_origins: list[Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$")]] = []

    @model_validator(mode="after")
    def _a_request_fits_into_the_queue(self) -> Self:
        if self.max_queue < self.max_texts:
            raise ValueError(
                f"max_queue is {self.max_queue}: a request of max_texts ({self.max_texts}) would never fit; raise it"
            )
        return self


class Watch(Strict):
    """What the service counts and keeps of its traffic, and what `potstill drift` calls a change."""

    # Of a workspace, an absolute path, or a URL that fsspec knows; null: counts are only in /metrics.
    folder: str | None = "watch"
    # A window of counts ends with whichever comes first.
    window_texts: Positive = 1000
    window_seconds: Annotated[float, Field(ge=1)] = 600
    # The newest ones of a model; older files are removed.
    keep_windows: Positive = 1000
    # With each answer, a sha256 of its text: labels can then be brought by text.
    hash_texts: bool = False
    # Share of the texts that are kept, masked.
    capture: Share = 0.0
    # Name -> regular expression; what it finds is written as [name]. In order.
    masks: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = {
        "email": r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+",
        "phone": r"(?<!\w)\+?\(?\d[\d ()./-]{5,20}\d",
        "number": r"\d+(?:[.,]\d+)*",
    }
    # `potstill drift` pools the newest windows, and has no verdict on fewer texts; under 100 leave bins empty, and what
    # chance gives is then unknown.
    judged_windows: Positive = 20
    min_texts: Annotated[int, Field(ge=100)] = 500
    # null switches one off.
    max_psi: Annotated[float, Field(gt=0)] | None = 0.25
    max_ks: Annotated[float, Field(gt=0, le=1)] | None = 0.2
    max_accuracy_drop: Share | None = 0.05
    # Share of the requests that a challenger answers too, and how much longer the champion may take beside it.
    shadow: Share = 0.0
    shadow_max_slowdown: Annotated[float, Field(gt=1)] = 1.2

    @model_validator(mode="after")
    def _masks_are_patterns(self) -> Self:
        for name, pattern in self.masks.items():
            try:
                matches_nothing = re.compile(pattern).match("") is not None
            except re.error as error:
                raise ValueError(f"masks.{name} is {pattern!r}, no regular expression: {error}") from error
            if matches_nothing:
                raise ValueError(
                    f"masks.{name} is {pattern!r}, which finds the empty text everywhere; make it find more"
                )
        return self
