"""Reading the registry without MLflow's package, whose import takes seconds.

`potstill review`, `history`, `trace` and `doctor` only read a few rows. They are read from MLflow's SQLite file, or
through the REST API of its server. Whatever is not as expected is left to MLflow's own client: another schema, another
kind of store, a server that asks for credentials, and every error.
"""

from __future__ import annotations

import json
import os
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.registry.tracking import client, tracking_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# With the import of MLflow and its own limit, a command still ends within 15 s if the server is silent.
_SECONDS = 2.0
# Settings of MLflow that change what is read, or how.
_SETTINGS = ("MLFLOW_REGISTRY_URI", "MLFLOW_WORKSPACE", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN")
_EXPERIMENT = "select experiment_id, name, lifecycle_stage from experiments where workspace = 'default' and name = ?"
_EXPERIMENT_TAGS = "select key, value from experiment_tags where experiment_id = ?"
_VERSIONS = (
    "select name, version, run_id, source from model_versions where workspace = 'default' and current_stage "
    "!= 'Deleted_Internal' and name = ?"
)
_VERSION_TAGS = "select key, value from model_version_tags where workspace = 'default' and name = ? and version = ?"
_ALIASES = "select alias, version from registered_model_aliases where workspace = 'default' and name = ?"
_ALIAS = "select version from registered_model_aliases where workspace = 'default' and name = ? and alias = ?"


@dataclass(frozen=True)
class StoredExperiment:
    """An experiment with the fields of MLflow's entity that the ledger reads."""

    experiment_id: str
    name: str
    lifecycle_stage: str
    tags: dict[str, str]


@dataclass(frozen=True)
class StoredVersion:
    """A model version with the fields of MLflow's entity that Potstill reads."""

    name: str
    version: str
    run_id: str | None
    source: str
    tags: dict[str, str]


@dataclass(frozen=True)
class StoredModel:
    """A registered model with the fields of MLflow's entity that Potstill reads."""

    name: str
    aliases: dict[str, str]


class VersionPage(list[StoredVersion]):
    """Versions, all on one page."""

    token = None


class MissingError(Exception):
    """The answer that there is no such alias or version; `suppress_answers` knows it by its code."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


def reader(workspace: Path) -> MlflowClient:
    """Return the fastest reader of a workspace's registry, with the methods of MLflow's client."""
    uri = tracking_uri(workspace)
    if any(name in os.environ for name in _SETTINGS):
        return client(workspace)
    if uri.startswith("sqlite:///") and Path(uri.removeprefix("sqlite:///")).exists():
        return _Reader(workspace, _SqliteRows(Path(uri.removeprefix("sqlite:///"))))
    if uri.startswith(("http://", "https://")):
        return _Reader(workspace, _RestRows(uri.rstrip("/")))
    return client(workspace)


class _Reader:
    """A client that reads rows by itself, and leaves everything else to MLflow's client."""

    def __init__(self, workspace: Path, rows: _SqliteRows | _RestRows) -> None:
        self._workspace = workspace
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        read = getattr(self._rows, name, None)
        if read is None:
            return getattr(client(self._workspace), name)

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return read(*arguments, **options)
            except (sqlite3.Error, OSError, HTTPException, ValueError, KeyError, TypeError):
                return getattr(client(self._workspace), name)(*arguments, **options)

        return call


class _SqliteRows:
    """The rows of MLflow's SQLite file."""

    def __init__(self, path: Path) -> None:
        self._uri = f"{path.resolve().as_uri()}?mode=ro"

    def get_experiment_by_name(self, name: str) -> StoredExperiment | None:
        # One transaction: the tags are those of one moment.
        with closing(sqlite3.connect(self._uri, uri=True, timeout=_SECONDS)) as database:
            database.execute("begin")
            row = database.execute(_EXPERIMENT, [name]).fetchone()
            if row is None:
                return None
            tags = dict(database.execute(_EXPERIMENT_TAGS, [row[0]]).fetchall())
        return StoredExperiment(str(row[0]), row[1], row[2], tags)

    def get_registered_model(self, name: str) -> StoredModel:
        with closing(sqlite3.connect(self._uri, uri=True, timeout=_SECONDS)) as database:
            return StoredModel(name, {alias: str(version) for alias, version in database.execute(_ALIASES, [name])})

    def get_model_version_by_alias(self, name: str, alias: str) -> StoredVersion:
        with closing(sqlite3.connect(self._uri, uri=True, timeout=_SECONDS)) as database:
            row = database.execute(_ALIAS, [name, alias]).fetchone()
        if row is None:
            raise MissingError(alias)
        return self.get_model_version(name, str(row[0]))

    def get_model_version(self, name: str, version: str) -> StoredVersion:
        versions = [item for item in self.search_model_versions(f"name = '{name}'") if item.version == version]
        if not versions:
            raise MissingError(version)
        return versions[0]

    def search_model_versions(self, filter_string: str, page_token: str | None = None) -> VersionPage:
        name = filter_string.removeprefix("name = '").removesuffix("'")
        with closing(sqlite3.connect(self._uri, uri=True, timeout=_SECONDS)) as database:
            database.execute("begin")
            rows = database.execute(_VERSIONS, [name]).fetchall()
            tags = [dict(database.execute(_VERSION_TAGS, row[:2]).fetchall()) for row in rows]
        return VersionPage(
            StoredVersion(row[0], str(row[1]), row[2], row[3], row_tags)
            for row, row_tags in zip(rows, tags, strict=True)
        )


class _RestRows:
    """The answers of an MLflow server."""

    def __init__(self, uri: str) -> None:
        self._uri = f"{uri}/api/2.0/mlflow"

    def get_experiment_by_name(self, name: str) -> StoredExperiment | None:
        try:
            item = self._get("experiments/get-by-name", experiment_name=name)["experiment"]
        except MissingError:
            return None
        return StoredExperiment(str(item["experiment_id"]), item["name"], item["lifecycle_stage"], _tags(item))

    def get_registered_model(self, name: str) -> StoredModel:
        aliases = self._get("registered-models/get", name=name)["registered_model"].get("aliases", [])
        return StoredModel(name, {item["alias"]: str(item["version"]) for item in aliases})

    def get_model_version_by_alias(self, name: str, alias: str) -> StoredVersion:
        return _stored_version(self._get("registered-models/alias", name=name, alias=alias)["model_version"])

    def get_model_version(self, name: str, version: str) -> StoredVersion:
        return _stored_version(self._get("model-versions/get", name=name, version=version)["model_version"])

    def search_model_versions(self, filter_string: str, page_token: str | None = None) -> VersionPage:
        versions = VersionPage()
        token = page_token
        while True:
            page = self._get("model-versions/search", filter=filter_string, page_token=token)
            versions += [_stored_version(item) for item in page.get("model_versions", [])]
            token = page.get("next_page_token")
            if not token:
                return versions

    def _get(self, path: str, **query: str | None) -> dict[str, Any]:
        encoded = urllib.parse.urlencode({key: value for key, value in query.items() if value})
        try:
            with urllib.request.urlopen(f"{self._uri}/{path}?{encoded}", timeout=_SECONDS) as answer:
                content: dict[str, Any] = json.load(answer)
                return content
        except urllib.error.HTTPError as error:
            if _error_code(error) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise MissingError(path) from None
            raise


def _error_code(error: urllib.error.HTTPError) -> str | None:
    """Read MLflow's code of an error; None where a proxy answered something else."""
    try:
        content = json.load(error)
    except ValueError:
        return None
    return content.get("error_code") if isinstance(content, dict) else None


def _stored_version(item: Mapping[str, Any]) -> StoredVersion:
    return StoredVersion(item["name"], str(item["version"]), item.get("run_id"), item["source"], _tags(item))


def _tags(item: Mapping[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in item.get("tags", [])}
