"""A built Bento, and a clean virtual environment made from its own requirements and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from potstill.config.params_file import load_params
from tasks.package import Packaged, package
from tests.conftest import generate_rows
from tests.potstill.serving.folders import write_workspace

TEXTS = [text for text, _ in generate_rows(6)]


@dataclass(frozen=True)
class Built:
    """A Bento in a store of its own."""

    packaged: Packaged
    home: Path


@pytest.fixture(scope="session")
def built(slow: None, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    place = write_workspace(tiny_base, tmp_path_factory.mktemp("deploy") / "workspace", TEXTS)
    home = place.parent / "bentoml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        yield Built(package(load_params(place / "params.yaml"), place), home)


@pytest.fixture(scope="session")
def clean_environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a virtual environment with what the Bento pins, installed as BentoML's image does it: by uv."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    requirements = built.packaged.path / "env/python/requirements.txt"
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    uv = str(Path(sys.executable).parent / "uv")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder)], env=variables, check=True)
    # The pins are whole: nothing is resolved. A second interpreter line could not hide a missing package.
    command = [uv, "pip", "install", "-q", "--no-deps", "--compile-bytecode", "--python", str(folder / "bin/python")]
    subprocess.run([*command, "-r", str(requirements)], env=variables, check=True)
    return folder
