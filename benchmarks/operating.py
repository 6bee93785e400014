"""Measures what surrounds the work: runs that change nothing, `potstill up`, and a whole run's share of orchestration.

Run in a workspace after `potstill run`, with nothing up: `python benchmarks/operating.py [--rounds 5] [--log FILE]
[--write]`. The scheduled runs are those of the scheduler that `potstill up` starts; their time is that between the
states Running and Completed in Prefect, so polling is not part of it. `--log` is the saved output of a whole `potstill
run`. `--write` puts the table into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from results import machine, publish, today, versions

from flows.commands.schedule_runs import DEPLOYMENT, prefect_api
from potstill.config.params_file import load_params
from potstill.paths import PARAMS, TIMINGS
from potstill.progress import say

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

MARK = "<!-- operating -->"
POTSTILL = [sys.executable, "-m", "flows.cli"]
RUN = "`potstill run`, nothing changed"
SCHEDULED = "scheduled run, nothing changed"
UP = "`potstill up` until all is ready"
AIMS = {RUN: "", SCHEDULED: "15 s", UP: "30 s"}
STEP = re.compile(r"^  (\w+) +([\d.]+) s", re.MULTILINE)
TOTAL = re.compile(r"^time +([\d.]+) s", re.MULTILINE)


def measure(rounds: int) -> dict[str, list[float]]:
    """Measure in turns; returns what was measured -> the seconds of each round."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        seconds[RUN].append(_timed("run"))
        seconds[UP].append(_timed("up"))
        try:
            seconds[SCHEDULED].append(_scheduled_run())
        finally:
            _timed("down")
        say(
            f"round {number + 1} of {rounds}: "
            + ", ".join(f"{name} {each[-1]:.1f} s" for name, each in seconds.items())
        )
    return seconds


def _timed(command: str) -> float:
    start = time.monotonic()
    done = subprocess.run([*POTSTILL, command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"potstill {command}: {done.stderr.strip()}")
    return time.monotonic() - start


def _scheduled_run() -> float:
    """Have the scheduler run the workspace once; returns the seconds from Running to Completed."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url, _ = prefect_api(load_params(PARAMS).servers.prefect_port)
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(f"potstill/{DEPLOYMENT}")
        run = client.create_flow_run_from_deployment(deployment.id)
        return _wait(client, run.id)


def _wait(client: SyncPrefectClient, run: UUID) -> float:
    while True:
        flow_run = client.read_flow_run(run)
        if flow_run.state is not None and flow_run.state.is_final():
            break
        time.sleep(0.5)
    if not flow_run.state.is_completed():
        raise SystemExit(f"the scheduled run ended as {flow_run.state.name}: {flow_run.state.message}")
    return flow_run.total_run_time.total_seconds()


def shares(log: str) -> dict[str, float]:
    """Split the seconds of a whole run: the whole, outside of its steps, and inside of steps around the stages' bodies.

    Args:
        log: output of `potstill run`; the bodies' seconds are those of the workspace's last run of each stage.
    """
    steps = {name: float(seconds) for name, seconds in STEP.findall(log)}
    bodies = {path.stem: json.loads(path.read_text())["seconds"] for path in Path(TIMINGS).glob("*.json")}
    whole = float(TOTAL.findall(log)[-1])
    starts = sum(seconds - bodies[name] for name, seconds in steps.items() if name in bodies)
    return {"whole": whole, "outside": whole - sum(steps.values()), "starts": starts}


def render(seconds: Mapping[str, Sequence[float]], share: Mapping[str, float] | None) -> str:
    """Lay the measurements out as a table."""
    lines = [f"{machine()}, {today()}; {versions('prefect', 'dvc', 'mlflow', 'bentoml')}.", ""]
    lines += ["| | median s (min–max) | aim |", "|---|---|---|"]
    for name, each in seconds.items():
        lines.append(f"| {name} | {statistics.median(each):.1f} ({min(each):.1f}–{max(each):.1f}) | {AIMS[name]} |")
    if share is not None:
        whole = share["whole"]
        rows = {
            "outside of its steps: Prefect, MLflow, the graph": "outside",
            "starting and recording its stages": "starts",
        }
        lines += ["", f"| of a whole run of {whole:.0f} s | seconds | share |", "|---|---|---|"]
        lines += [f"| {name} | {share[key]:.1f} | {share[key] / whole:.1%} |" for name, key in rows.items()]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    share = shares(arguments.log.read_text(encoding="utf-8")) if arguments.log else None
    section = render(measure(arguments.rounds), share)
    publish(MARK, section, write=arguments.write)


if __name__ == "__main__":
    main()
