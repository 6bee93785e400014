from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.serving.launch import bento_environment, bento_path


def test_a_relative_store_is_the_same_one_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENTOML_HOME", "bentoml")
    assert bento_path("reviews:1") == tmp_path / "bentoml/bentos/reviews/1"
    assert bento_environment()["BENTOML_HOME"] == str(tmp_path / "bentoml")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that is not known")
def test_a_user_without_a_home_is_one_sentence() -> None:
    code = "import os; from potstill.serving.launch import bento_path; os.setuid(54321); bento_path('reviews:1')"
    variables = {name: value for name, value in os.environ.items() if name not in ("HOME", "BENTOML_HOME")}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert "ToolError: this user has no home folder; set HOME, or BENTOML_HOME" in done.stderr
