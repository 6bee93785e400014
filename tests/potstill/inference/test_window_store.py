from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import fsspec  # type: ignore[import-untyped]
import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

from potstill.errors import ToolError
from potstill.inference.window_store import candidate_location, open_store


@pytest.mark.parametrize("kind", ["folder", "memory", "file"])
def test_files_are_stored_by_name(kind: str, tmp_path: Path) -> None:
    location = f"{'' if kind == 'folder' else f'{kind}://'}{tmp_path}/not there/watch"
    store = open_store(candidate_location(location, "0123456789abcdef"))
    assert str(store) == f"{location}/0123456789ab"
    assert store.names() == []
    store.write("b.json", "ü\n")
    store.write("a.json", "1")
    store.write("a.json", "2")
    assert store.names() == ["a.json", "b.json"]
    assert (store.read("a.json"), store.read("b.json")) == ("2", "ü\n")
    assert open_store(candidate_location(location, "0123456789abxxxx")).names() == ["a.json", "b.json"]
    store.remove("a.json")
    store.remove("a.json")
    assert store.names() == ["b.json"]


def test_the_first_write_to_a_folder_removes_what_a_killed_process_has_left(tmp_path: Path) -> None:
    (tmp_path / ".20261130T000000Z-7-0.counts.json.tmp").touch()
    open_store(str(tmp_path)).write("a.json", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://a", "nowhere://a cannot be opened: fsspec knows no nowhere://"),
        # A package that is never installed here.
        ("gs://a/b", "gs://a/b needs the package gcsfs, which is not installed; .* python.packages of bentofile.yaml"),
    ],
)
def test_a_url_that_cannot_be_opened_is_one_sentence(url: str, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        open_store(url)


def test_a_missing_bucket_is_not_created() -> None:
    class Bucketless(MemoryFileSystem):  # type: ignore[misc]
        protocol = "bucketless"
        created: ClassVar[list[str]] = []

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("bucketless://")

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
            raise FileNotFoundError("there is no such bucket")

        def mkdir(self, path: str, create_parents: bool = True, **_: object) -> None:
            assert not create_parents
            self.created.append(path)

    fsspec.register_implementation("bucketless", Bucketless, clobber=True)
    with pytest.raises(FileNotFoundError, match="no such bucket"):
        open_store("bucketless://mine/watch/a").write("b", "c")
    assert Bucketless.created == ["mine/watch", "mine/watch/a"]
