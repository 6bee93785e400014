"""A real headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
# Without a way out of the machine, and without what a page does not need.
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--in-process-gpu", "--disable-extensions", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
# Long, since a loaded machine is no fault of a page.
_SECONDS = 600


@dataclass
class Browser:
    """A tab of a browser.

    Attributes:
        complaints: warnings and errors of the console, and uncaught exceptions.
    """

    _socket: ClientConnection
    _number: int = 0
    complaints: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def open(self, page: str, *, width: int = 1280, dark: bool = False) -> None:
        """Load an address on a screen of that width, in a light or a dark scheme."""
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._seen.clear()
        self.call("Page.navigate", url=page)
        while "Page.loadEventFired" not in self._seen:
            self._receive()

    def run(self, script: str) -> Any:
        """Run the body of an asynchronous function in the page, and return its result."""
        expression = f"(async () => {{ {script} }})()"
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def type(self, text: str) -> None:
        """Type a text where the focus is."""
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press Enter or Tab where the focus is."""
        code = {"Enter": 13, "Tab": 9}[key]
        pressed = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **pressed, **({"text": "\r"} if key == "Enter" else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = self._receive()
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result

    def _receive(self) -> dict[str, Any]:
        """Receive an answer or an event, and note the page's complaints."""
        message: dict[str, Any] = json.loads(self._socket.recv(timeout=_SECONDS))
        event, facts = message.get("method", ""), message.get("params", {})
        self._seen.add(event)
        logged = event == "Log.entryAdded" and facts["entry"]["level"] in ("warning", "error")
        called = event == "Runtime.consoleAPICalled" and facts["type"] in ("warning", "error", "assert")
        if event == "Runtime.exceptionThrown" or logged or called:
            self.complaints.append(json.dumps(facts)[:300])
        return message


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    command = [str(CHROMIUM), *ARGUMENTS, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        tabs = [tab for tab in _tabs(process, profile / "DevToolsActivePort") if tab["type"] == "page"]
        with connect(tabs[0]["webSocketDebuggerUrl"], max_size=None, open_timeout=_SECONDS) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait()


def _tabs(process: subprocess.Popen[bytes], port: Path) -> list[dict[str, str]]:
    """Wait until the browser has written its port and opened a tab."""
    while not (port.exists() and port.read_text(encoding="utf-8").count("\n")):
        assert process.poll() is None, f"the browser ended with exit code {process.returncode}"
        time.sleep(0.05)
    address = f"http://127.0.0.1:{port.read_text(encoding='utf-8').splitlines()[0]}/json/list"
    while True:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:
            tabs: list[dict[str, str]] = json.load(answer)
        if any(tab["type"] == "page" for tab in tabs):
            return tabs
        time.sleep(0.05)
