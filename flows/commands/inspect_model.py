"""`potstill inspect`: what a model is, as Potstill sees it before it comes in."""

from __future__ import annotations

import re
from pathlib import Path

from potstill.config.ingest_params import FileSource, HubSource
from potstill.errors import ParamsError


def source_of(model: str, option: str) -> FileSource | HubSource:
    """A model as the command line names it: a folder, or a hub id with its commit.

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
    """Print the look at a model, one line for each thing.

    Raises:
        ParamsError: it is neither a folder nor an id with its commit.
        PotstillError: it would be refused; see `inspect_source`.
    """
    from potstill.data.fetching.ingestion import inspect_source

    lines = inspect_source(source_of(model, "inspect")).lines()
    widest = max(len(what) for what, _ in lines)
    for what, value in lines:
        print(f"{what:<{widest}}  {value}")
