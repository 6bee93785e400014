"""A standby process that has loaded torch and transformers, so that a stage's command need not load them.

Loading them takes seconds in each stage with a model. A run forks the standby process from a server that has loaded
them (`stand_by`). The command of the stage asks it through a socket to run the stage's module (`hand_over`), waits, and
exits with the module's status. A command without a standby process runs the module itself.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import NoReturn

from potstill.compute.processes import die_with_parent

# Environment variable with the path of the socket, relative to the workspace.
ADDRESS = "POTSTILL_STANDBY"
# The modules that load slowly in every stage with a model; they import torch.
SLOW_MODULES = [
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
]
_CODE = str(Path(__file__).resolve().parents[1])
_context = multiprocessing.get_context("fork")


def stand_by(address: Path) -> int:
    """Fork a process that serves one command; it dies with the caller.

    Args:
        address: path of the socket, relative to the current folder because such paths have to be short.

    Returns:
        The pid of the process.
    """
    address.parent.mkdir(parents=True, exist_ok=True)
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        address.chmod(0o600)
        listener.listen(1)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            die_with_parent(parent)
            # The whole group gets SIGTERM. The module handles it; this process still has to pass on the status.
            signal.signal(signal.SIGTERM, lambda *_: None)
            _serve(listener)
    return pid


def hand_over(module: str) -> int | None:
    """Have the standby process run a module as `python -m` would, in this folder, with this process's output streams.

    Returns:
        The exit status; None if there is no standby process or it cannot run the module, which then has not run.
    """
    address = os.environ.get(ADDRESS)
    if address is None:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
        except OSError:
            return None
        # These signals are sent to the group, so the module gets them too; this process waits for its status.
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
        connection.sendall(json.dumps([module, _CODE]).encode() + b"\n")
        answer = connection.makefile().readline()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    status = json.loads(answer) if answer else 1  # the standby process was killed
    if status is None:
        return None
    # A negative status is a signal, which a shell reports as 128 + its number.
    return 128 - status if status < 0 else int(status)


def _serve(listener: socket.socket) -> NoReturn:
    connection, _ = listener.accept()
    listener.close()
    module, code = json.loads(connection.makefile().readline())
    status = _run(module, connection) if code == _CODE and not _cuda_is_unusable() else None
    with suppress(OSError):
        connection.sendall(json.dumps(status).encode() + b"\n")
    os._exit(0)


def _run(module: str, connection: socket.socket) -> int | None:
    """Run a module in a child and return its exit status; the child is killed if the command has gone."""
    process = _context.Process(target=_run_as_main, args=(module,))
    process.start()
    wait([process.sentinel, connection])
    if process.exitcode is None:
        process.kill()
    process.join()
    return process.exitcode


def _run_as_main(module: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.path.insert(0, os.getcwd())
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


def _cuda_is_unusable() -> bool:
    """Whether CUDA was initialized before the fork: a forked process cannot use it then."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda._is_in_bad_fork())
