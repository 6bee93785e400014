"""Runs one stage in several processes of one machine or more, by torch's own launcher, `torchrun`.

`python -m tasks.torchrun` is that launcher. Its processes know its pid, and so notice if it has died before they could
ask the kernel to die with it. Several nodes meet in torch's rendezvous `c10d`, which the first one hosts. The others
learn which stage is going on from `.work/shared-stage.json` in the workspace, which all of them see.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import time
import uuid
from pathlib import Path
from typing import BinaryIO

import psutil

from potstill.artifacts import read_json, write_json
from potstill.compute import processes
from potstill.config.compute_params import Compute
from potstill.errors import LostProcessError, ToolError
from potstill.paths import LOGS, SHARED_STAGE

_LAUNCHER = "POTSTILL_LAUNCHER"
# torch numbers nodes in the order of the addresses that they state. Only the first node's is connected to, so that of
# another may have this prefix, which comes after every address.
_AFTER_ADDRESSES = "~"
_POLL_SECONDS = 0.5


def launcher() -> int | None:
    """Return the pid of the launcher that started this process; None where another launcher did, or none."""
    pid = os.environ.get(_LAUNCHER)
    return None if pid is None or not inside() else int(pid)


def inside() -> bool:
    """Whether `torchrun` started this process, through this module or not."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def first() -> bool:
    """Whether this is the process that writes."""
    return os.environ.get("RANK", "0") == "0"


def stop_launcher() -> None:
    """Have this process's launcher end, so that it restarts nothing after an error that would come again."""
    pid = launcher()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)


def run(stage: str, compute: Compute) -> int:
    """Run a stage in its processes, on this machine and those that join, and return the exit status.

    They die with this process, share the cores, and end together when one fails.

    Raises:
        LostProcessError: a node was missing for `compute.wait_minutes`.
        ToolError: `compute.rendezvous` is no free port of this machine.
    """
    if compute.nodes == 1:
        return _run(stage, compute, ["--standalone"])
    host, port = _endpoint(compute)
    advice = "set compute.rendezvous in params.yaml to an address of the machine that starts runs, and a free port"
    processes.listen(host, port, advice=advice).close()
    number = uuid.uuid4().hex
    write_json(SHARED_STAGE, {"stage": stage, "number": number})
    try:
        status = _run(stage, compute, _meeting(compute, number, host=True))
    finally:
        SHARED_STAGE.unlink(missing_ok=True)
    if status == LostProcessError.exit_code:
        raise LostProcessError(
            f"not all of its {compute.nodes} nodes were at {compute.rendezvous} within {compute.wait_minutes:g} "
            "minutes; run `potstill join` on the others, then run again to go on where it stopped"
        )
    return status


def announced() -> tuple[str, str] | None:
    """Return the stage that nodes share now and its number; None where there is none."""
    try:
        shared = read_json(SHARED_STAGE)
    except FileNotFoundError:
        return None
    return shared["stage"], shared["number"]


def join(stage: str, number: str, compute: Compute) -> int:
    """Run this machine's processes of a stage that another machine has announced, and return the exit status.

    They are ended when another stage is announced: after the run was killed, they would wait for it in vain.
    """
    command = _command(stage, compute, _meeting(compute, number, host=False))
    with _open_log(f"{stage}-{_local_address(compute)}") as errors:
        process = processes.start(command, environment=_variables(compute), stderr=errors)
        try:
            while process.poll() is None and announced() in ((stage, number), None):
                time.sleep(_POLL_SECONDS)
        finally:
            status = processes.stop(process)
    return status


def log_file(stage: str) -> Path:
    """Return the file for standard errors of a stage's processes, where the launcher reports a failure at length."""
    return LOGS / f"{stage}-torchrun.txt"


def _open_log(stage: str) -> BinaryIO:
    path = log_file(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("wb")


def _run(stage: str, compute: Compute, meeting: list[str]) -> int:
    with _open_log(stage) as errors:
        return processes.run(_command(stage, compute, meeting), environment=_variables(compute), stderr=errors)


def _command(stage: str, compute: Compute, meeting: list[str]) -> list[str]:
    return [
        sys.executable, "-m", "tasks.torchrun", *meeting, f"--nproc-per-node={compute.processes}",
        f"--max-restarts={compute.restarts}", "-m", f"tasks.{stage}",
    ]  # fmt: skip


def _variables(compute: Compute) -> dict[str, str]:
    """Return the environment of the launcher; what the user has set stays."""
    variables = {"OMP_NUM_THREADS": str(max(processes.usable_cores() // compute.processes, 1))}
    if compute.nodes > 1:
        # Left alone, gloo takes the interface of the host's name, which others may not reach.
        interface = _interface(_local_address(compute))
        variables |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
        # Where rounds share a store, the first node publishes its address in the first round only, and a node that
        # comes back waits for it in vain (torch 2.13).
        variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    return variables | dict(os.environ)


def _meeting(compute: Compute, number: str, *, host: bool) -> list[str]:
    """Return the launcher's options for several nodes; the host is the first of them."""
    address = _local_address(compute)
    settings = f"is_host={int(host)},join_timeout={math.ceil(60 * compute.wait_minutes)}"
    return [
        f"--nnodes={compute.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={compute.rendezvous}",
        f"--rdzv-id={number}", f"--rdzv-conf={settings}",
        f"--local-addr={address if host else _AFTER_ADDRESSES + address}",
    ]  # fmt: skip


def _endpoint(compute: Compute) -> tuple[str, int]:
    host, _, port = (compute.rendezvous or "").rpartition(":")
    return host, int(port)


def _local_address(compute: Compute) -> str:
    """Return the address of this machine from which the rendezvous is reached. Nothing is sent.

    Raises:
        ToolError: there is no way to it.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_endpoint(compute))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ToolError(
            f"compute.rendezvous is {compute.rendezvous}, which this machine cannot reach ({error.strerror}); correct "
            "it in params.yaml, or the machine's network"
        ) from error


def _interface(address: str) -> str:
    addresses = psutil.net_if_addrs()
    return next(name for name, entries in addresses.items() if address in [entry.address for entry in entries])


if __name__ == "__main__":
    from torch.distributed.elastic.rendezvous.api import RendezvousTimeoutError
    from torch.distributed.run import main

    os.environ[_LAUNCHER] = str(os.getpid())
    try:
        main(sys.argv[1:])
    except RendezvousTimeoutError:
        sys.exit(LostProcessError.exit_code)
