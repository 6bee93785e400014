from __future__ import annotations

import errno
from pathlib import Path

import pytest

from potstill.artifacts import MANIFEST, disk_errors, verify, whole_folder, write_manifest, write_text
from potstill.errors import ChecksumError, DiskFullError


def make(folder: Path) -> Path:
    with whole_folder(folder) as beside:
        (beside / "sub").mkdir()
        (beside / "sub" / "a.txt").write_text("one")
        (beside / "b.txt").write_text("two")
        write_manifest(beside, {"rows": 2})
    return folder


def test_a_folder_appears_whole_and_verifies(tmp_path: Path) -> None:
    assert verify(make(tmp_path / "out")) == {"rows": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_the_old_folder_and_nothing_beside_it(tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    with pytest.raises(RuntimeError, match="halfway"), whole_folder(out) as beside:
        (beside / "c.txt").write_text("half")
        raise RuntimeError("halfway")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert verify(out) == {"rows": 2}


@pytest.mark.parametrize(
    ("damage", "state"),
    [
        (lambda out: (out / "sub" / "a.txt").write_text("One"), "altered"),
        (lambda out: (out / "b.txt").unlink(), "missing"),
        (lambda out: (out / "c.txt").write_text("new"), "not in the manifest"),
        (lambda out: (out / MANIFEST).write_text("{"), "no readable"),
        (lambda out: (out / MANIFEST).unlink(), "no readable"),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, damage: object, state: str) -> None:
    out = make(tmp_path / "out")
    damage(out)  # type: ignore[operator]
    with pytest.raises(ChecksumError, match=state):
        verify(out)


def test_equal_content_has_equal_manifests(tmp_path: Path) -> None:
    first, second = make(tmp_path / "one"), make(tmp_path / "two")
    assert (first / MANIFEST).read_bytes() == (second / MANIFEST).read_bytes()


def test_no_space_is_one_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="no space left"), whole_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


def test_a_really_full_disk(tmp_path: Path) -> None:
    # /dev/full answers every write as a full disk does.
    target = tmp_path / "out.txt"
    with pytest.raises(DiskFullError), disk_errors(target), Path("/dev/full").open("w") as full:
        full.write("x")
        full.flush()
    write_text(target, "whole")
    assert target.read_text() == "whole"
