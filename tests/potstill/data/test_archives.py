from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from potstill.data.fetching.archives import extract
from potstill.data.fetching.safety import refuse_unsafe
from potstill.errors import FetchError, UnsafeFileError


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            item = tarfile.TarInfo(name)
            item.size = len(data)
            archive.addfile(item, io.BytesIO(data))
        for name, target in (links or {}).items():
            item = tarfile.TarInfo(name)
            item.type, item.linkname = tarfile.SYMTYPE, target
            archive.addfile(item)
    return buffer.getvalue()


def test_file_lands_under_its_name_and_folder_keeps_its_structure(tmp_path: Path) -> None:
    wheel = make_zip(
        tmp_path / "p.whl", {"p/model/config.json": b"{}", "p/model/1_Pooling/config.json": b"[]", "p/x.txt": b"x"}
    )
    out = tmp_path / "out"
    extract(wheel, ["p/model/", "p/x.txt"], out)
    actual = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert actual == {"config.json": b"{}", "1_Pooling/config.json": b"[]", "x.txt": b"x"}


def test_archive_inside_a_source_distribution(tmp_path: Path) -> None:
    inner = make_tar({"rows/a.txt": b"1", "rows/b.txt": b"2"})
    sdist = tmp_path / "p-1.tar.gz"
    sdist.write_bytes(make_tar({"p-1/PKG-INFO": b"", "p-1/data/rows.tar.gz": inner}))
    extract(sdist, ["data/rows.tar.gz!rows/b.txt", "data/rows.tar.gz!rows/a.txt"], tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_bytes() == b"1"
    assert (tmp_path / "out" / "b.txt").read_bytes() == b"2"


@pytest.mark.parametrize("name", ["model/../../evil.txt", "model//abs/../../../evil", "model/a\\..\\b"])
def test_entry_outside_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    wheel = make_zip(tmp_path / "p.whl", {name: b"x"})
    with pytest.raises(UnsafeFileError, match="outside its folder"):
        extract(wheel, ["model/"], tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("*evil*"))


def test_link_is_refused(tmp_path: Path) -> None:
    tar = tmp_path / "p.tar.gz"
    tar.write_bytes(make_tar({"d/a.txt": b"a"}, {"d/link.txt": "/etc/hostname"}))
    with pytest.raises(UnsafeFileError, match=r"d/link\.txt .* is a link"):
        extract(tar, ["d/"], tmp_path / "out")


@pytest.mark.parametrize("member", ["p/nothing.txt", "none/", "p/a.txt!inner.txt"])
def test_missing_member_or_no_archive_is_named(tmp_path: Path, member: str) -> None:
    wheel = make_zip(tmp_path / "p.whl", {"p/a.txt": b"x"})
    with pytest.raises(FetchError, match=r"p/a\.txt"):
        extract(wheel, [member], tmp_path / "out")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    wheel = make_zip(tmp_path / "p.whl", {"a/x.txt": b"1", "b/x.txt": b"2"})
    with pytest.raises(FetchError, match="both be written"):
        extract(wheel, ["a/x.txt", "b/x.txt"], tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "deep/model.PT", "w.pth", "a.pkl", "a.pickle", "a.joblib", "a.ckpt"]
)
def test_pickle_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"harmless")
    with pytest.raises(UnsafeFileError, match=name):
        refuse_unsafe(tmp_path)


def test_pickle_is_known_by_its_bytes_whatever_its_name(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "weights.dat").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnsafeFileError, match=r"weights\.dat"):
        refuse_unsafe(tmp_path)


def test_numpy_objects_are_refused_and_numbers_are_not(tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "numbers.npy", np.arange(3))
    np.savez(tmp_path / "numbers.npz", a=np.arange(3))
    # A length of 0x0280 bytes makes the first two bytes look like a pickle's.
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x02\0\0\0\0\0\0{}")
    refuse_unsafe(tmp_path)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(UnsafeFileError, match=r"cut\.npz"):
        refuse_unsafe(tmp_path)
    (tmp_path / "cut.npz").unlink()
    with pytest.raises(UnsafeFileError, match=r"objects\.npy"):
        refuse_unsafe(tmp_path)
