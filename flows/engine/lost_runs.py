"""Prefect's detection of runs whose process has died: an automation that misses their heartbeats.

The server itself ends such a run, so that its slot is free also where no further run and no worker is there to notice.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from potstill.progress import say

if TYPE_CHECKING:
    from prefect.events.schemas.automations import AutomationCore

# Name of the state, of the type Crashed, until the next run has told of it; then it is `Crashed`.
LOST = "Lost"
# Prefect's variable for the seconds between two heartbeats, and the fewest that it takes.
HEARTBEAT_VARIABLE = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
HEARTBEAT_SECONDS = 30
_MISSED_HEARTBEATS = 3
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ID = "prefect.resource.id"


def crash_silent_runs(deployment: str, run: str) -> None:
    """Have Prefect's server crash the runs of a deployment that miss three heartbeats; again for other heartbeats.

    Args:
        deployment: id of the deployment of the run that calls this.
        run: id of this run, whose settings say how often it sends a heartbeat.
    """
    from prefect.client.orchestration import get_client
    from prefect.events import emit_event
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import get_current_settings

    seconds = get_current_settings().flows.heartbeat_frequency
    if seconds is None:  # the user wants none
        return
    automation = _automation(deployment, timedelta(seconds=_MISSED_HEARTBEATS * seconds))
    with get_client(sync_client=True) as client:
        try:
            present = client.read_automations_by_name(automation.name)
            if not present:
                client.create_automation(automation)
            elif present[0].trigger != automation.trigger:
                client.update_automation(present[0].id, automation)
        except PrefectHTTPStatusError as error:  # such as one about how many automations a plan has
            status = error.response.status_code
            say(f"if this run's process dies, only the next run will notice: Prefect's automations answer {status}")
            return
    # Prefect's first heartbeat of this run may have come before the automation, which would then wait for the second.
    emit_event(_HEARTBEAT, {_ID: f"prefect.flow-run.{run}"}, related=[_related(deployment)])


def _related(deployment: str) -> dict[str, str]:
    """Return what Prefect's events of a deployment's runs name as related."""
    return {_ID: f"prefect.deployment.{deployment}", "prefect.resource.role": "deployment"}


def _automation(deployment: str, silence: timedelta) -> AutomationCore:
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    message = f"Nothing was heard of its process for {silence.total_seconds():.0f} s; the next run goes on from there."
    # Every other event of the run, such as its end under any name, counts as a sign of life.
    trigger = EventTrigger.model_validate(
        {
            "match": {_ID: "prefect.flow-run.*"},
            "match_related": _related(deployment),
            "for_each": {_ID},
            "after": {_HEARTBEAT},
            "expect": {"prefect.flow-run.*"},
            "posture": Posture.Proactive,
            "threshold": 1,
            "within": silence,
        }
    )
    return AutomationCore(
        name=f"potstill: lost runs of deployment {deployment}",
        description="Ends a run whose process has died. A run of the deployment makes this again if it is deleted.",
        trigger=trigger,
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name=LOST, message=message)],
    )
