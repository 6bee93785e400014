from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from potstill.artifacts import (
    MANIFEST,
    disk_errors,
    read_json,
    remove_file,
    remove_unfinished,
    verify,
    whole_file,
    whole_folder,
    write_json,
    write_manifest,
    write_text,
)
from potstill.errors import ChecksumError, DiskFullError
from tests.kills import killed_in_write


def write_folder(folder: Path) -> Path:
    with whole_folder(folder) as new_folder:
        (new_folder / "sub").mkdir()
        (new_folder / "sub" / "a.txt").write_text("one")
        (new_folder / "b.txt").write_text("two")
        write_manifest(new_folder, {"rows": 2})
    return folder


def replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


def test_a_folder_appears_whole_and_verifies(tmp_path: Path) -> None:
    assert verify(write_folder(tmp_path / "out")) == {"rows": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_the_old_folder_and_no_temporary_one(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out")
    with pytest.raises(RuntimeError, match="halfway"), whole_folder(out) as new_folder:
        (new_folder / "c.txt").write_text("half")
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
        (lambda out: replace(out / MANIFEST, '"files"', '"giles"'), "no readable"),
        (lambda out: replace(out / MANIFEST, '"rows": 2', '"rows": 3'), "manifest.json is altered"),
        (lambda out: replace(out / MANIFEST, '"sum": "', '"sum": "0'), "manifest.json is altered"),
        (lambda out: (out / MANIFEST).unlink(), "no readable"),
    ],
)
def test_verify_names_the_damaged_file(tmp_path: Path, damage: object, state: str) -> None:
    out = write_folder(tmp_path / "out")
    damage(out)  # type: ignore[operator]
    with pytest.raises(ChecksumError, match=state):
        verify(out)


def test_a_manifest_about_numbers_by_number_verifies(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"rows": {9: 1, 10: 0.5}, "split": ("a", "b")})
    assert verify(tmp_path) == {"rows": {"9": 1, "10": 0.5}, "split": ["a", "b"]}


def test_a_manifest_from_before_it_had_a_sum_verifies(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out")
    manifest = read_json(out / MANIFEST)
    del manifest["sum"]
    write_json(out / MANIFEST, manifest)
    assert verify(out) == {"rows": 2}


def test_equal_content_has_equal_manifests(tmp_path: Path) -> None:
    first, second = write_folder(tmp_path / "one"), write_folder(tmp_path / "two")
    assert (first / MANIFEST).read_bytes() == (second / MANIFEST).read_bytes()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match="no space left"), whole_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PermissionError), disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    # /dev/full answers every write as a full disk does.
    target = tmp_path / "out.txt"
    with pytest.raises(DiskFullError), disk_errors(target), Path("/dev/full").open("w") as full:
        full.write("x")
        full.flush()
    write_text(target, "whole")
    assert target.read_text() == "whole"


def test_what_a_killed_process_was_writing_goes_with_the_next_write_or_removal(tmp_path: Path) -> None:
    target = tmp_path / "a.json"

    def kill() -> None:
        killed_in_write(
            "potstill.artifacts", "write_json(Path('a.json'), 'a long text that is not there later')", tmp_path
        )
        assert len(list(tmp_path.glob(".*"))) == 1

    kill()
    write_text(target, "short")
    assert [(path, path.read_text()) for path in tmp_path.iterdir()] == [(target, "short")]
    kill()
    remove_file(target)
    assert list(tmp_path.iterdir()) == []
    kill()
    with whole_file(tmp_path / "b.json"):
        remove_unfinished(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".b.json.tmp"]


def test_of_several_writers_of_a_file_each_writes_it_whole(tmp_path: Path) -> None:
    texts = [letter * 100_000 for letter in "abcdefgh"]
    with ThreadPoolExecutor(len(texts)) as pool:
        for _ in range(5):
            list(pool.map(lambda text: write_text(tmp_path / "a.txt", text), texts))
            assert [path.read_text() in texts for path in tmp_path.iterdir()] == [True]
