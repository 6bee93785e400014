from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from potstill.compute.processes import hold, run, start, stop, usable_cores
from potstill.errors import BusyError, ToolError

# A child that starts a grandchild, writes both pids, and sleeps. The grandchild ignores SIGTERM.
FAMILY = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(condition: object, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def pids(path: Path) -> list[int]:
    assert wait_until(lambda: path.exists() and len(path.read_text().split()) == 2)
    return [int(pid) for pid in path.read_text().split()]


def test_run_returns_the_exit_status() -> None:
    assert run([sys.executable, "-c", "raise SystemExit(7)"]) == 7


def test_stop_ends_the_whole_group(tmp_path: Path) -> None:
    process = start([sys.executable, "-c", FAMILY, str(tmp_path / "pids")])
    family = pids(tmp_path / "pids")
    stop(process, grace_seconds=0.5)
    assert wait_until(lambda: not any(map(alive, family)))


def test_a_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from potstill.compute.processes import start\n"
        "child = start([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(sys.argv[1], 'w').write(f'{child.pid} 0'); child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pids")])
    child = pids(tmp_path / "pids")[0]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert wait_until(lambda: not alive(child))


def test_a_lock_refuses_a_second_holder_and_names_the_first(tmp_path: Path) -> None:
    lock = tmp_path / ".work" / "run.lock"
    with (
        hold(lock, what="a run"),
        pytest.raises(BusyError, match=rf"a run is already going on.*process {os.getpid()}"),
        hold(lock, what="a run"),
    ):
        pass
    with hold(lock, what="a run"):
        pass


def test_a_lock_that_was_removed_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "parts" / "lock"
    lock_once = fcntl.flock

    def lock_after_removal(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        shutil.rmtree(lock.parent)  # by the holder before, after this process has opened the file
        lock_once(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock_after_removal)
    with hold(lock, what="a run"):
        assert lock.exists()
        with pytest.raises(BusyError), hold(lock, what="a run"):
            pass


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="root can write nearly everywhere else")
def test_a_folder_that_cannot_be_written_is_named() -> None:
    with (
        pytest.raises(ToolError, match="/sys/kernel/none cannot be written"),
        hold(Path("/sys/kernel/none/run.lock"), what="a run"),
    ):
        pass


def test_the_death_of_a_holder_frees_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / ".work" / "run.lock"
    code = (
        "import sys, time; from pathlib import Path; from potstill.compute.processes import hold\n"
        "with hold(Path(sys.argv[1]), what='a run'):\n    open(sys.argv[2], 'w').write('1 1'); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(lock), str(tmp_path / "ready")])
    pids(tmp_path / "ready")
    with pytest.raises(BusyError), hold(lock, what="a run"):
        pass
    holder.kill()
    holder.wait()
    with hold(lock, what="a run", wait_seconds=2):
        pass


def test_usable_cores_are_those_of_the_process_or_else_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert usable_cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
