"""The right to change a project's registry: one holder at a time, whatever machine it is on.

MLflow lets two writers of an alias both succeed. What it does once only, on every store, is to create an experiment of
a given name. A lease is such a name with a number, `<project>.lease.<number>`: number n + 1 may be created once n has
been released or its holder has ended. Numbers only rise, so each holder's number tells it from all before (a fence).
The holder renews a counter; a contender that has seen the counter unchanged for `EXPIRE_SECONDS` of its own clock takes
over, so no two clocks are compared. A holder on the contender's own machine that has ended is seen at once.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.compute.processes import hold
from potstill.errors import BusyError
from potstill.paths import REGISTRY_LOCK
from potstill.registry.process_identity import Identity, read_identity, this_process
from potstill.registry.tracking import client, create_experiment

if TYPE_CHECKING:
    from mlflow.entities import Experiment

RENEW_SECONDS = 2.0
EXPIRE_SECONDS = 8.0
# A holder that could not renew for so long writes nothing more: less than what a contender waits before it takes over.
FRESH_SECONDS = 5.0
WAIT_SECONDS = 30.0
# Between two looks of a contender; more means that the store did not answer.
GAP_SECONDS = 3.0
_HOLDER, _TOKEN, _BEAT, _RELEASED = "potstill.holder", "potstill.token", "potstill.beat", "potstill.released"
_NOTE = "Potstill keeps the newest of these: by it, machines take turns in changing the registry of {project}."


class Lease:
    """A lease that is held.

    Attributes:
        number: the fence: higher than that of every holder before.
    """

    def __init__(self, leases: _Leases, number: int, experiment: str) -> None:
        self.number = number
        self._leases, self._experiment = leases, experiment
        self._mutex = threading.Lock()
        self._beats = 0
        self._confirmed = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure, before a write, that the lease is still held.

        Raises:
            BusyError: another process has taken over, or the store could not be asked for too long.
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
        """Let the next one in. Where the store does not take it, the lease expires by itself."""
        self._ended.set()
        self._thread.join()
        with suppress(Exception):
            self._leases.store.set_experiment_tag(self._experiment, _RELEASED, "yes")

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            with suppress(Exception):  # a store that is away for a moment; `check` decides whether it was too long
                self._renew()

    def _renew(self) -> None:
        from mlflow.exceptions import MlflowException

        with self._mutex:
            begin = time.monotonic()
            self._beats += 1
            try:
                self._leases.store.set_experiment_tag(self._experiment, _BEAT, str(self._beats))
            except MlflowException:  # an answer of the store: who took over has deleted it
                self._confirmed = -math.inf
                return
            newest = self._leases.newest()
            mine = newest is not None and newest.experiment_id == self._experiment
            self._confirmed = begin if mine else -math.inf


@contextmanager
def hold_lease(workspace: Path, project: str, action: str) -> Iterator[Lease]:
    """Hold the lease of a project's registry.

    Args:
        workspace: the workspace.
        project: name of the project.
        action: what it is held for; a contender that gives up names it.

    Raises:
        BusyError: others have held it for 30 s.
    """
    end = time.monotonic() + WAIT_SECONDS
    # Processes of one workspace wait for each other here and spare the store their questions.
    with hold(workspace / REGISTRY_LOCK, what="a change of the registry", wait_seconds=WAIT_SECONDS):
        held = _Leases(workspace, project).acquire(action, end)
        try:
            yield held
        finally:
            held.release()


class _Leases:
    """The leases of one project in MLflow's store."""

    def __init__(self, workspace: Path, project: str) -> None:
        self.workspace, self.project = workspace, project
        self.store = client(workspace)
        self._prefix = f"{project}.lease."

    def newest(self) -> Experiment | None:
        """The newest lease there ever was; one that was deleted still takes its name."""
        from mlflow.entities import ViewType

        found = self.store.search_experiments(
            view_type=ViewType.ALL, max_results=1, filter_string=f"name LIKE '{self._prefix}%'", order_by=["name DESC"]
        )
        return found[0] if found else None

    def acquire(self, action: str, end: float) -> Lease:
        """Wait for the lease until a time of `time.monotonic()`.

        Raises:
            BusyError: it was not free by then.
        """
        watch, pause = _Watch(), 0.05
        while True:
            newest = self.newest()
            if newest is None or watch.is_free(newest):
                held = self._create(1 if newest is None else self._number(newest) + 1, action)
                if held is not None:
                    if newest is not None and newest.lifecycle_stage == "active":
                        with suppress(Exception):  # tidying up; the next holder tries again
                            self.store.delete_experiment(newest.experiment_id)
                    return held
            elif time.monotonic() > end:
                raise BusyError(f"{_describe(newest)} is changing the registry of {self.project}; run again")
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(1.0, 1.5 * pause)

    def _create(self, number: int, action: str) -> Lease | None:
        """The lease of that number, or None where another process was first."""
        from mlflow.exceptions import MlflowException

        token, name = uuid.uuid4().hex, f"{self._prefix}{number:08d}"
        tags = {
            _HOLDER: json.dumps({**this_process().to_json(), "action": action}),
            _TOKEN: token,
            _BEAT: "0",
            "mlflow.note.content": _NOTE.format(project=self.project),
        }
        try:
            create_experiment(self.workspace, name, tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # An answer that was lost on the way is asked for again by MLflow's client, which then meets its own name.
        newest = self.newest()
        if newest is None or newest.name != name or newest.tags.get(_TOKEN) != token:
            return None
        return Lease(self, number, str(newest.experiment_id))

    def _number(self, lease: Experiment) -> int:
        return int(lease.name.removeprefix(self._prefix))


class _Watch:
    """What a contender has seen of the present lease, and since when by its own clock."""

    def __init__(self) -> None:
        self._seen: tuple[str, str | None] | None = None
        self._since = 0.0
        self._looked = 0.0

    def is_free(self, lease: Experiment) -> bool:
        """Whether the lease was given back, its holder has ended, or its counter has stood still for too long."""
        if _RELEASED in lease.tags or lease.lifecycle_stage != "active":
            return True
        holder = _holder(lease)
        if holder is not None and holder.has_ended():
            return True
        seen, now = (str(lease.name), lease.tags.get(_BEAT)), time.monotonic()
        # While the store was away nobody could renew: the wait begins anew.
        if seen != self._seen or now - self._looked > GAP_SECONDS:
            self._seen = seen
            self._since = now
        self._looked = now
        return now - self._since > EXPIRE_SECONDS


def _facts(lease: Experiment) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(lease.tags.get(_HOLDER, "{}"))
    except ValueError:
        return {}
    return facts


def _holder(lease: Experiment) -> Identity | None:
    return read_identity({key: value for key, value in _facts(lease).items() if key != "action"})


def _describe(lease: Experiment) -> str:
    holder = _holder(lease)
    if holder is None:
        return "another process"
    return f"process {holder.pid} of {holder.name} ({_facts(lease).get('action', 'unknown')})"
