"""The promotion ledger: every step towards the champion is written down before it is taken.

`mlartifacts/ledger.jsonl`, beside the registry's artifacts: append-only JSON lines, each flushed to the disk before the
step it announces. An intent opens with `state: open` and closes with `done` or `undone`; one that is open at the next
start was cut off by a crash, and `potstill.registry.promotion.reconcile` finishes or undoes it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.errors import RegistryError
from potstill.processes import hold
from potstill.registry.tracking import ARTIFACTS

LEDGER = ARTIFACTS / "ledger.jsonl"
LOCK = ARTIFACTS / ".lock"


@dataclass(frozen=True)
class Intent:
    """A step that has been announced."""

    id: str
    action: str
    facts: dict[str, Any]


class Ledger:
    """The append-only ledger of a workspace. Writers hold `locked()`."""

    def __init__(self, workspace: Path) -> None:
        self._path = workspace / LEDGER
        self._lock = workspace / LOCK

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer of ledger and aliases at a time (flock): MLflow lets two writers of an alias both succeed.

        Raises:
            BusyError: another process has been writing for more than 30 s.
        """
        with hold(self._lock, what="a change of the registry", wait_seconds=30):
            yield

    def open(self, action: str, **facts: Any) -> Intent:
        """Announce a step; returns once the line is on the disk."""
        intent = Intent(uuid.uuid4().hex, action, facts)
        self._append({"intent": intent.id, "state": "open", "action": action, **facts})
        return intent

    def close(self, intent: Intent, state: str, **facts: Any) -> None:
        """Note that a step is `done` or `undone`."""
        self._append({"intent": intent.id, "state": state, "action": intent.action, **facts})

    def note(self, action: str, **facts: Any) -> None:
        """A fact without steps, such as a veto."""
        self._append({"intent": uuid.uuid4().hex, "state": "done", "action": action, **facts})

    def lines(self) -> list[dict[str, Any]]:
        """All whole lines, oldest first; the torn end that a crash can leave is not one.

        Raises:
            RegistryError: a line before the end is not JSON: the file was edited.
        """
        if not self._path.exists():
            return []
        whole = self._path.read_bytes().rpartition(b"\n")[0]
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise RegistryError(f"{self._path} is damaged: {error}; restore it from a backup") from error

    def pending(self) -> list[Intent]:
        """Intents that were opened and never closed."""
        left: dict[str, Intent] = {}
        for line in self.lines():
            if line["state"] == "open":
                facts = {key: value for key, value in line.items() if key not in {"intent", "state", "action", "time"}}
                left[line["intent"]] = Intent(line["intent"], line["action"], facts)
            else:
                left.pop(line["intent"], None)
        return list(left.values())

    def last_champion(self) -> str | None:
        """The version the ledger says is champion: the last one promoted and not vetoed since."""
        champion: str | None = None
        for line in self.lines():
            if line["action"] == "promote" and line["state"] == "done":
                champion = line["version"]
            elif line["action"] == "veto" and line["state"] == "done" and line["version"] == champion:
                champion = line.get("restored")
        return champion

    def _append(self, line: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        with os.fdopen(descriptor, "r+b") as handle:
            whole = handle.read().rfind(b"\n") + 1
            handle.truncate(whole)
            handle.seek(whole)
            handle.write(json.dumps({"time": stamp, **line}, ensure_ascii=False, sort_keys=True).encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
