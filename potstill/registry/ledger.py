"""The promotion ledger: an append-only, hash-chained log in which every step is announced before it is taken.

The ledger is the experiment `<project>.ledger` of MLflow's store, so that all machines read one history. A line is a
tag of that experiment: its key has the line's number and digest, its value is JSON with the digest of the previous
line. Lines are never changed, and the digests reveal one that was edited or removed. A holder of the lease that was
silent for too long can write a second line with the same number; the line of the later holder counts.

An intent opens with `state: open` and closes with `done` or `undone`. Only the holder of the lease writes. An intent
that is still open for the next holder was therefore interrupted, and that holder finishes or undoes it.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.artifacts import sha256_text
from potstill.errors import RegistryError
from potstill.registry.process_identity import this_process
from potstill.registry.tracking import client, experiment_id

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from potstill.registry.lease import Lease

START = "0" * 64
# A tag of an experiment takes 5,000 characters; the other fields of a line need the rest.
_REASON_CHARACTERS = 1000

_KEY = re.compile(r"potstill\.ledger\.(\d{8})\.([0-9a-f]{16})")
# Number and digest of the newest line: without it, nobody would miss a line that is taken from the end. It is written
# after the line, so it may be one line late; a holder that lost its lease may set it to a line that does not count.
_HEAD = "potstill.ledger.head"
# A sentence has the first digits of a checksum, as everywhere a person reads one.
_SHA256 = re.compile(r"\b[0-9a-f]{64}\b")
_NOTE = "mlflow.note.content"
_SHOWN = 20


@dataclass(frozen=True)
class Line:
    """One line of the ledger.

    Attributes:
        number: from 1, without gaps.
        previous: digest of the previous line.
        fence: number of the lease under which it was written.
        intent: number of the line that announced the step; for that line itself its own number.
        state: `open`, `done` or `undone`.
        action: name of the step, such as `promote`.
        time: time in UTC.
        by: author, as `user@host`.
        facts: details of the step.
        digest: sha256 of the line as it is stored.
    """

    number: int
    previous: str
    fence: int
    intent: int
    state: str
    action: str
    time: str
    by: str
    facts: dict[str, Any]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """The line as plain values, with the reason and the version next to who wrote it."""
        facts = {key: value for key, value in self.facts.items() if key not in ("version", "reason")}
        return {
            "number": self.number,
            "time": self.time,
            "by": self.by,
            "action": self.action,
            "state": self.state,
            "version": self.facts.get("version"),
            "reason": self.facts.get("reason"),
            "facts": facts,
            "digest": self.digest,
        }

    @property
    def sentence(self) -> str:
        """The line in readable form."""
        values = {key: str(value) for key, value in self.facts.items() if isinstance(value, (str, int))}
        facts = ", ".join(f"{key} {_SHA256.sub(_first_digits, value)}" for key, value in values.items())
        return f"{self.number:>5}  {self.time}  {self.by}  {self.action} {self.state}: {facts}"


class Ledger:
    """The ledger of a project; a writer has to hold the lease."""

    def __init__(self, workspace: Path, project: str, store: MlflowClient | None = None) -> None:
        self._workspace = workspace
        self._store = store
        self.name = f"{project}.ledger"
        self._experiment: str | None = None

    def lines(self) -> list[Line]:
        """Read all lines, oldest first, and check their digests.

        Raises:
            RegistryError: a line was edited or removed.
        """
        store = client(self._workspace) if self._store is None else self._store
        experiment = store.get_experiment_by_name(self.name)
        if experiment is None:
            return []
        if experiment.lifecycle_stage == "active":
            self._experiment = str(experiment.experiment_id)
        lines = [_read_line(key, value) for key, value in experiment.tags.items()]
        return self._chain([line for line in lines if line is not None], experiment.tags.get(_HEAD, ""))

    def append(self, lines: list[Line], lease: Lease, line: dict[str, Any]) -> Line:
        """Append a line and return it.

        Args:
            lines: the ledger so far, as `lines()` returned it under this lease; the new line is added to the list.
            lease: the writer's lease, which is checked first.
            line: `state`, `action` and `facts`, and `intent` if the line closes one.

        Raises:
            BusyError: the lease was lost.
        """
        number = len(lines) + 1
        content = {
            "number": number,
            "previous": lines[-1].digest if lines else START,
            "fence": lease.number,
            "intent": number,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "by": this_process().name,
            **line,
        }
        value = json.dumps(content, ensure_ascii=False, sort_keys=True, allow_nan=False)
        new_line = Line(**content, digest=sha256_text(value))
        lease.check()
        if self._experiment is None:
            self._experiment = experiment_id(self._workspace, self.name)
        experiment = self._experiment
        store = client(self._workspace)
        store.set_experiment_tag(experiment, f"potstill.ledger.{number:08d}.{new_line.digest[:16]}", value)
        store.set_experiment_tag(experiment, _HEAD, f"{number} {new_line.digest}")
        lines.append(new_line)
        if new_line.state != "open":
            with suppress(Exception):  # the note is for readers of MLflow's page only
                store.set_experiment_tag(experiment, _NOTE, _note(lines))
        return new_line

    def _chain(self, stored: list[Line], head: str = "") -> list[Line]:
        """Follow the chain of digests back from the newest line of the latest holder.

        Args:
            stored: all lines of the experiment.
            head: the tag that names the newest line; empty in a ledger of an older Potstill.
        """
        by_digest = {line.digest: line for line in stored}
        number, _, digest = head.partition(" ")
        if head and digest not in by_digest:
            raise RegistryError(
                f"line {number} of the ledger (MLflow's experiment {self.name}) was taken away or edited; "
                "restore MLflow's store from a backup"
            )
        line = max(stored, key=lambda line: (line.number, line.fence), default=None)
        chain: list[Line] = []
        while line is not None:
            chain.append(line)
            if line.number == 1 and line.previous == START:
                break
            previous = by_digest.get(line.previous)
            if previous is None or previous.number != line.number - 1:
                raise RegistryError(
                    f"line {line.number - 1} of the ledger (MLflow's experiment {self.name}) was taken away or edited; "
                    "restore MLflow's store from a backup"
                )
            line = previous
        return chain[::-1]


def _first_digits(checksum: re.Match[str]) -> str:
    return checksum[0][:12]


def clean_reason(reason: str) -> str:
    """Clean a reason for the ledger and MLflow's tags: one line, limited length, valid Unicode without NUL."""
    text = " ".join(reason.encode("utf-8", "replace").decode().replace("\0", " ").split())
    return text[:_REASON_CHARACTERS]


def _read_line(key: str, value: str) -> Line | None:
    """Read a tag as a line; None if the tag is not a line."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    digest = sha256_text(value)
    try:
        line = Line(**json.loads(value), digest=digest)
    except (ValueError, TypeError):
        line = None
    if line is None or digest[:16] != match[2] or line.number != int(match[1]):
        raise RegistryError(
            f"line {int(match[1])} of the ledger was edited (tag {key} of its experiment in MLflow); restore MLflow's "
            "store from a backup"
        )
    return line


def _note(lines: list[Line]) -> str:
    """Write the note of the experiment on MLflow's page: the newest lines."""
    newest = "\n".join(line.sentence[:200] for line in lines[: -_SHOWN - 1 : -1])
    return f"The newest lines of Potstill's ledger; `potstill history` shows all.\n\n```\n{newest}\n```"
