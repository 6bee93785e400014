"""`potstill join`: this machine's processes take part in the stages that the runs of a workspace share among nodes."""

from __future__ import annotations

import time
from pathlib import Path

from potstill.config.params_file import load_params
from potstill.errors import ParamsError
from potstill.paths import PARAMS
from potstill.progress import say
from tasks import torchrun

POLL_SECONDS = 0.5
# A stage whose run has just ended is announced for a moment longer, and one of a killed run until the next.
RETRY_SECONDS = 2.0


def join(workspace: Path) -> None:
    """Take part in every shared stage of this workspace until Ctrl-C or SIGTERM.

    Args:
        workspace: the current folder, which the machine that starts runs sees at the same path.

    Raises:
        ParamsError: params name one node.
        ToolError: this machine cannot reach `compute.rendezvous`.
    """
    if load_params(workspace / PARAMS).compute.nodes == 1:
        raise ParamsError("compute.nodes is 1, so no run waits for this machine; set it in params.yaml")
    say("join: waits for the stages of this workspace's runs")
    tried = None
    finished = None
    while True:
        shared = torchrun.announced()
        if shared is None or shared == finished:
            time.sleep(POLL_SECONDS)
            continue
        stage, number = shared
        if shared != tried:
            say(f"join: takes part in {stage}")
        tried = shared
        if torchrun.join(stage, number, load_params(workspace / PARAMS).compute) == 0:
            say(f"join: {stage} is done")
            finished = shared
        else:
            time.sleep(RETRY_SECONDS)
