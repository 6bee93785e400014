"""The systemd unit: read by systemd itself where it is installed, and what it promises."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.commands.follow_champion import DRAIN_SECONDS
from tests.conftest import REPOSITORY

UNIT = REPOSITORY / "deploy/potstill.service"


class _Unit(configparser.RawConfigParser):
    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture(scope="module")
def unit() -> configparser.RawConfigParser:
    found = _Unit(strict=True, delimiters=("=",), comment_prefixes=("#",))
    found.read_string(UNIT.read_text(encoding="utf-8"))
    return found


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_reads_it_without_a_word_and_finds_it_confined(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # The command has to exist for it, and does not on this machine.
    text = UNIT.read_text(encoding="utf-8").replace("/srv/potstill/venv/bin/potstill", "/bin/true")
    unit.write_text(text, encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    read = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stdout + read.stderr) == (0, "")
    # A misspelt directive is told, so silence says something.
    unit.write_text(text.replace("PrivateTmp=", "PrivatTmp="), encoding="utf-8")
    read = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "PrivatTmp" in read.stderr
    unit.write_text(text, encoding="utf-8")
    judged = ["systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", str(unit)]
    assert subprocess.run(judged, capture_output=True, text=True, check=False).returncode == 0


def test_its_command_is_one_of_potstill(unit: configparser.RawConfigParser) -> None:
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert program.endswith("/potstill")
    # Parsed by the command line itself: an unknown option would be exit code 2 with a usage line.
    done = CliRunner().invoke(cli.app, [*words, "--help"])
    assert done.exit_code == 0
    options = [word for word in words if word.startswith("--")]
    assert all(option in done.output for option in options)
    assert words[0] == "serve"
    assert "--follow" in options


def test_it_may_drain_and_comes_back(unit: configparser.RawConfigParser) -> None:
    service = unit["Service"]
    assert int(service["TimeoutStopSec"]) > DRAIN_SECONDS
    # SIGTERM to the supervisor alone: it drains its worker itself.
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"


def test_it_has_no_rights_it_does_not_need(unit: configparser.RawConfigParser) -> None:
    service = unit["Service"]
    assert service["User"] != "root"
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    for name in ("NoNewPrivileges", "PrivateTmp", "PrivateDevices", "ProtectHome", "RestrictNamespaces"):
        assert service[name] == "true"
