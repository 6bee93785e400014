"""How Prefect shows what came of a run or of one of its steps: by a state with a name of its own and one sentence.

A decision about a candidate, a workspace that another run holds and a tick with nothing to do are no failures, so none
of them is FAILED; what a user can cause is FAILED without a traceback.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from potstill.errors import ApprovalPendingError, BusyError, GateRefusedError, PotstillError
from potstill.registry.steps import VetoedError

# What ends a run without being a failure -> the name of its state.
DECISIONS: dict[type[PotstillError], str] = {
    GateRefusedError: "Refused",
    ApprovalPendingError: "ApprovalPending",
    VetoedError: "Vetoed",
    BusyError: "Busy",
}


@dataclass(frozen=True)
class Outcome:
    """How a run ended that nothing stopped: the name of its state, and a sentence."""

    name: str
    sentence: str

    @property
    def state(self) -> State[PotstillError | None]:
        """The state that Prefect shows."""
        return Completed(name=self.name, message=self.sentence)


def state_of(error: PotstillError) -> State[PotstillError | None]:
    """The state of a run or step that an error ended; its data is the error."""
    name = next((name for kind, name in DECISIONS.items() if isinstance(error, kind)), None)
    if name is None:
        return Failed(message=str(error), data=error)
    return Completed(name=name, message=str(error), data=error)


class Sentences(logging.Filter):
    """Has Prefect log an error of ours by its sentence; a traceback is for what nobody expected."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record; take the traceback off those of our own errors."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, PotstillError):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


def log_sentences() -> None:
    """Put the filter on Prefect's loggers of runs, once a process."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, Sentences) for each in logger.filters):
            logger.addFilter(Sentences())
