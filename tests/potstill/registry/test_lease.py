"""Tests of the lease: release, takeover, fencing, and the messages to contenders."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from potstill.errors import BusyError
from potstill.registry import lease as leases
from potstill.registry import tracking
from potstill.registry.lease import hold_lease
from potstill.registry.process_identity import Identity, read_identity, this_process
from tests.conftest import REPOSITORY
from tests.registries import PROJECT


def names(workspace: Path) -> list[str]:
    return sorted(item.name for item in tracking.client(workspace).search_experiments() if ".lease." in item.name)


def remote_process() -> Identity:
    return dataclasses.replace(this_process(), host="elsewhere", machine="another")


def test_numbers_rise_and_only_the_newest_stays(workspace: Path) -> None:
    numbers = []
    for _ in range(3):
        with hold_lease(workspace, PROJECT, "a test") as lease:
            numbers.append(lease.number)
            lease.check()
    assert numbers == [1, 2, 3]
    assert names(workspace) == [f"{PROJECT}.lease.00000003"]


def test_a_contender_waits_and_then_names_the_holder(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "WAIT_SECONDS", 0.5)
    with hold_lease(workspace, PROJECT, "veto 3"):
        monkeypatch.setattr(leases, "REGISTRY_LOCK", Path("another.lock"))  # the lock of another clone
        with (
            pytest.raises(BusyError, match=rf"process {os.getpid()} of .*@.* \(veto 3\) is changing the registry"),
            hold_lease(workspace, PROJECT, "a test"),
        ):
            pass


def test_two_projects_do_not_wait_for_each_other(workspace: Path, tmp_path: Path) -> None:
    with hold_lease(workspace, "one", "a test") as one:
        tracking_uri = tracking.tracking_uri(workspace)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
            with hold_lease(tmp_path, "one-two", "a test") as other:
                assert (one.number, other.number) == (1, 1)


@pytest.mark.slow
def test_the_lease_of_a_killed_holder_is_free_within_seconds(workspace: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from potstill.registry.lease import hold_lease\n"
        f"with hold_lease(Path(sys.argv[1]), {PROJECT!r}, 'a test'):\n print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(workspace)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        begin = time.monotonic()
        with hold_lease(workspace, PROJECT, "a test") as lease:
            assert lease.number == 2
        assert time.monotonic() - begin < 6


@pytest.mark.slow
def test_a_silent_holder_on_another_machine_loses_the_lease_and_may_not_write(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(leases, "EXPIRE_SECONDS", 1.0)
    monkeypatch.setattr(leases, "this_process", remote_process)
    with hold_lease(workspace, PROJECT, "the first") as first:
        monkeypatch.setattr(leases, "REGISTRY_LOCK", Path("another.lock"))
        first._ended.set()  # its thread stops renewing, as on a machine that is suspended
        begin = time.monotonic()
        with hold_lease(workspace, PROJECT, "the second") as second:
            assert second.number == 2
            assert time.monotonic() - begin >= 1.0
            with pytest.raises(BusyError, match="has taken over"):
                first.check()


@pytest.mark.slow
def test_a_holder_that_renews_keeps_the_lease(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(leases, "EXPIRE_SECONDS", 2.0)
    monkeypatch.setattr(leases, "WAIT_SECONDS", 4.0)
    monkeypatch.setattr(leases, "this_process", remote_process)
    with hold_lease(workspace, PROJECT, "the first") as first:
        monkeypatch.setattr(leases, "REGISTRY_LOCK", Path("another.lock"))
        with pytest.raises(BusyError), hold_lease(workspace, PROJECT, "the second"):
            pass
        first.check()


def test_the_identity_of_a_process() -> None:
    current = this_process()
    assert read_identity(dataclasses.asdict(current)) == current
    assert read_identity({"pid": 1}) is None
    assert not current.has_ended()
    assert dataclasses.replace(current, started="0").has_ended()  # the pid was reused
    assert dataclasses.replace(current, boot="before").has_ended()
    for other in ({"host": "x"}, {"machine": "x"}, {"namespace": "x"}):  # a container with the same path and pid
        assert not dataclasses.replace(current, started="0", **other).has_ended()  # type: ignore[arg-type]
