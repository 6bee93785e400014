"""The promotion ledger: every step towards the champion is written down before it is taken.

It lives with the registry, as the experiment `<project>.ledger` of MLflow's store, so that all machines read one
history. A line is a tag of that experiment: its key names the line's number and the sum of its content, its value is
JSON with the sum of the line before. Lines are only ever added, and the sums detect one that was edited or taken away.
A holder of the lease that was silent for too long can leave a second line of a number: the later holder's counts.

An intent opens with `state: open` and closes with `done` or `undone`. Only the lease's holder writes, so an intent that
is open when the next holder comes was cut off, and that holder finishes or undoes it.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import RegistryError
from potstill.registry.process_identity import this_process
from potstill.registry.tracking import client, experiment_id

if TYPE_CHECKING:
    from potstill.registry.lease import Lease

START = "0" * 64
# A tag of an experiment takes 5,000 characters; the rest is for the line's own fields.
_REASON_CHARACTERS = 1000

_KEY = re.compile(r"potstill\.ledger\.(\d{8})\.([0-9a-f]{16})")
_NOTE = "mlflow.note.content"
_SHOWN = 20


@dataclass(frozen=True)
class Line:
    """One line of the ledger.

    Attributes:
        number: from 1, without gaps.
        previous: sum of the line before.
        fence: number of the lease under which it was written.
        intent: number of the line that announced the step; its own for that line.
        state: `open`, `done` or `undone`.
        action: such as `promote`.
        time: when, in UTC.
        by: who, as `user@host`.
        facts: what the step is about.
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

    @property
    def sentence(self) -> str:
        """The line for people, on one line."""
        facts = ", ".join(f"{key} {value}" for key, value in self.facts.items() if isinstance(value, (str, int)))
        return f"{self.number:>5}  {self.time}  {self.by}  {self.action} {self.state}: {facts}"


class Ledger:
    """The ledger of a project; writers hold its lease."""

    def __init__(self, workspace: Path, project: str) -> None:
        self._workspace = workspace
        self.name = f"{project}.ledger"
        self._experiment: str | None = None

    def lines(self) -> list[Line]:
        """All lines, oldest first, with their sums checked.

        Raises:
            RegistryError: a line was edited or taken away.
        """
        experiment = client(self._workspace).get_experiment_by_name(self.name)
        if experiment is None:
            return []
        if experiment.lifecycle_stage == "active":
            self._experiment = str(experiment.experiment_id)
        stored = [_read(key, value) for key, value in experiment.tags.items()]
        return self._chain([line for line in stored if line is not None])

    def append(self, lines: list[Line], lease: Lease, line: dict[str, Any]) -> Line:
        """Add a line after `lines`, which are those that `lines()` gave under this lease, and return it.

        Args:
            lines: the ledger so far; the new line is added to the list too.
            lease: which the writer holds; it is checked first.
            line: `state`, `action`, `facts`, and `intent` where the line closes one.

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
        made = Line(**content, digest=_sum(value))
        lease.check()
        if self._experiment is None:
            self._experiment = experiment_id(self._workspace, self.name)
        experiment = self._experiment
        store = client(self._workspace)
        store.set_experiment_tag(experiment, f"potstill.ledger.{number:08d}.{made.digest[:16]}", value)
        lines.append(made)
        if made.state != "open":
            with suppress(Exception):  # for people alone
                store.set_experiment_tag(experiment, _NOTE, _page(lines))
        return made

    def _chain(self, stored: list[Line]) -> list[Line]:
        """The lines that follow from each other up to the newest of the latest holder."""
        by_digest = {line.digest: line for line in stored}
        line = max(stored, key=lambda line: (line.number, line.fence), default=None)
        chain: list[Line] = []
        while line is not None:
            chain.append(line)
            if line.number == 1 and line.previous == START:
                break
            before = by_digest.get(line.previous)
            if before is None or before.number != line.number - 1:
                raise RegistryError(
                    f"line {line.number - 1} of the ledger (MLflow's experiment {self.name}) was taken away or edited; "
                    "restore MLflow's store from a backup"
                )
            line = before
        return chain[::-1]


def clean_reason(reason: str) -> str:
    """A reason as the ledger and MLflow's tags take it: on one line, not too long, without bytes that are no text."""
    text = " ".join(reason.encode("utf-8", "replace").decode().replace("\0", " ").split())
    return text[:_REASON_CHARACTERS]


def _read(key: str, value: str) -> Line | None:
    """A stored tag as a line; None for a tag that is none."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    digest = _sum(value)
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


def _sum(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def _page(lines: list[Line]) -> str:
    """What MLflow's page of the experiment shows: the newest lines."""
    shown = "\n".join(line.sentence[:200] for line in lines[: -_SHOWN - 1 : -1])
    return f"The newest lines of Potstill's ledger; `potstill history` shows all.\n\n```\n{shown}\n```"
