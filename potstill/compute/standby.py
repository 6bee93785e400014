"""A process with torch and transformers loaded waits for a stage's command, so that the command need not load them.

Loading them takes seconds, in each of the stages of a run that learn or answer. A run forks such a process from a
server that has them (`stand_by`); the command of the stage asks it by a socket to run the stage's module (`hand_over`),
waits, and ends with the module's exit status. A command that finds nobody waiting runs the module itself.
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

# Names the socket, relative to the workspace.
ADDRESS = "POTSTILL_STANDBY"
# What loads slowly in all stages that hold a model, torch included.
SLOW_MODULES = [
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
]
_CODE = str(Path(__file__).resolve().parents[1])
_context = multiprocessing.get_context("fork")


def stand_by(address: Path) -> int:
    """Fork a process that waits for one command and does what it asks; it dies with the caller.

    Args:
        address: of the socket, relative to the current folder: the names of sockets have to be short.

    Returns:
        Its pid.
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
            # Its group gets SIGTERM as a whole: the module answers that, and the status is still to be passed on.
            signal.signal(signal.SIGTERM, lambda *_: None)
            _serve(listener)
    return pid


def hand_over(module: str) -> int | None:
    """Have the waiting process run a module as `python -m` would, in this folder, on this process's outputs.

    Returns:
        The exit status; None where nobody waits, or who waits cannot run it: nothing has been done then.
    """
    address = os.environ.get(ADDRESS)
    if address is None:
        return None
    with socket.socket(socket.AF_UNIX) as asked:
        try:
            asked.connect(address)
        except OSError:
            return None
        # Whoever sends them sends them to the module as well.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
        asked.sendall(json.dumps([module, _CODE]).encode() + b"\n")
        answer = asked.makefile().readline()
    for number, handler in before.items():
        signal.signal(number, handler)
    status = json.loads(answer) if answer else 1  # it was killed
    return None if status is None else 128 - status if status < 0 else int(status)


def _serve(listener: socket.socket) -> NoReturn:
    asking, _ = listener.accept()
    listener.close()
    module, code = json.loads(asking.makefile().readline())
    status = _run(module, asking) if code == _CODE and not _cuda_is_lost() else None
    with suppress(OSError):
        asking.sendall(json.dumps(status).encode() + b"\n")
    os._exit(0)


def _run(module: str, asking: socket.socket) -> int | None:
    """Run a module in a child, which is ended when the command that asked for it is gone; its exit status."""
    process = _context.Process(target=_as_main, args=(module,))
    process.start()
    wait([process.sentinel, asking])
    if process.exitcode is None:
        process.kill()
    process.join()
    return process.exitcode


def _as_main(module: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.path.insert(0, os.getcwd())
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()


def _cuda_is_lost() -> bool:
    """Whether something has asked CUDA for its devices before the fork: a forked process cannot use them then."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda._is_in_bad_fork())
