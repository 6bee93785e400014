"""`potstill inspect`: shows what a model is, as the ingest stage would see it."""

from __future__ import annotations

import re
from pathlib import Path

from potstill.config.ingest_params import FileSource, HubSource
from potstill.errors import ParamsError


def model_source(model: str, option: str) -> FileSource | HubSource:
    """Parse a model as the command line names it: a folder, or a hub id with its commit.

    Raises:
        ParamsError: it is neither.
    """
    folder = Path(model)
    if folder.is_dir():
        return FileSource(kind="file", path=str(folder.resolve()))
    name, at, revision = model.partition("@")
    if not at or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ParamsError(
            f"{option} {model}: there is no such folder, and a hub id needs its commit, 40 hex digits: id@commit"
        )
    return HubSource(kind="hub", id=name, revision=revision)


def show(model: str) -> None:
    """Print what an inspection of the model shows, one fact a line.

    Raises:
        ParamsError: it is neither a folder nor an id with its commit.
        PotstillError: ingest would refuse it; see `inspect_source`.
    """
    from potstill.data.fetching.ingestion import inspect_source

    lines = inspect_source(model_source(model, "inspect")).lines()
    width = max(len(topic) for topic, _ in lines)
    for topic, value in lines:
        print(f"{topic:<{width}}  {value}")
