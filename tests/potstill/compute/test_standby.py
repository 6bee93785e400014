from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from potstill.compute.standby import ADDRESS
from tests.potstill.compute.test_processes import alive, wait_until

SOCKET = "standby.sock"
# A process that has loaded a module and prints the pid of the standby process that it forks.
PARENT = """
import sys, time
from pathlib import Path
from potstill.compute.standby import stand_by
import colorsys
print(stand_by(Path(sys.argv[1])), flush=True)
time.sleep(60)
"""
COMMAND = """
import signal, sys
from potstill.compute import standby
standby._CODE = sys.argv[2] if len(sys.argv) > 2 else standby._CODE
status = standby.hand_over(sys.argv[1])
if status is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    sys.exit("a command that runs by itself is deaf to Ctrl-C")
sys.exit(99 if status is None else status)
"""
NO_STANDBY = 99


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, SOCKET], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def standby_pid(parent: subprocess.Popen[str]) -> int:
    """The pid of a standby process in `tmp_path`."""
    assert parent.stdout is not None
    return int(parent.stdout.readline())


def command(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "stage_module", *arguments], cwd=folder, env=os.environ | {ADDRESS: SOCKET}
    )


def status(folder: Path, *arguments: str) -> int:
    return command(folder, *arguments).wait(30)


def write_module(folder: Path, text: str) -> None:
    (folder / "stage_module.py").write_text(text, encoding="utf-8")


def test_the_module_runs_as_main_with_the_loaded_modules_and_returns_its_status(
    standby_pid: int, parent: subprocess.Popen[str], tmp_path: Path
) -> None:
    write_module(tmp_path, "import sys\nprint(__name__, 'colorsys' in sys.modules, flush=True)\nsys.exit(7)\n")
    assert status(tmp_path) == 7
    assert parent.stdout is not None
    assert parent.stdout.readline() == "__main__ True\n"
    assert wait_until(lambda: not alive(standby_pid))


@pytest.mark.parametrize(("ending", "expected"), [("", 0), ("raise ValueError", 1), ("sys.exit('no')", 1)])
def test_the_status_is_the_one_that_python_would_give(
    ending: str, expected: int, standby_pid: int, tmp_path: Path
) -> None:
    write_module(tmp_path, f"import sys\n{ending}\n")
    assert status(tmp_path) == expected


def test_exit_handlers_run(standby_pid: int, tmp_path: Path) -> None:
    write_module(tmp_path, "import atexit, pathlib\natexit.register(pathlib.Path('left').touch)\n")
    assert status(tmp_path) == 0
    assert (tmp_path / "left").exists()


def test_a_killed_module_has_the_status_that_a_shell_reports(standby_pid: int, tmp_path: Path) -> None:
    write_module(tmp_path, "import os\nos.kill(os.getpid(), 9)\n")
    assert status(tmp_path) == 128 + signal.SIGKILL


def test_the_module_dies_with_its_command(standby_pid: int, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    write_module(tmp_path, "import os, time\nopen('pid', 'w').write(f'{os.getpid()} ')\ntime.sleep(60)\n")
    process = command(tmp_path)
    assert wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith(" "), 30)
    process.kill()
    process.wait(30)
    assert wait_until(lambda: not alive(int(pid_file.read_text())) and not alive(standby_pid))


@pytest.mark.slow
def test_a_killed_standby_process_is_a_failure(standby_pid: int, tmp_path: Path) -> None:
    write_module(tmp_path, "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(1)\n")
    assert status(tmp_path) == 1


def test_without_a_standby_process_the_module_does_not_run(tmp_path: Path) -> None:
    write_module(tmp_path, "raise SystemExit(7)\n")
    assert status(tmp_path) == NO_STANDBY


def test_a_command_of_another_installation_is_not_handed_over(standby_pid: int, tmp_path: Path) -> None:
    write_module(tmp_path, "raise SystemExit(7)\n")
    assert status(tmp_path, "/elsewhere/potstill") == NO_STANDBY
