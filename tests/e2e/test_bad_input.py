"""Bad input as a user meets it: one sentence, an exit code of its own, nothing half-written, no traceback."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.commands.params_changes import change_params
from tests.conftest import generate_rows, write_csv
from tests.e2e.conftest import Finished
from tests.e2e.workspaces import TINY, command, make_workspace

HEADER = b"text,label\n"
GOOD = b"".join(f"{text},{label}\n".encode() for text, label in generate_rows(40))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A workspace over data.csv next to it, never run."""
    home = tmp_path_factory.mktemp("bad")
    data = write_csv(home / "data.csv", generate_rows(200))
    teacher = home / "teacher"
    shutil.copytree(tiny_base, teacher)
    return make_workspace(home / "workspace", data, teacher, home, TINY)


class Case:
    """A private copy of the template: its data, teacher and params can be spoilt."""

    def __init__(self, home: Path, template: Path) -> None:
        self.home, self.folder = home, home / "workspace"
        self.data, self.teacher = home / "data.csv", home / "teacher"
        shutil.copytree(template, self.folder)
        shutil.copyfile(template.parent / "data.csv", self.data)
        shutil.copytree(template.parent / "teacher", self.teacher)
        params = self.folder / "params.yaml"
        params.write_text(params.read_text().replace(str(template.parent), str(home)))

    def set(self, *settings: str) -> None:
        change_params(self.folder / "params.yaml", None, list(settings))

    def fails(self, stages: str, code: int) -> str:
        """Run the stages; all but the last succeed."""
        *before, last = stages.split()
        for stage in before:
            command("python", "-m", f"tasks.{stage}", cwd=self.folder, home=self.home)
        return failure(last, code, self.folder, self.home)


def failure(stage: str, code: int, folder: Path, home: Path) -> str:
    """The one sentence of a stage that fails and leaves no out."""
    left = set(folder.glob("data/*"))
    said = command("python", "-m", f"tasks.{stage}", cwd=folder, home=home, expect=code)
    assert set(folder.glob("data/*")) == left
    sentences = [line for line in said.splitlines() if line.startswith(f"{stage}: ")]
    assert len(sentences) == 1, said
    return sentences[0]


@pytest.fixture
def case(tmp_path: Path, template: Path) -> Case:
    return Case(tmp_path, template)


def test_data_that_cannot_be_used(case: Case) -> None:
    """Each kind of bad data is tried in tests/e2e/test_docs.py and tests/potstill/data, in process."""
    case.data.write_bytes(HEADER + GOOD + b"caf\xe9 society,positive\n")
    assert "UTF-8" in case.fails("ingest prepare", 25)


def test_pickled_weights(case: Case) -> None:
    (case.teacher / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    assert "pytorch_model.bin" in case.fails("ingest", 11)


def test_a_flipped_byte_between_stages(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "reviews", symlinks=True))
    shutil.rmtree(folder / "data" / "validation")
    path = folder / "data" / "prepared" / "train.parquet"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(bytes(damaged))
    assert "train.parquet is altered" in failure("validate", 10, folder, tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "distill.temprature=3"], "did you mean 'temperature'"),
        (["--set", "distill.temperature=warm"], "distill.temperature = 'warm'"),
        (["--set", "distill"], "distill"),
        (["--params", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_params_that_do_not_fit(case: Case, words: list[str], says: str) -> None:
    before = (case.folder / "params.yaml").read_bytes()
    said: Any = command("potstill", "run", *words, cwd=case.folder, home=case.home, expect=3)
    assert says in said
    assert (case.folder / "params.yaml").read_bytes() == before
    assert not (case.folder / ".work").exists() or not (case.folder / "data" / "raw").exists()
