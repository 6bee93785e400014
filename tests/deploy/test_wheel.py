"""A wheel of this tree is whole: installed where the checkout is not, it makes a workspace that has all it needs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from potstill import __version__
from tests.checkout import copy_checkout

UV = str(Path(sys.executable).parent / "uv")


def call(*command: str, folder: Path) -> str:
    """Run a command in an environment that names neither the checkout nor its packages."""
    left_out = ("PYTHONPATH", "VIRTUAL_ENV")
    variables = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        command, cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the installed setuptools: nothing is fetched."""
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_checkout(folder / "source")
    build = ["build", "--wheel", "--offline", "--no-build-isolation", "--python", sys.executable]
    call(UV, *build, "--out-dir", str(folder), str(source), folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The programs of an environment with the wheel; its other packages are those that are installed here."""
    folder = wheel.parent / "venv"
    call(UV, "venv", "-q", "--offline", "--python", sys.executable, str(folder), folder=wheel.parent)
    python = folder / "bin" / "python"
    call(UV, "pip", "install", "-q", "--offline", "--no-deps", "--python", str(python), str(wheel), folder=wheel.parent)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A .pth in a folder that a .pth names is not read, so the checkout, which is installed there by one, stays out.
    (packages / "others.pth").write_text(str(Path(pytest.__file__).parent.parent) + "\n")
    return folder / "bin"


def test_it_holds_license_types_and_templates(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith(f"potstill-{__version__}-")
    templates = {
        f"potstill/onnx_export/templates/{name}" for name in ("classify.js", "index.html", "web.md", "openvino.md")
    }
    assert {"potstill/py.typed", "potstill/serving/page.html"} | templates <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith("tests")]


def test_it_makes_a_workspace(installed: Path, tiny_rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    where = "import potstill, flows, tasks; print(potstill.__file__, flows.__file__, tasks.__file__)"
    said = call(str(installed / "python"), "-c", where, folder=tmp_path)
    assert all(path.startswith(str(installed.parent)) for path in said.split()), said
    potstill = str(installed / "potstill")
    assert call(potstill, "--version", folder=tmp_path) == f"potstill {__version__}\n"
    columns = ["--text", "text", "--label", "label"]
    init = ["init", "reviews", "--data", str(tiny_rows), *columns, "--teacher", str(tiny_base)]
    assert "reviews is ready" in call(potstill, *init, folder=tmp_path)
    for name in ("params.yaml", "dvc.yaml", "bentofile.yaml", "prefect.yaml", "code.yaml"):
        assert (tmp_path / "reviews" / name).exists()
