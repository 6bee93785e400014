"""Files that are meant to do harm: pickles wherever a file comes in, and files of the system named as data."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potstill.artifacts import write_manifest
from potstill.errors import FormatError
from potstill.inference.runtime import Student
from potstill.training import checkpoints
from tests.chaos.full_disks import save
from tests.conftest import generate_rows, write_csv
from tests.potstill.serving.folders import write_serving
from tests.tasks.data_workspace import make_workspace, run_stages


class Canary:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def prepare(folder: Path, data: Path, teacher: Path) -> None:
    """Take data and a teacher in, up to the token ids."""
    with pytest.MonkeyPatch.context() as patch:
        make_workspace(folder / "w", data, teacher)
        run_stages("ingest", "prepare", "validate", "pretrain", "tokenize", monkeypatch=patch, folder=folder / "w")


def data_file(name: str) -> Callable[[Path, bytes, Path], None]:
    """Take in data that is a pickle."""

    def take_in(folder: Path, content: bytes, base: Path) -> None:
        (folder / name).write_bytes(content)
        prepare(folder, folder / name, base)

    return take_in


def teacher_file(name: str) -> Callable[[Path, bytes, Path], None]:
    """Take in a teacher one of whose files is a pickle."""

    def take_in(folder: Path, content: bytes, base: Path) -> None:
        shutil.copytree(base, folder / "teacher")
        (folder / "teacher" / name).write_bytes(content)
        prepare(folder, write_csv(folder / "rows.csv", generate_rows(200)), folder / "teacher")

    return take_in


def served_file(name: str) -> Callable[[Path, bytes, Path], None]:
    """Load a student one of whose files is a pickle, with a manifest that says that it belongs there."""

    def take_in(folder: Path, content: bytes, base: Path) -> None:
        serving = write_serving(base, folder / "serving", variant="fp32")
        (serving / name).write_bytes(content)
        write_manifest(serving)
        Student(serving)

    return take_in


def checkpoint_file(name: str) -> Callable[[Path, bytes, Path], None]:
    """Resume from a checkpoint one of whose files is a pickle, with a manifest that says that it belongs there."""

    def take_in(folder: Path, content: bytes, base: Path) -> None:
        save(folder, 1)
        (folder / "step-000000001" / name).write_bytes(content)
        write_manifest(folder / "step-000000001")
        checkpoints.newest(folder)

    return take_in


PLACES = {
    **{f"data: {name}": data_file(name) for name in ("a.csv", "a.parquet", "a.jsonl", "a.pkl", "a.csv.gz", "a.xz")},
    **{
        f"teacher: {name}": teacher_file(name)
        for name in ("pytorch_model.bin", "model.safetensors", "tokenizer.json", "config.json")
    },
    **{f"student: {name}": served_file(name) for name in ("model.onnx", "tokenizer.json", "model.json")},
    **{f"checkpoint: {name}": checkpoint_file(name) for name in ("model.safetensors", "state.json")},
}


@pytest.mark.parametrize("protocol", [0, 4])
@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_is_never_loaded(place: str, protocol: int, tiny_base: Path, tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    content = pickle.dumps(Canary(fired), protocol)
    with pytest.raises(Exception, match=r"\w"):
        PLACES[place](tmp_path, content, tiny_base)
    assert not fired.exists()
    pickle.loads(content)
    assert fired.exists()  # it would have


def test_a_file_of_the_system_is_no_data(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_workspace(tmp_path / "w", Path("/etc/passwd"), tiny_base)
    run_stages("ingest", monkeypatch=monkeypatch, folder=folder)
    with pytest.raises(FormatError) as raised:
        run_stages("prepare", monkeypatch=monkeypatch, folder=folder)
    assert not [line for line in Path("/etc/passwd").read_text().splitlines() if line in str(raised.value)]
    assert not (folder / "data/prepared").exists()
