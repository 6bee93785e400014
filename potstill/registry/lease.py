"""The lease on a project's registry: one holder at a time, across all machines.

MLflow lets two writers of an alias both succeed. But every store creates an experiment of a given name only once. A
lease is an experiment with a numbered name, `<project>.lease.<number>`: number n + 1 may be created when n has been
released or its holder has ended. Numbers only rise, so the number of a holder is a fence against all earlier ones.

The holder renews a counter. A contender that has seen the counter unchanged for `EXPIRE_SECONDS` by its own clock takes
over, so no two clocks are compared. A contender on the holder's machine notices at once that the holder has ended.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.compute.processes import hold
from potstill.errors import BusyError
from potstill.paths import REGISTRY_LOCK
from potstill.registry.process_identity import Identity, read_identity, this_process
from potstill.registry.store_calls import suppress_answers
from potstill.registry.tracking import client, create_experiment

if TYPE_CHECKING:
    from mlflow.entities import Experiment

RENEW_SECONDS = 2.0
EXPIRE_SECONDS = 8.0
# A holder that could not renew for this long stops writing. It is shorter than a contender's wait before it takes over.
FRESH_SECONDS = 5.0
WAIT_SECONDS = 30.0
# The longest time between two looks of a contender; a longer one means that the store did not answer.
GAP_SECONDS = 3.0
_HOLDER, _TOKEN, _BEAT, _RELEASED = "potstill.holder", "potstill.token", "potstill.beat", "potstill.released"
_NOTE = "The lock by which machines take turns in changing the registry of {project}. Potstill keeps the newest only."


class Lease:
    """A held lease.

    Attributes:
        number: the fence, higher than that of every earlier holder.
    """

    def __init__(self, leases: _Leases, number: int, experiment: str) -> None:
        self.number = number
        self._leases = leases
        self._experiment = experiment
        self._mutex = threading.Lock()
        self._beats = 0
        self._confirmed = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew_until_released, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check before a write that the lease is still held.

        Raises:
            BusyError: another process has taken over, or the store has not answered for too long.
        """
        if time.monotonic() - self._confirmed > RENEW_SECONDS / 2:
            self._renew()
        if time.monotonic() - self._confirmed > FRESH_SECONDS:
            raise BusyError(
                f"another process has taken over changing the registry of {self._leases.project}, since this one was "
                "silent for too long; what it had begun is finished or undone by whoever changes the registry next; "
                "run again"
            )

    def release(self) -> None:
        """Release the lease. If the store does not answer, the lease expires."""
        self._ended.set()
        self._thread.join()
        with suppress(Exception):
            self._leases.store.set_experiment_tag(self._experiment, _RELEASED, "yes")

    def _renew_until_released(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(Exception):  # a short outage of the store; `check` decides whether it was too long
                self._renew()

    def _renew(self) -> None:
        from mlflow.exceptions import MlflowException

        with self._mutex:
            begin = time.monotonic()
            self._beats += 1
            try:
                self._leases.store.set_experiment_tag(self._experiment, _BEAT, str(self._beats))
            except MlflowException:  # the new holder has deleted the experiment
                self._confirmed = -math.inf
                return
            newest = self._leases.newest()
            is_held = newest is not None and newest.experiment_id == self._experiment
            self._confirmed = begin if is_held else -math.inf


@contextmanager
def hold_lease(workspace: Path, project: str, action: str) -> Iterator[Lease]:
    """Hold the lease on a project's registry inside the context.

    Args:
        workspace: the workspace.
        project: name of the project.
        action: purpose, which a contender that gives up names.

    Raises:
        BusyError: other processes have held it for 30 s.
    """
    end = time.monotonic() + WAIT_SECONDS
    # Processes of one workspace wait for each other on this lock and do not poll the store.
    with hold(workspace / REGISTRY_LOCK, what="a change of the registry", wait_seconds=WAIT_SECONDS):
        lease = _Leases(workspace, project).acquire(action, end)
        try:
            yield lease
        finally:
            lease.release()


class _Leases:
    """The leases of one project in MLflow's store."""

    def __init__(self, workspace: Path, project: str) -> None:
        self.workspace = workspace
        self.project = project
        self.store = client(workspace)
        self._prefix = f"{project}.lease."

    def newest(self) -> Experiment | None:
        """Find the newest lease, deleted ones included, since their names stay taken."""
        from mlflow.entities import ViewType

        leases = self.store.search_experiments(
            view_type=ViewType.ALL, max_results=1, filter_string=f"name LIKE '{self._prefix}%'", order_by=["name DESC"]
        )
        return leases[0] if leases else None

    def acquire(self, action: str, end: float) -> Lease:
        """Wait for the lease until a time by `time.monotonic()`.

        Raises:
            BusyError: it was not free by then.
        """
        watch = _Watch()
        pause = 0.05
        while True:
            newest = self.newest()
            if newest is None or watch.is_free(newest):
                lease = self._create(1 if newest is None else self._number(newest) + 1, action)
                if lease is not None:
                    if newest is not None and newest.lifecycle_stage == "active":
                        with suppress(Exception):  # a later holder tries again
                            self.store.delete_experiment(newest.experiment_id)
                    return lease
            elif time.monotonic() > end:
                raise BusyError(f"{_describe(newest)} is changing the registry of {self.project}; run again")
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(1.0, 1.5 * pause)

    def _create(self, number: int, action: str) -> Lease | None:
        """Create the lease with a number; None if another process was first."""
        token = uuid.uuid4().hex
        name = f"{self._prefix}{number:08d}"
        tags = {
            _HOLDER: json.dumps({**asdict(this_process()), "action": action}),
            _TOKEN: token,
            _BEAT: "0",
            "mlflow.note.content": _NOTE.format(project=self.project),
        }
        with suppress_answers("RESOURCE_ALREADY_EXISTS"):
            create_experiment(self.workspace, name, tags)
        # MLflow's client repeats a request whose answer was lost, and then finds the name taken by itself.
        newest = self.newest()
        if newest is None or newest.name != name or newest.tags.get(_TOKEN) != token:
            return None
        return Lease(self, number, str(newest.experiment_id))

    def _number(self, lease: Experiment) -> int:
        return int(lease.name.removeprefix(self._prefix))


class _Watch:
    """A contender's observations of the present lease, timed by its own clock."""

    def __init__(self) -> None:
        self._state: tuple[str, str | None] | None = None
        self._unchanged_since = 0.0
        self._last_look = 0.0

    def is_free(self, lease: Experiment) -> bool:
        """Whether the lease was released, its holder has ended, or its counter has not changed for too long."""
        if _RELEASED in lease.tags or lease.lifecycle_stage != "active":
            return True
        holder, _ = _holder(lease)
        if holder is not None and holder.has_ended():
            return True
        state = (str(lease.name), lease.tags.get(_BEAT))
        now = time.monotonic()
        # During an outage of the store the holder could not renew either: the wait starts again.
        if state != self._state or now - self._last_look > GAP_SECONDS:
            self._state = state
            self._unchanged_since = now
        self._last_look = now
        return now - self._unchanged_since > EXPIRE_SECONDS


def _holder(lease: Experiment) -> tuple[Identity | None, str]:
    """Read who holds a lease, None if the tag is not valid, and for what."""
    facts: dict[str, Any] = {}
    with suppress(ValueError):
        facts = json.loads(lease.tags.get(_HOLDER, "{}"))
    action = facts.pop("action", "unknown")
    return read_identity(facts), action


def _describe(lease: Experiment) -> str:
    holder, action = _holder(lease)
    return f"process {holder.pid} of {holder.name} ({action})" if holder else "another process"
