from __future__ import annotations

from pathlib import Path

from potstill.artifacts import file_sums
from tests.conftest import write_tiny_base


def test_the_tiny_model_is_the_same_in_every_session(tiny_base: Path, tmp_path: Path) -> None:
    assert file_sums(write_tiny_base(tmp_path)) == file_sums(tiny_base)
