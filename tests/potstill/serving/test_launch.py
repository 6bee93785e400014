from __future__ import annotations

from pathlib import Path

import pytest

from potstill.serving.launch import bento_environment, bento_path


def test_a_relative_store_is_the_same_one_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENTOML_HOME", "bentoml")
    assert bento_path("reviews:1") == tmp_path / "bentoml/bentos/reviews/1"
    assert bento_environment()["BENTOML_HOME"] == str(tmp_path / "bentoml")
