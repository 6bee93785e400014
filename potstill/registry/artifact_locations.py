"""Where the artifacts of a SQLite store lie, wherever its workspace was moved, copied or mounted.

MLflow names local artifacts by absolute paths. Whatever Potstill reads is resolved against the folder of the SQLite
file, so a moved workspace needs no repair for that, even a read-only one. New artifacts go where MLflow's names point:
a run therefore corrects them first (`relocate`), and so does `potstill relocate` for MLflow's tools.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlparse

from potstill.errors import StoreError
from potstill.paths import ARTIFACTS
from potstill.registry.tracking import WORKSPACE, WORKSPACE_SHA, store_file, workspace_sha

# The artifacts of a run or of a logged model, as MLflow lays them out in the folder of an experiment.
_OF_EXPERIMENT = re.compile(rf"(?P<root>.*?)/{ARTIFACTS}/(?P<rest>[^/]+(?:/(?:models/)?[^/]+/artifacts)?)/?")
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_SECONDS = 8.0


def local_folder(location: str, workspace: Path) -> Path | None:
    """Return the folder of artifacts on this machine; None where they are in an object store or at a server.

    Args:
        location: path or URI as MLflow names it.
        workspace: the workspace, whose own artifacts go before others of that name.
    """
    url = urlparse(location)
    if url.scheme not in ("", "file"):
        return None
    path = unquote(url.path)
    store = store_file(workspace)
    match = _OF_EXPERIMENT.fullmatch(path)
    if store is not None and match is not None and (here := store.parent / ARTIFACTS / match["rest"]).is_dir():
        return here
    return Path(path)


def moved_from(workspace: Path) -> list[Path]:
    """List the folders from which a workspace was moved, as the names in its SQLite store still have them.

    Raises:
        StoreError: the store cannot be read.
    """
    store = store_file(workspace)
    if store is None or not store.exists():
        return []
    with open_database(store, "ro") as database:
        return list(_moved_roots(database, store.parent).values())


def relocate(workspace: Path) -> list[Path]:
    """Correct the names of artifacts in a workspace's SQLite store; call it with the run lock held.

    Returns:
        The folders that were named before; empty where all names are right, or the store is no SQLite file.

    Raises:
        StoreError: the store cannot be read or written.
    """
    store = store_file(workspace)
    if store is None or not moved_from(workspace):
        return []
    with open_database(store, "rw") as database, database:  # the inner one is a transaction
        roots = _moved_roots(database, store.parent)
        for root in roots:
            old = f"{root}/{ARTIFACTS}/"
            new = f"{store.parent.as_uri()}/{ARTIFACTS}/"
            for table, column in _COLUMNS:
                rename = f"update {table} set {column} = ? || substr({column}, ?) where substr({column}, 1, ?) = ?"
                database.execute(rename, [new, len(old) + 1, len(old), old])
        # By these tags the next run knows what a killed one has left running.
        for folder in roots.values():
            for key, value in ((WORKSPACE, str), (WORKSPACE_SHA, workspace_sha)):
                change = "update tags set value = ? where key = ? and value = ?"
                database.execute(change, [value(store.parent), key, value(folder)])
    return list(roots.values())


def _moved_roots(database: sqlite3.Connection, here: Path) -> dict[str, Path]:
    """Map the URI of each folder that MLflow names, and that is this one now, to its path.

    Either its artifacts lie here, or it is gone. Neither is so for another clone that uses this store.
    """
    names: dict[str, list[str]] = {}
    for (location,) in database.execute("select distinct artifact_location from experiments"):
        match = _OF_EXPERIMENT.fullmatch(str(location))
        if match is not None and urlparse(match["root"]).scheme in ("", "file"):
            names.setdefault(match["root"], []).append(unquote(match["rest"]))
    folders = {root: Path(unquote(urlparse(root).path)) for root in names}
    return {
        root: folder
        for root, folder in folders.items()
        if folder != here and (not folder.exists() or any((here / ARTIFACTS / name).is_dir() for name in names[root]))
    }


@contextmanager
def open_database(store: Path, mode: Literal["ro", "rw"]) -> Iterator[sqlite3.Connection]:
    """Open the SQLite file of MLflow's store.

    Raises:
        StoreError: it cannot be read or changed, while it is opened or inside the context.
    """
    try:
        _undo_interrupted(store)
        with closing(sqlite3.connect(f"{store.as_uri()}?mode={mode}", uri=True, timeout=_SECONDS)) as database:
            yield database
    except sqlite3.Error as error:
        action = "read" if mode == "ro" else "changed"
        raise StoreError(
            f"MLflow's store {store} cannot be {action} ({error}); see that it is intact and writable, and that no "
            "other process holds it, then run again"
        ) from error


def _undo_interrupted(store: Path) -> None:
    """Have SQLite undo what a killed process was writing, which it refuses to a connection that only reads."""
    if not store.with_name(f"{store.name}-journal").exists():
        return
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{store.as_uri()}?mode=rw", uri=True)) as database:
        database.execute("select 1 from sqlite_master").fetchone()
