"""`potstill notify`: sends a test message to those who are told of failures, promotions and the rest."""

from __future__ import annotations

from pathlib import Path

from flows.engine.notifications import TEST, notify
from potstill.config.params_file import load_params
from potstill.errors import NotifyError, ParamsError
from potstill.paths import PARAMS


def send_test(workspace: Path) -> None:
    """Tell every receiver of params.yaml that this is a test.

    Raises:
        ParamsError: params.yaml is not valid, or names no receiver.
        NotifyError: a receiver was not told.
    """
    section = load_params(workspace / PARAMS).notify
    if not section.webhooks and section.email is None:
        raise ParamsError("params.yaml names nobody to tell; set notify.webhooks or notify.email")
    problems = notify(workspace, TEST, "this is a test; nothing happened")
    if problems:
        raise NotifyError(f"{len(problems)} of the receivers were not told; the lines above say why")
    print("every receiver was told")
