from __future__ import annotations

from pathlib import Path

import pytest

from potstill.registry.promotion import Registry
from tests.registries import PROJECT, new_store


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return new_store(tmp_path / "workspace")


@pytest.fixture
def registry(workspace: Path) -> Registry:
    return Registry(workspace, PROJECT)
