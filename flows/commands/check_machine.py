"""`potstill doctor`: checks this machine and workspace, and says what to do where something is missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from flows.commands.check_stores import check_stores
from flows.commands.finding import Finding
from flows.engine.prefect_server import answers
from potstill import environment
from potstill.artifacts import is_writable
from potstill.compute.processes import listen, usable_cores
from potstill.config.params_file import load_params
from potstill.errors import ParamsError, PotstillError, SignatureError, StoreError, ToolError
from potstill.paths import DVC_FILE, PARAMS
from potstill.serving.launch import check_bento_home

DISK_GB = 5.0


def examine(workspace: Path) -> bool:
    """Print the result of every check, and return whether all passed."""
    passed = True
    for finding in findings(workspace):
        passed &= finding.ok
        print(finding.line, flush=True)
    return passed


def findings(workspace: Path) -> Iterator[Finding]:
    """Run the checks, one after the other."""
    checks: list[Callable[[Path], Finding]] = [
        _python, _versions, _torch, _memory, _disk, _git, _workspace, _params, _registry, _port, _home, _telemetry,
    ]  # fmt: skip
    for check in checks:
        yield check(workspace)
    yield from check_stores(workspace)


def _python(workspace: Path) -> Finding:
    detail = f"{sys.version.split()[0]} at {sys.executable}"
    return Finding("python", sys.version_info >= (3, 11), detail, "install Python 3.11 or newer and set up again")


def _versions(workspace: Path) -> Finding:
    """Compare the installed packages with the lock; a package that its marker leaves out here is skipped."""
    from tasks.stage import default_file

    try:
        lock = default_file("requirements.lock").read_text(encoding="utf-8")
    except ToolError as error:
        return Finding("packages", False, "no requirements.lock", str(error))
    wrong = [f"{name} {installed or 'missing'}, locked {locked}" for name, locked, installed in _differences(lock)]
    detail = "; ".join(wrong[:5]) + (" ..." if wrong[5:] else "")
    return Finding(
        "packages",
        not wrong,
        detail or "as requirements.lock names them",
        "install the locked versions again: `make setup`",
    )


def _differences(lock: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield (name, locked version, installed version or None) of each package that is not as locked."""
    from packaging.markers import Marker

    for line in lock.splitlines():
        match = re.match(r"^([A-Za-z0-9._-]+)==(\S+)\s*(?:;\s*(.+))?$", line)
        if match is None or (match[3] and not Marker(match[3]).evaluate()):
            continue
        try:
            installed: str | None = metadata.version(match[1])
        except metadata.PackageNotFoundError:
            installed = None
        if installed is None or installed.split("+")[0] != match[2]:
            yield match[1], match[2], installed


def _torch(workspace: Path) -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", False, str(error), "install torch: `make setup`")
    if torch.cuda.is_available():
        device = f"cuda ({torch.cuda.get_device_name(0)}), bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
    elif torch.backends.mps.is_available():
        device = "mps"
    else:
        device = f"cpu, {usable_cores()} cores, bf16 measured at the start of a stage"
    return Finding("torch", True, f"{torch.__version__} on {device}")


def _memory(workspace: Path) -> Finding:
    import psutil

    free = psutil.virtual_memory().available / 1e9
    return Finding("memory", free >= 3, f"{free:.1f} GB free", "close something: a stage takes up to 3 GB")


def _disk(workspace: Path) -> Finding:
    free = shutil.disk_usage(workspace).free / 1e9
    return Finding("disk", free >= DISK_GB, f"{free:.1f} GB free", f"free some space: a run takes up to {DISK_GB:g} GB")


def _git(workspace: Path) -> Finding:
    if shutil.which("git") is None:
        return Finding("git", False, "not installed", "install git: DVC needs it")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=workspace, capture_output=True, text=True, check=False)
    commit = head.stdout.strip()[:12] if head.returncode == 0 else "no commit yet"
    return Finding("git", True, commit)


def _workspace(workspace: Path) -> Finding:
    exists = (workspace / DVC_FILE).exists() and (workspace / ".dvc").is_dir()
    return Finding("dvc", exists, "workspace" if exists else "no workspace here", "make one: `potstill init DIR ...`")


def _params(workspace: Path) -> Finding:
    """Read params.yaml, and the key that it names for signatures."""
    from potstill.registry.signatures import signer_sum

    try:
        params = load_params(workspace / PARAMS)
        signer = signer_sum(params.sign, workspace)
    except (ParamsError, SignatureError) as error:
        return Finding("params", False, str(error), "correct params.yaml")
    return Finding("params", True, f"project {params.project.name}" + (f", signed by {signer[:12]}" if signer else ""))


def _registry(workspace: Path) -> Finding:
    """Verify the whole ledger, and the files with which the champion is served or restored."""
    from potstill.registry import tracking
    from potstill.registry.promotion import Registry
    from potstill.registry.store_reader import reader

    if not tracking.has_store(workspace):
        return Finding("registry", True, "none yet")
    try:
        registry = Registry(workspace, load_params(workspace / PARAMS).project.name, reader(workspace))
        lines = registry.ledger.lines()
        champion = registry.champion()
        if champion is not None:
            registry.verify(champion)
    except StoreError as error:
        return Finding("registry", False, str(error))
    except PotstillError as error:
        return Finding("registry", False, str(error), "docs/operating.md says how the registry is repaired")
    state = f"champion version {champion.version} is intact" if champion else "no champion yet"
    return Finding("registry", True, f"{len(lines)} lines of the ledger are intact, {state}")


def _port(workspace: Path) -> Finding:
    try:
        serve = load_params(workspace / PARAMS).serve
    except ParamsError:
        return Finding("port", False, "not known", "correct params.yaml")
    try:
        listen(serve.host, serve.port, advice="end what uses it").close()
    except ToolError as error:
        if answers(f"http://{serve.host}:{serve.port}/readyz"):
            detail = f"a service answers on {serve.host}:{serve.port}"
            return Finding("port", True, detail, "`potstill serve --port` starts another one next to it", noted=True)
        return Finding("port", False, str(error), "or change serve.port, or use `potstill serve --port`")
    return Finding("port", True, f"{serve.host}:{serve.port} is free")


def _home(workspace: Path) -> Finding:
    """Check the folders in which Prefect and BentoML keep what is this user's."""
    from flows.commands.schedule_runs import prefect_api

    try:
        check_bento_home()
    except ToolError as error:
        return Finding("home", False, str(error))
    home = Path(os.path.expanduser(os.environ.get("PREFECT_HOME") or "~/.prefect"))
    if prefect_api(0)[1] is not None and not is_writable(home):
        detail = f"{home} cannot be written, which the Prefect server of a run needs"
        return Finding("home", False, detail, "set PREFECT_HOME to a folder that can, or PREFECT_API_URL to a server")
    return Finding("home", True, "the folders of Prefect and BentoML can be written")


def _telemetry(workspace: Path) -> Finding:
    on = [name for name, value in environment.NO_TELEMETRY.items() if os.environ.get(name) != value]
    return Finding("telemetry", not on, "off" if not on else f"on: {', '.join(on)}", "start it as `potstill doctor`")
