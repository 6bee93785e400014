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
# A process that has loaded something and says the pid of the one that it has wait for a command.
HOLDER = """
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
NOBODY = 99


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, SOCKET], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def waiting(holder: subprocess.Popen[str]) -> int:
    """The pid of a process that waits for a command in `tmp_path`."""
    assert holder.stdout is not None
    return int(holder.stdout.readline())


def command(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "asked", *words], cwd=folder, env=os.environ | {ADDRESS: SOCKET}
    )


def status(folder: Path, *words: str) -> int:
    return command(folder, *words).wait(30)


def write_module(folder: Path, text: str) -> None:
    (folder / "asked.py").write_text(text, encoding="utf-8")


def test_the_module_runs_as_main_with_what_is_loaded_and_its_status_comes_back(
    waiting: int, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    write_module(tmp_path, "import sys\nprint(__name__, 'colorsys' in sys.modules, flush=True)\nsys.exit(7)\n")
    assert status(tmp_path) == 7
    assert holder.stdout is not None
    assert holder.stdout.readline() == "__main__ True\n"
    assert wait_until(lambda: not alive(waiting))


@pytest.mark.parametrize(("ending", "expected"), [("", 0), ("raise ValueError", 1), ("sys.exit('no')", 1)])
def test_a_module_ends_as_python_lets_it_end(ending: str, expected: int, waiting: int, tmp_path: Path) -> None:
    write_module(tmp_path, f"import sys\n{ending}\n")
    assert status(tmp_path) == expected


def test_what_was_to_be_done_at_exit_is_done(waiting: int, tmp_path: Path) -> None:
    write_module(tmp_path, "import atexit, pathlib\natexit.register(pathlib.Path('left').touch)\n")
    assert status(tmp_path) == 0
    assert (tmp_path / "left").exists()


def test_a_killed_module_is_told_as_a_shell_tells_it(waiting: int, tmp_path: Path) -> None:
    write_module(tmp_path, "import os\nos.kill(os.getpid(), 9)\n")
    assert status(tmp_path) == 128 + signal.SIGKILL


def test_the_module_ends_with_the_command_that_asked_for_it(waiting: int, tmp_path: Path) -> None:
    said = tmp_path / "pid"
    write_module(tmp_path, "import os, time\nopen('pid', 'w').write(f'{os.getpid()} ')\ntime.sleep(60)\n")
    asked = command(tmp_path)
    assert wait_until(lambda: said.exists() and said.read_text().endswith(" "), 30)
    asked.kill()
    asked.wait(30)
    assert wait_until(lambda: not alive(int(said.read_text())) and not alive(waiting))


@pytest.mark.slow
def test_that_who_waited_was_killed_is_no_success(waiting: int, tmp_path: Path) -> None:
    write_module(tmp_path, "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(1)\n")
    assert status(tmp_path) == 1


def test_with_nobody_waiting_nothing_is_done(tmp_path: Path) -> None:
    write_module(tmp_path, "raise SystemExit(7)\n")
    assert status(tmp_path) == NOBODY


def test_a_command_of_another_installation_runs_its_own_code(waiting: int, tmp_path: Path) -> None:
    write_module(tmp_path, "raise SystemExit(7)\n")
    assert status(tmp_path, "/elsewhere/potstill") == NOBODY
