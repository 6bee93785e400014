"""Prefect states for the outcome of a run or step: a name of their own and one sentence.

Three outcomes are no failures and so not FAILED: a decision about a candidate, a workspace that another run holds, and
a scheduled run with nothing to do. An error that a user can cause is FAILED without a traceback.
"""

from __future__ import annotations

import logging

from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from potstill.errors import ApprovalPendingError, BusyError, GateRefusedError, PotstillError
from potstill.registry.steps import VetoedError

# Error that ends a run without being a failure -> the name of its state.
DECISIONS: dict[type[PotstillError], str] = {
    GateRefusedError: "Refused",
    ApprovalPendingError: "ApprovalPending",
    VetoedError: "Vetoed",
    BusyError: "Busy",
}


def state_of(error: PotstillError) -> State[PotstillError | None]:
    """Return the state of a run or step that an error ended; its data is the error."""
    name = next((name for kind, name in DECISIONS.items() if isinstance(error, kind)), None)
    if name is None:
        return Failed(message=str(error), data=error)
    return Completed(name=name, message=str(error), data=error)


class SentenceFilter(logging.Filter):
    """Has Prefect log Potstill's own errors by their sentence; a traceback is for unexpected ones."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record, but take the traceback off those of Potstill's own errors."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, PotstillError):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


def log_sentences() -> None:
    """Put the filter on Prefect's run loggers, once in each process."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, SentenceFilter) for each in logger.filters):
            logger.addFilter(SentenceFilter())
