"""Silence libraries that log advice at every call."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_only(logger: str | None) -> Iterator[None]:
    """Suppress messages of a logger below the level of errors inside the block.

    Args:
        logger: name of the logger; None is the root logger.
    """
    silenced = logging.getLogger(logger)
    level = silenced.level
    silenced.setLevel(logging.ERROR)
    try:
        yield
    finally:
        silenced.setLevel(level)
