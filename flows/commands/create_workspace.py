"""`potstill init`: makes a workspace for the user's own data."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.data_overview import overview
from flows.commands.propose_params import open_teacher, propose_params
from potstill.artifacts import write_json, write_text
from potstill.config.params_file import load_params
from potstill.errors import ParamsError, ToolError
from potstill.paths import ACCEPTED_PROFILE, ARTIFACTS, CODE_FILE, EXPORTS, PARAMS, SOURCES, STORE, WORK
from tasks.identity import write_code_file
from tasks.stage import default_file

if TYPE_CHECKING:
    from potstill.data.proposals.proposal import DataOptions

_IGNORED = [
    f"{WORK}/",
    f"/{CODE_FILE}",
    f"/{STORE}*",
    f"/{ARTIFACTS}/",
    "/mlruns/",
    "/reports/",
    "/watch/",
    f"/{EXPORTS}/",
]
_README = """# {name}

A Potstill workspace: `params.yaml` says what is distilled from what, `dvc.yaml` how.

    potstill run       # what is not current, from the data to the promoted, packaged student
    potstill status    # stages, champion, challenger
    potstill serve     # the champion
"""


def create(folder: Path, data: Path, wishes: DataOptions, teacher: str | None) -> None:
    """Make a workspace; see `potstill init --help`.

    Args:
        folder: new or empty.
        data: a file or a folder of files.
        wishes: what the user says about the data.
        teacher: a folder, `id@commit`, `scratch`, or None for the default teacher.

    Raises:
        ParamsError: the folder is not empty, or teacher or columns cannot be used.
        PotstillError: data or teacher cannot be used; see docs/errors.md.
        ToolError: git or DVC is missing.
    """
    from potstill.data.proposals.survey import survey

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParamsError(f"{folder} is not empty; name a new folder")
    with open_teacher(teacher) as teacher_choice:
        data_survey = survey(data, wishes)
        proposed = propose_params(default_file("params.yaml"), _project_name(folder), data, data_survey, teacher_choice)
        with _complete_or_absent(folder):
            _write_workspace(folder, proposed.text)
            lines = list(overview(data_survey, proposed, folder))
    for topic, value in lines:
        print(f"{topic + ':':<12} {value}")
    print(f"{folder} is ready: look through {folder / PARAMS}, then `cd {folder} && potstill run`")


def _write_workspace(folder: Path, params: str) -> None:
    _init_version_control(folder)
    write_text(folder / PARAMS, params)
    for name in ("dvc.yaml", "bentofile.yaml", "prefect.yaml"):
        write_text(folder / name, default_file(name).read_text(encoding="utf-8"))
    write_code_file(folder, load_params(folder / PARAMS))
    for path in (ACCEPTED_PROFILE, SOURCES):
        write_json(folder / path, {})
    write_text(folder / ".gitignore", "\n".join(_IGNORED) + "\n")
    write_text(folder / "README.md", _README.format(name=_project_name(folder)))


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[None]:
    """Make a folder for the block; an error removes it with the parents it needed, or empties it if it existed."""
    existed = folder.exists()
    topmost_new = next((parent for parent in reversed([folder, *folder.parents]) if not parent.exists()), folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not existed:
            shutil.rmtree(topmost_new, ignore_errors=True)
        else:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        raise


def _project_name(folder: Path) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return slug[:40] or "project"


def _init_version_control(folder: Path) -> None:
    try:
        in_repository = _call(["git", "rev-parse", "--is-inside-work-tree"], folder) == 0
        if not in_repository and _call(["git", "init", "-q"], folder) != 0:
            raise ToolError(f"`git init` failed in {folder}; `potstill doctor` says what is missing")
    except FileNotFoundError:
        raise ToolError("git is not installed; install it, DVC needs it") from None
    subdir = ["--subdir"] if in_repository else []
    if _call([sys.executable, "-m", "dvc", "init", "-q", *subdir], folder) != 0:
        raise ToolError(f"`dvc init` failed in {folder}; run it there by hand to see why")
    write_text(folder / ".dvc" / "config", "[core]\n    analytics = false\n    check_update = false\n")


def _call(command: list[str], folder: Path) -> int:
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode
