"""The image that `bentoml containerize` would build: its recipe, and its context run as the container would run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from potstill.compute.processes import free_port, stop
from tasks.smoke import is_ready
from tests.conftest import REPOSITORY
from tests.deploy.conftest import TEXTS, Built
from tests.potstill.serving.folders import processes_with

CONSTRUCT = """
import shutil, sys
import bentoml
from bentoml._internal.container import construct_containerfile
with construct_containerfile(bentoml.get(sys.argv[1]), enable_buildkit=False) as (context, _):
    shutil.copytree(context, sys.argv[2])
"""


@dataclass(frozen=True)
class Context:
    """What an engine would get: a folder, and in it the recipe."""

    folder: Path
    recipe: str

    def variables(self) -> dict[str, str]:
        """The image's environment."""
        arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", self.recipe, re.MULTILINE))
        found = re.findall(r"^ENV (\w+)=(.*)$", self.recipe, re.MULTILINE)
        plain = {name: re.sub(r"\$\{?(\w+)\}?", lambda m: arguments.get(m[1], m[0]), value) for name, value in found}
        return {name: value.strip("'\"") for name, value in plain.items()}


@pytest.fixture(scope="module")
def context(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("image") / "context"
    # In a process of its own: BentoML is imported by no test. It is what `bentoml containerize` gives to the engine.
    subprocess.run([sys.executable, "-c", CONSTRUCT, built.packaged.tag, str(folder)], check=True)
    return Context(folder, (folder / "env/docker/Dockerfile").read_text(encoding="utf-8"))


def test_the_recipe_is_what_the_bentofile_asks_for(context: Context) -> None:
    asked = yaml.safe_load((REPOSITORY / "bentofile.yaml").read_text(encoding="utf-8"))
    python = asked["docker"]["python_version"]
    assert f"FROM python:{python}-slim" in context.recipe
    assert f"uv venv --python {python}" in context.recipe
    assert "uv --directory $INSTALL_ROOT pip install -r $BENTO_PATH/env/python/requirements.txt" in context.recipe
    variables = context.variables()
    for one in asked["envs"]:
        assert variables[one["name"]] == one["value"]
    assert variables["BENTOML_CONTAINERIZED"] == "true"


def test_it_ends_as_a_user_without_rights(context: Context) -> None:
    users = re.findall(r"^USER (\S+)", context.recipe, re.MULTILINE)
    assert users[-1] == "bentoml"
    number = re.search(r"^ARG BENTO_USER_UID=(\d+)", context.recipe, re.MULTILINE)
    assert number is not None
    documents = yaml.safe_load_all((REPOSITORY / "deploy/kubernetes.yaml").read_text(encoding="utf-8"))
    pods = [document["spec"]["template"]["spec"] for document in documents if document["kind"] == "Deployment"]
    assert [pod["securityContext"]["runAsUser"] for pod in pods] == [int(number[1])]


def test_the_context_is_the_bento_and_no_more(context: Context, built: Built) -> None:
    bento = built.packaged.path

    def files(folder: Path) -> dict[str, bytes]:
        found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}

    own, theirs = files(context.folder), files(bento)
    assert {name for name in own if own[name] != theirs.get(name)} <= {"env/docker/Dockerfile"}
    assert set(theirs) <= set(own)


def can_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


# All mounts of files become read-only, but for one folder in memory: what a container with a read-only root has.
READ_ONLY = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
awk '$3 !~ /^(proc|sysfs|dev|mqueue|cgroup)/ {print $2}' /proc/self/mounts | while read -r where; do
  [ "$where" = "$1" ] || mount -o remount,bind,ro "$where" 2>/dev/null || true
done
if touch "$2" 2>/dev/null; then echo "still writable" >&2; exit 99; fi
shift 2
exec "$@"
"""


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a mount namespace (unshare -m)")
def test_the_context_serves_on_a_read_only_file_system_and_a_killed_worker_ends_it(
    context: Context, clean_environment: Path, tmp_path: Path
) -> None:
    """Its entrypoint, variables and packages, on a read-only root with /tmp alone to write to, verified by its seal."""
    temporary, port = tmp_path / "tmp", free_port()
    temporary.mkdir()
    variables = context.variables()
    assert variables["BENTOML_HOME"].startswith("/tmp/")  # the only folder of the manifest that can be written to
    variables |= {
        "PATH": os.pathsep.join([str(clean_environment / "bin"), "/usr/bin", "/bin"]),
        "VIRTUAL_ENV": str(clean_environment),
        "BENTO_PATH": str(context.folder),
        "BENTOML_HOME": str(temporary / "bentoml"),
        "TMPDIR": str(temporary),
        "HOME": str(temporary),
        "BENTOML_PORT": str(port),
    }
    entry = context.folder / "env/docker/entrypoint.sh"
    command = ["unshare", "-m", "bash", "-c", READ_ONLY, "container", str(temporary), str(context.folder / "x")]
    log = tmp_path / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "bash", str(entry)],
            cwd=context.folder,
            env=variables,
            stdout=output,
            stderr=output,
            process_group=0,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            end = time.monotonic() + 120
            while not is_ready(address):
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.1)
            body = json.dumps({"texts": TEXTS}).encode()
            request = urllib.request.Request(f"{address}/v1/classify", body, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert len(json.load(answer)["predictions"]) == len(TEXTS)
            with urllib.request.urlopen(f"{address}/info", timeout=30) as answer:
                assert json.load(answer)["lineage"]["verified"] == "bento"
            # BentoML replaces no worker inside a container: it ends, and the orchestrator starts it anew.
            (worker,) = [pid for pid in processes_with("_bentoml_impl.worker.service") if _has(pid, context.folder)]
            os.kill(worker, 9)
            assert server.wait(30) != 0
        finally:
            if server.poll() is None:
                stop(server)


def _has(pid: int, folder: Path) -> bool:
    return str(folder).encode() in Path(f"/proc/{pid}/environ").read_bytes()
