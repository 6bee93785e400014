from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from potstill.serving import respawn
from potstill.serving.respawn import respawn_workers


@pytest.fixture
def hangups() -> Iterator[list[int]]:
    """The SIGHUPs that this process received in the place of the supervisor, whose only children are its workers."""
    for child in psutil.Process().children():
        if child.status() == psutil.STATUS_ZOMBIE:  # of an earlier test of this process
            os.waitpid(child.pid, 0)
    before = {number: signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGHUP)}
    received: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _: received.append(number))
    yield received
    for number, handler in before.items():
        signal.signal(number, handler)


def until(hangups: list[int], times: int) -> None:
    end = time.monotonic() + 10
    while len(hangups) < times and time.monotonic() < end:
        time.sleep(0.01)
    assert len(hangups) == times


def die() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["true"])


def test_a_dead_child_is_reported_at_once_but_not_twice_in_a_row(
    hangups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    respawn_workers()
    first = die()
    until(hangups, 1)
    assert first.wait() == 0  # the supervisor can still reap it
    die().wait()
    time.sleep(0.1)
    assert hangups == [signal.SIGHUP]
    monkeypatch.setattr(respawn, "PAUSE_SECONDS", 0.0)
    second = die()
    until(hangups, 2)
    second.wait()


def test_a_worker_that_cannot_start_ends_the_service_with_its_status(hangups: list[int]) -> None:
    respawn_workers()
    # It waits for its input to close, so that it is known here before it ends.
    child = subprocess.Popen(["sh", "-c", "read line; exit 40"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    with pytest.raises(SystemExit) as caught:
        child.stdin.close()
        until(hangups, 1)
    assert caught.value.code == 40
    assert hangups == []
    assert child.wait() == 40


def test_a_stopped_child_is_not_reported(hangups: list[int]) -> None:
    respawn_workers()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert hangups == []
    child.kill()
    until(hangups, 1)
    child.communicate()


def test_without_a_supervisor_no_signal_is_sent() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the default ends the process, while nohup ignores it
    try:
        respawn_workers()
        die().wait()
    finally:
        signal.signal(signal.SIGCHLD, before)
        signal.signal(signal.SIGHUP, hangup)


def test_a_thread_does_not_change_signal_handlers() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    thread = threading.Thread(target=respawn_workers)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGCHLD) is before
