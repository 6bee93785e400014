"""The documentation as a test reads it: code blocks that are run, and what they are said to print.

The convention of docs/: the `sh` blocks of a page are run in order, in one shell; a `text` block after one holds lines
that its output has, in that order, with `...` for anything. `sh background URL` is started, waited for until the URL
answers (and its `text` was printed), and stopped at the end of the page. `yaml` blocks are sections of params.yaml.
Other blocks are not looked at.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from potstill.compute.processes import free_port, start, stop
from tests.e2e.workspaces import environment

# Ports that the pages name; each is replaced by a free one.
PORTS = ("3000", "3001", "4200", "5000", "6379")
START_SECONDS = 300


@dataclass
class Block:
    """A fenced block: where it is, the words after its fence, its text, and the `text` block that follows it."""

    where: str
    kind: list[str]
    code: str
    expected: str = ""


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page; a `text` block directly after an `sh` block belongs to that."""
    found: list[Block] = []
    fence: Block | None = None
    adjacent = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if fence is None and line.startswith("```"):
            fence = Block(f"{page.name}, line {number}", line[3:].split(), "")
        elif fence is not None and line == "```":
            if adjacent and fence.kind == ["text"] and found[-1].kind[:1] == ["sh"]:
                found[-1].expected = fence.code
            else:
                found.append(fence)
            fence, adjacent = None, True
        elif fence is not None:
            fence.code += line + "\n"
        elif line.strip():
            adjacent = False
    assert fence is None, f"{page.name}: a block is not closed"
    return found


def commands(page: Path) -> list[Block]:
    """The `sh` blocks of a page, in order."""
    return [block for block in blocks(page) if block.kind[:1] == ["sh"]]


def missing_line(expected: str, printed: str) -> str | None:
    """The first expected line that the output lacks after those before it; `...` stands for anything in a line."""
    left: Iterator[str] = iter(printed.splitlines())
    for line in filter(None, map(str.rstrip, expected.splitlines())):
        pattern = re.compile(".*".join(map(re.escape, line.split("..."))))
        if not any(pattern.fullmatch(said.rstrip()) for said in left):
            return line
    return None


class Shell:
    """One page's shell: folder, variables and servers live from block to block."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder, self._logs = folder, home
        self._variables: Mapping[str, str] = environment(home)
        self._ports = {port: str(free_port()) for port in PORTS}
        self._servers = ExitStack()

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servers.close()

    def run(self, block: Block) -> str:
        """Run a block, check what it prints, and return that; of a server nothing."""
        code, expected = (self._on_free_ports(text) for text in (block.code, block.expected))
        if block.kind[1:2] == ["background"]:
            self._start(block.where, code, expected, [self._on_free_ports(url) for url in block.kind[2:]])
            return ""
        state, log = self._logs / "state", self._logs / "printed"
        script = f'set -aeuo pipefail\n{code}\nset +a\n{{ pwd; env -0; }} > "{state}"\n'
        process = self._bash(script, log)
        try:
            status = process.wait()
        finally:
            if process.poll() is None:
                stop(process)
        printed = log.read_text(encoding="utf-8")
        assert status == 0, f"{block.where} ended with {status}:\n{printed}"
        assert "Traceback" not in printed, f"{block.where}:\n{printed}"
        missing = missing_line(expected, printed)
        assert missing is None, f"{block.where} did not print {missing!r}:\n{printed}"
        place, _, variables = state.read_text(encoding="utf-8").partition("\n")
        self._folder = Path(place)
        self._variables = dict(item.split("=", 1) for item in variables.split("\0") if item)
        return printed

    def _start(self, where: str, code: str, expected: str, urls: list[str]) -> None:
        log = self._logs / f"{where}.log"
        process = self._bash(f"exec {code}", log)
        self._servers.callback(_end, process)
        limit = time.monotonic() + START_SECONDS
        while missing_line(expected, log.read_text(encoding="utf-8")) or not all(map(_answers, urls)):
            assert process.poll() is None, f"{where} ended with {process.returncode}:\n{log.read_text()}"
            assert time.monotonic() < limit, f"{where} was not ready in {START_SECONDS} s:\n{log.read_text()}"
            time.sleep(0.1)

    def _bash(self, script: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return start(
                ["bash", "-c", script], cwd=self._folder, environment=self._variables, stdout=output, stderr=output
            )

    def _on_free_ports(self, text: str) -> str:
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda match: self._ports[match[0]], text)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C in its terminal would, then by force."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            stop(process)
