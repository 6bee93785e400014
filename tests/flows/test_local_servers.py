"""`potstill up` and `potstill down` with the real servers: Prefect's with a schedule, MLflow's, and the service."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from flows.commands import local_servers
from flows.commands.check_machine import findings
from flows.commands.local_servers import TOKEN, down, status, up
from flows.commands.params_changes import change_params
from potstill.artifacts import read_json, write_json
from potstill.compute.processes import free_port
from potstill.config.params_file import load_params
from potstill.errors import ParamsError, ToolError
from potstill.paths import SERVERS
from potstill.registry.promotion import Registry
from tasks.package import package
from tests.conftest import generate_rows
from tests.flows.conftest import REPOSITORY, answers
from tests.potstill.serving.folders import write_workspace
from tests.registries import PROJECT, add_version, new_store


@pytest.fixture
def workspace(
    slow: None, tiny_base: Path, prefect_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A workspace with a champion, whose servers have ports and stores of their own."""
    folder = new_store(write_workspace(tiny_base, tmp_path / "workspace", [text for text, _ in generate_rows(6)]))
    ports = [f"{key}={free_port()}" for key in ("servers.prefect_port", "servers.mlflow_port", "serve.port")]
    change_params(folder / "params.yaml", None, ports)
    (tmp_path / "prefect").mkdir()
    migrated = prefect_home / "prefect.db"
    if migrated.exists():  # by another test of the session: it saves the migrations
        shutil.copyfile(migrated, tmp_path / "prefect" / "prefect.db")
    variables: dict[str, object] = {
        "PREFECT_HOME": tmp_path / "prefect",
        "BENTOML_HOME": tmp_path / "bentoml",
        "PYTHONPATH": REPOSITORY,
    }
    variables["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "170"  # where the machine has other things to do
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(folder)
    yield folder
    down(folder)


def pids(folder: Path) -> dict[str, int]:
    return {name: values["pid"] for name, values in read_json(folder / SERVERS).items()}


def with_token() -> list[int]:
    """Every process that a server of any workspace has started."""
    processes = []
    for process in psutil.process_iter():
        try:
            processes += [process.pid] if TOKEN in process.environ() else []
        except psutil.Error:
            continue
    return processes


def test_up_starts_what_is_missing_and_down_ends_exactly_that(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = load_params(workspace / "params.yaml")
    registry = Registry(workspace, PROJECT)
    registry.promote(add_version(registry, "one", bento=package(params, workspace).tag).version, expected=None)
    assert not status(workspace)
    up(workspace)
    assert status(workspace)
    for port, path in (
        (params.servers.prefect_port, "/api/health"),
        (params.servers.mlflow_port, "/health"),
        (params.serve.port, "/readyz"),
    ):
        assert answers(f"http://127.0.0.1:{port}{path}")
    port = next(finding for finding in findings(workspace) if finding.name == "port")
    assert port.line.startswith(f"note port       a service answers on 127.0.0.1:{params.serve.port} - ")
    before = pids(workspace)
    assert sorted(before) == ["mlflow", "schedule", "service"]

    os.kill(before["mlflow"], signal.SIGKILL)
    capsys.readouterr()
    assert not status(workspace)
    assert "mlflow    has ended" in capsys.readouterr().out
    up(workspace)
    after = pids(workspace)
    assert {name for name in after if after[name] != before[name]} == {"mlflow"}

    processes = local_servers._read(workspace)
    mine = {process.pid for each in processes.values() for process in each.processes()}
    assert set(after.values()) < mine  # Prefect's server and the service's worker are children
    down(workspace)
    assert not mine & set(with_token())
    capsys.readouterr()
    down(workspace)
    assert capsys.readouterr().out == "nothing is up in this workspace\n"


def test_a_process_that_has_taken_over_an_id_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        write_json(tmp_path / SERVERS, {"mlflow": {"pid": stranger.pid, "token": "of an earlier process"}})
        down(tmp_path)
        assert stranger.poll() is None
        assert capsys.readouterr().out == "mlflow    had ended already\n"
        stranger.communicate(b"\n", timeout=30)
        assert stranger.returncode == 0


def test_nothing_is_started_where_a_port_is_taken_or_a_server_does_not_start(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = load_params(workspace / "params.yaml").servers.mlflow_port
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(ToolError, match=f"port {port} .*give mlflow another"),
    ):
        up(workspace)
    change_params(workspace / "params.yaml", None, ["schedule.timezone=Mars/Olympus"])
    with pytest.raises(ToolError, match=r"schedule ended before it was ready: .* is no schedule; .*schedule\.txt"):
        up(workspace)
    assert read_json(workspace / SERVERS) == {}
    with pytest.raises(ParamsError, match=r"servers\.mlflow_port"):
        change_params(workspace / "params.yaml", None, ["servers.mlflow_port=0"])


def test_down_where_nothing_was_up_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    down(tmp_path)
    assert capsys.readouterr().out == "nothing is up in this workspace\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_server_that_runs_at_another_address_than_params_name_is_one_sentence(tmp_path: Path) -> None:
    shutil.copyfile(REPOSITORY / "params.yaml", tmp_path / "params.yaml")
    server = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={**os.environ, TOKEN: "t"})
    write_json(tmp_path / SERVERS, {"mlflow": {"pid": server.pid, "token": "t", "url": "http://127.0.0.1:5999"}})
    with server, pytest.raises(ToolError, match=r"mlflow runs at .*:5999, and its address is .*:5000 now; `potstill d"):
        up(tmp_path)
