"""`potstill serve` up to the moment in which the server takes the place of the process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from flows.commands.serve_champion import serve
from potstill.artifacts import BENTO_SIGNATURE, write_manifest
from potstill.config.promotion_params import Sign
from potstill.errors import PackageError, SignatureError
from potstill.registry.signatures import sign_bento
from potstill.serving.launch import WATCH_FOLDER, bento_path
from tests.conftest import REPOSITORY
from tests.keys import write_keys

TAG = "potstill-movie-reviews:0123456789ab"


class StartedError(Exception):
    """The server took the place of the process."""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose params require a signature, and a Bento in the store that has none."""

    def start(program: str, command: list[str]) -> None:
        raise StartedError(command)

    monkeypatch.setattr(os, "execv", start)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.setenv(WATCH_FOLDER, str(tmp_path / "watch"))
    bento = bento_path(TAG)
    (bento / "src").mkdir(parents=True)
    (bento / "src/service.py").write_text("code", encoding="utf-8")
    write_manifest(bento)
    folder = tmp_path / "workspace"
    folder.mkdir()
    require(folder, write_keys(tmp_path / "keys"))
    return folder


def require(workspace: Path, keys: Sign) -> None:
    shutil.copyfile(REPOSITORY / "params.yaml", workspace / "params.yaml")
    with (workspace / "params.yaml").open("a", encoding="utf-8") as params:
        params.write(yaml.safe_dump({"sign": keys.model_dump(mode="json")}))


def test_a_required_signature_that_is_missing_or_wrong_is_refused(workspace: Path, tmp_path: Path) -> None:
    keys = Sign.model_validate(yaml.safe_load((workspace / "params.yaml").read_text(encoding="utf-8"))["sign"])
    with pytest.raises(SignatureError, match=f"has no signature .*{BENTO_SIGNATURE}"):
        serve(workspace, TAG, None, 0)
    sign_bento(bento_path(TAG), keys, workspace)
    with pytest.raises(StartedError, match=TAG):
        serve(workspace, TAG, None, 0)
    require(workspace, keys.model_copy(update={"public_key": write_keys(tmp_path / "stranger").public_key}))
    with pytest.raises(SignatureError, match="does not verify: Key mismatch"):
        serve(workspace, TAG, None, 0)


def test_where_none_is_required_an_unsigned_bento_is_served(workspace: Path) -> None:
    require(workspace, Sign())
    with pytest.raises(StartedError, match=TAG):
        serve(workspace, TAG, None, 0)
    (bento_path(TAG).parent / "latest").write_text(TAG, encoding="utf-8")
    for other in ("potstill-movie-reviews:gone", "potstill-movie-reviews:latest", "potstill-movie-reviews"):
        with pytest.raises(PackageError, match="is not in the store"):
            serve(workspace, other, None, 0)


def test_a_host_may_be_a_name(workspace: Path) -> None:
    require(workspace, Sign())
    with pytest.raises(StartedError, match=r"'--host', '127\.0\.0\.1'"):
        serve(workspace, TAG, "localhost", 0)
