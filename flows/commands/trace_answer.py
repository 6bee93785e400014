"""`potstill trace`: every hop from an answer to the commit, each verified now."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from flows.engine.champions import open_registry
from flows.json_output import print_json
from potstill.artifacts import MANIFEST, lineage_sum, read_json
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import ChecksumError, RegistryError
from potstill.inference.window_store import ANSWERS, COUNTS, candidate_location, open_store
from potstill.paths import PARAMS, SERVING
from potstill.registry.ledger import Line
from potstill.registry.lineage_trace import Hop, NotHereError, hop, trace_version
from potstill.registry.promotion import Registry
from potstill.serving.launch import bento_path
from potstill.serving.release import SETTINGS, verify_seal


@dataclass(frozen=True)
class _Origin:
    """The origin of an answer: the ledger's line of the Bento, and how it was found."""

    line: Line
    sentence: str
    lineage_sum: str | None = None


def show(workspace: Path, identifier: str, folder: str | None, *, as_json: bool) -> None:
    """Print every hop from an answer to the commit.

    Args:
        workspace: the current folder.
        identifier: a version, a Bento's tag, a request id, or the header X-Lineage-Sum or X-Model-Version of an answer.
        folder: where services write, a path or a URL; `watch.folder` when None.
        as_json: whether to print JSON.

    Raises:
        RegistryError: the registry does not know it, or a hop fails.
        ChecksumError: a hop fails because bytes are not what they were.
    """
    params = load_params(workspace / PARAMS)
    registry = open_registry(workspace, params, read_only=True)
    origin = _find(registry, params, identifier, folder)
    version = registry.get(origin.line.facts["version"])
    hops = [
        Hop("answer", "verified", origin.sentence),
        hop("Bento", lambda: _bento(origin)),
        *trace_version(registry, version, workspace),
    ]
    if as_json:
        print_json([item.to_json() for item in hops])
    else:
        print("\n".join(f"{item.name:<11} {item.state:<9} {item.sentence}" for item in hops))
    broken = next((item for item in hops if item.error is not None), None)
    if broken is not None and broken.error is not None:
        raise type(broken.error)(f"the trace of {identifier} breaks at the hop {broken.name}: {broken.error}")


def _find(registry: Registry, params: Params, identifier: str, folder: str | None) -> _Origin:
    """Find the newest registration that something belongs to."""
    lines = [line for line in registry.ledger.lines() if line.action == "register" and line.state == "done"]
    lines.reverse()
    if identifier.isdecimal() or registry.by_alias(identifier) is not None:
        number = registry.get(identifier).version
        return _first(lines, "version", number, identifier, f"version {number}")
    if ":" in identifier:
        return _first(lines, "bento", identifier, identifier, f"Bento {identifier}")
    if re.fullmatch(r"[0-9a-f]{64}", identifier):
        key = "candidate" if any(line.facts["candidate"] == identifier for line in lines) else "lineage"
        origin = _first(lines, key, identifier, identifier, f"{key} {identifier}")
        return _Origin(origin.line, origin.sentence, identifier if key == "lineage" else None)
    if match := re.fullmatch(r"([0-9a-f]{12})-(int8|fp32)", identifier):
        candidate = next(
            (line.facts["candidate"] for line in lines if line.facts["candidate"].startswith(match[1])), ""
        )
        return _first(lines, "candidate", candidate, identifier, f"model {identifier}")
    return _find_request(registry, params, lines, identifier, folder)


def _first(lines: list[Line], key: str, value: str, identifier: str, sentence: str) -> _Origin:
    line = next((line for line in lines if line.facts.get(key) == value), None)
    if line is None:
        raise RegistryError(
            f"the registry knows no {key} {identifier}; name a version, a Bento's tag, a request id, or the header "
            "X-Lineage-Sum or X-Model-Version of an answer"
        )
    return _Origin(line, sentence)


def _find_request(registry: Registry, params: Params, lines: list[Line], request: str, folder: str | None) -> _Origin:
    """Find the window of a service that has an answer to a request."""
    location = folder or params.watch.folder
    if location is None:
        raise RegistryError(f"{request} may be a request id, but watch.folder is null; name the folder with --folder")
    if "://" not in location:
        location = str(registry.workspace.resolve() / location)
    for candidate in dict.fromkeys(line.facts["candidate"] for line in lines):
        store = open_store(candidate_location(location, candidate))
        for name in reversed([name for name in store.names() if name.endswith(ANSWERS)]):
            text = store.read(name)
            if request in text and any(json.loads(row).get("request_id") == request for row in text.splitlines()):
                window = json.loads(store.read(name.removesuffix(ANSWERS) + COUNTS))
                origin = _first(lines, "bento", window["bento"], str(window["bento"]), "")
                return _Origin(origin.line, f"request {request}, in {store}/{name}, answered by {window['bento']}")
    raise RegistryError(
        f"no service has written an answer with the request id {request} to {location}; it may be in a window that is "
        "not finished, or removed (watch.keep_windows)"
    )


def _bento(origin: _Origin) -> str:
    """Verify the Bento in BentoML's store; the registry's copy is verified with the version."""
    tag: str = origin.line.facts["bento"]
    path = bento_path(tag)
    if not path.exists():
        raise NotHereError(f"{tag} is not in BentoML's store; `potstill fetch` brings it from the registry")
    verify_seal(path)
    serving = path / "src" / SERVING
    settings = path / "src" / SETTINGS
    if origin.lineage_sum is not None and settings.exists():
        files = read_json(serving / MANIFEST)["files"]
        current = lineage_sum(origin.line.facts["candidate"], files, read_json(settings)["git_commit"])
        if current != origin.lineage_sum:
            raise ChecksumError(f"Bento {tag} has the lineage sum {current} and not {origin.lineage_sum}")
    return f"{tag}, every file in {path} is as packaged"
