"""One flipped bit somewhere in what is kept: it is named before the bytes are used."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch

from flows.engine.pipeline_run import open_run
from potstill.artifacts import MANIFEST, verify, write_manifest
from potstill.errors import ChecksumError, RegistryError
from potstill.registry.ledger import Ledger
from potstill.registry.promotion import Registry
from potstill.registry.version_artifacts import SERVING
from potstill.serving.release import verify_seal, write_seal
from potstill.training import checkpoints
from tests.flows.conftest import Toy
from tests.registries import PROJECT, add_version, new_store, write_bento


def flip(path: Path, chance: random.Random) -> None:
    """Change one bit of a file, write-protected or not, and leave its times as they were, as a disk does."""
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(flipped(path.read_bytes(), chance))
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flipped(content: bytes, chance: random.Random) -> bytes:
    """Change one bit."""
    altered = bytearray(content)
    altered[chance.randrange(len(altered))] ^= 1 << chance.randrange(8)
    return bytes(altered)


def flip_any(folder: Path, chance: random.Random) -> Path:
    """Flip a bit in any of the files below a folder, manifests included, and return the file."""
    path = chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    flip(path, chance)
    return path


def test_an_out(tmp_path: Path, chance: random.Random) -> None:
    for name in ("a.parquet", "sub/b.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(chance.randbytes(500))
    write_manifest(tmp_path, {"rows": 12, "score": 0.25, "layers": None})
    assert verify(tmp_path)
    path = flip_any(tmp_path, chance)
    with pytest.raises(ChecksumError) as raised:
        verify(tmp_path)
    # A damaged manifest may name another file than itself, but then one that it is about.
    assert str(tmp_path if path.name == MANIFEST else path) in str(raised.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # in DVC's own trie
def test_the_cache_of_dvc(
    offline_toy: Toy, chance: random.Random, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in offline_toy.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(offline_toy.folder)
    with open_run(offline_toy.folder) as run:
        assert run.stage("prepare") == "run"
        path = flip_any(offline_toy.folder / ".dvc/cache/files", chance)
        shutil.rmtree("data/prepared")
        assert run.stage("prepare") == "run"
    assert verify(Path("data/prepared")) == {}
    assert f"{path} of DVC's cache is altered" in capsys.readouterr().out


def test_a_checkpoint(tmp_path: Path, chance: random.Random, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        weights = {"weight": torch.full((20, 20), float(step))}
        checkpoints.save(tmp_path, step, {"model": weights}, {"step": step, "loss": 0.5})
    flip_any(tmp_path / "step-000000002", chance)
    loaded = checkpoints.newest(tmp_path)
    assert loaded is not None
    assert loaded[1]["step"] == 1
    assert f"checkpoint skipped: {tmp_path}/step-000000002" in capsys.readouterr().out


@pytest.mark.slow
def test_an_artifact_of_mlflow(tmp_path: Path, chance: random.Random) -> None:
    registry = Registry(new_store(tmp_path), PROJECT)
    add_version(registry, "one")
    artifacts = Path(registry.get("1").source.removeprefix("file://"))
    path = flip_any(artifacts / chance.choice([SERVING, "bento"]), chance)
    # A damaged manifest cannot say which file it is.
    with pytest.raises(ChecksumError, match="version 1" if path.name == MANIFEST else path.name):
        registry.promote("1", expected=None)
    assert registry.champion() is None


def test_a_bento(tmp_path: Path, chance: random.Random) -> None:
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving/model.onnx").write_bytes(chance.randbytes(500))
    bento = write_bento(tmp_path / "bento", tmp_path / "serving")
    write_seal(bento)
    verify_seal(bento)
    path = flip_any(bento / "src", chance)
    with pytest.raises(ChecksumError) as raised:
        verify_seal(bento)
    assert str(path) in str(raised.value)


@pytest.mark.slow
def test_a_line_of_the_ledger(tmp_path: Path, chance: random.Random) -> None:
    registry = Registry(new_store(tmp_path), PROJECT)
    add_version(registry, "one")
    registry.promote("1", expected=None)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        lines = database.execute(
            "SELECT key, value FROM experiment_tags WHERE key LIKE 'potstill.ledger.0%'"
        ).fetchall()
        key, value = chance.choice(sorted(lines))
        altered = value
        while altered == value:  # a bit whose change leaves no UTF-8 cannot be kept as text
            altered = flipped(value.encode(), chance).decode(errors="ignore")
        database.execute("UPDATE experiment_tags SET value = ? WHERE key = ?", [altered, key])
        database.commit()
    number = int(key.split(".")[2])
    with pytest.raises(RegistryError, match=f"line {number} of the ledger was edited"):
        Ledger(tmp_path, PROJECT).lines()
