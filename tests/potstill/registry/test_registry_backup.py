from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from potstill.artifacts import file_sums, link_file, write_text
from potstill.errors import ChecksumError, FormatError, OutputError, PotstillError, RegistryError, UnsafeFileError
from potstill.paths import ARTIFACTS, DVC_LOCK, PARAMS, STORE
from potstill.registry import registry_backup, tracking
from potstill.registry.promotion import Registry
from potstill.registry.registry_backup import back_up, restore
from tests.conftest import REPOSITORY
from tests.potstill.serving.folders import flip_byte
from tests.registries import PROJECT, add_version


@pytest.fixture
def champion(registry: Registry) -> Registry:
    """A registry with two versions, of which the second is champion."""
    shutil.copyfile(REPOSITORY / PARAMS, registry.workspace / PARAMS)
    write_text(registry.workspace / DVC_LOCK, "schema: '2.0'\n")
    add_version(registry, "one")
    add_version(registry, "two", bento="potstill-x:2")
    registry.approve("2")
    return registry


@pytest.mark.slow
def test_a_registry_comes_back_in_another_folder(champion: Registry, tmp_path: Path) -> None:
    archive = tmp_path / "backups" / "registry.tar"
    contents, problems = back_up(champion.workspace, archive)
    assert (contents.versions, contents.champion, contents.lines, problems) == (2, "2", 6, [])
    artifacts = file_sums(champion.workspace / ARTIFACTS)
    lines = champion.ledger.lines()
    with pytest.raises(RegistryError, match=r"mlflow\.db exists"):
        restore(archive, champion.workspace)
    with pytest.raises(OutputError, match="exists; name another file"):
        back_up(champion.workspace, archive)
    shutil.rmtree(champion.workspace)

    clone = tmp_path / "clone"
    clone.mkdir()
    write_text(clone / DVC_LOCK, "other: 1\n")
    assert restore(archive, clone) == (contents, [DVC_LOCK])
    assert file_sums(clone / ARTIFACTS) == artifacts
    restored = Registry(clone, PROJECT)
    assert restored.ledger.lines() == lines
    restored.verify(restored.get("champion"))
    assert (clone / DVC_LOCK).read_text(encoding="utf-8") == "other: 1\n"
    assert tracking.client(clone).get_model_version(PROJECT, "2").source.startswith(clone.as_uri())
    assert restored.approve("1").version == "1"


def test_a_damaged_version_is_named_and_a_damaged_archive_refused(champion: Registry, tmp_path: Path) -> None:
    flip_byte(next((champion.workspace / ARTIFACTS).rglob("model.onnx")))
    archive = tmp_path / "registry.tar"
    _, problems = back_up(champion.workspace, archive)
    assert ["model.onnx is altered" in problem for problem in problems] == [True]

    clone = tmp_path / "clone"
    clone.mkdir()
    content = archive.read_bytes()
    with tarfile.open(archive) as tar:
        place = tar.getmember(str(DVC_LOCK)).offset_data
    archive.write_bytes(content[:place] + b"x" + content[place + 1 :])
    with pytest.raises(ChecksumError, match=r"dvc\.lock in .* is altered, so nothing was restored"):
        restore(archive, clone)
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(PotstillError, match=r"cut off|missing"):
        restore(archive, clone)
    assert not (clone / STORE).exists()
    assert not (clone / ARTIFACTS).exists()


def write_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, *, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    ("strange", "error", "says"),
    [
        (member("../evil", size=1), UnsafeFileError, "outside the destination"),
        (member("mlartifacts/../../evil", size=1), UnsafeFileError, "outside the destination"),
        (member("mlflow.db", kind=tarfile.SYMTYPE, link="/etc/passwd"), UnsafeFileError, "no plain file"),
        (member("mlflow.db", kind=tarfile.LNKTYPE, link="params.yaml"), UnsafeFileError, "no plain file"),
        (member("mlflow.db", kind=tarfile.CHRTYPE), UnsafeFileError, "no plain file"),
        (member("mlflow.db", size=1), FormatError, r"manifest\.json is missing"),
    ],
)
def test_an_archive_of_somebody_else_is_refused(
    tmp_path: Path, strange: tarfile.TarInfo, error: type[PotstillError], says: str
) -> None:
    workspace = tmp_path / "folder" / "workspace"
    workspace.mkdir(parents=True)
    with pytest.raises(error, match=says):
        restore(write_tar(tmp_path / "x.tar", strange), workspace)
    assert [path.name for path in workspace.iterdir()] == [".work"]
    assert [path.name for path in workspace.parent.iterdir()] == ["workspace"]


def test_what_is_no_archive_or_of_another_project_is_refused(champion: Registry, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    params = (REPOSITORY / PARAMS).read_text(encoding="utf-8").replace(f"name: {PROJECT}", "name: other")
    write_text(other / PARAMS, params)
    with pytest.raises(RegistryError, match="no registry yet"):
        back_up(other, tmp_path / "x.tar")
    with pytest.raises(FormatError, match="does not exist"):
        restore(tmp_path / "none.tar", other)
    with pytest.raises(FormatError, match="no backup of Potstill"):
        restore(REPOSITORY / PARAMS, other)
    with pytest.raises(FormatError, match="is a folder; name a file"):
        restore(tmp_path, other)
    with pytest.raises(OutputError, match=r"cannot be written .*; name a file in a folder"):
        back_up(champion.workspace, other / PARAMS / "x.tar")
    back_up(champion.workspace, tmp_path / "x.tar")
    with pytest.raises(RegistryError, match=f"of the project {PROJECT}, and .* names other"):
        restore(tmp_path / "x.tar", other)


def test_a_file_that_is_removed_meanwhile_is_named(
    champion: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_after_removal(source: str, target: str) -> None:
        if source.endswith("model.onnx"):
            Path(source).unlink()  # by another process, after the folder was listed
        link_file(source, target)

    monkeypatch.setattr(registry_backup, "link_file", copy_after_removal)
    with pytest.raises(ChecksumError, match=r"/model\.onnx changed while it was backed up; run again"):
        back_up(champion.workspace, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_a_registry_at_a_server_is_for_its_own_tools(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret@mlflow.example")
    with pytest.raises(RegistryError, match=r"but at https://\*\*\*@mlflow\.example: back up and restore"):
        back_up(workspace, workspace / "x.tar")
