from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from potstill.serving import respawn
from potstill.serving.respawn import respawn_workers


@pytest.fixture
def asked() -> Iterator[list[int]]:
    """How often the supervisor, which this process stands in for, was asked to look."""
    before = {number: signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGHUP)}
    found: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _: found.append(number))
    yield found
    for number, handler in before.items():
        signal.signal(number, handler)


def until(asked: list[int], times: int) -> None:
    end = time.monotonic() + 10
    while len(asked) < times and time.monotonic() < end:
        time.sleep(0.01)
    assert len(asked) == times


def die() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["true"])


def test_the_supervisor_looks_when_a_child_dies_but_not_again_at_once(
    asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    respawn_workers()
    first = die()
    until(asked, 1)
    assert first.wait() == 0  # it is left for the supervisor to reap
    die().wait()
    time.sleep(0.1)
    assert asked == [signal.SIGHUP]
    monkeypatch.setattr(respawn, "PAUSE_SECONDS", 0.0)
    second = die()
    until(asked, 2)
    second.wait()


def test_a_worker_that_cannot_start_ends_the_service_with_its_status(asked: list[int]) -> None:
    respawn_workers()
    # It waits for its input to close, so that it is known here before it ends.
    child = subprocess.Popen(["sh", "-c", "read line; exit 40"], stdin=subprocess.PIPE)
    assert child.stdin is not None
    with pytest.raises(SystemExit) as caught:
        child.stdin.close()
        until(asked, 1)
    assert caught.value.code == 40
    assert asked == []
    assert child.wait() == 40


def test_a_child_that_is_stopped_is_not_dead(asked: list[int]) -> None:
    respawn_workers()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert asked == []
    child.kill()
    until(asked, 1)
    child.communicate()


def test_without_a_supervisor_nothing_is_sent() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored; so it would end this process
    try:
        respawn_workers()
        die().wait()
    finally:
        signal.signal(signal.SIGCHLD, before)
        signal.signal(signal.SIGHUP, hangup)


def test_in_a_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    thread = threading.Thread(target=respawn_workers)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGCHLD) is before
