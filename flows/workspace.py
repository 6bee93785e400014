"""`potstill init`: a workspace for data of one's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from flows.changes import dump_params, edit_params
from potstill.artifacts import write_json, write_text
from potstill.config import Pretrain, parse_params
from potstill.errors import EmptyDataError, FetchError, ParamsError, ToolError
from tasks.codefile import CODE_FILE, write_code_file
from tasks.stage import default_file

CODE_ROOMS = ("potstill", "tasks", "flows", "requirements.lock")
_IGNORED = [".work/", "/mlflow.db*", "/mlartifacts/", "/mlruns/", "/reports/", "/watch/"]
_README = """# {name}

A Potstill workspace: `params.yaml` says what is distilled from what, `dvc.yaml` how.

    potstill run       # what is not current, from the data to the promoted, packaged student
    potstill status    # stages, champion, challenger
    potstill serve     # the champion
"""


def create(folder: Path, data: Path, text: str, label: str, teacher: str | None) -> None:
    """Make a workspace; see `potstill init --help`.

    Raises:
        ParamsError: the folder is not empty, or teacher or columns cannot be used.
        MissingColumnError, EmptyDataError, EncodingError, ...: the data cannot be read as asked.
        ToolError: git or DVC is missing.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ParamsError(f"{folder} is not empty; name a new folder")
    columns = text.split(",") if "," in text else text
    params = _params(_name(folder), data, columns, label, teacher)
    folder.mkdir(parents=True, exist_ok=True)
    _version_control(folder)
    write_text(folder / "params.yaml", params)
    write_text(folder / "dvc.yaml", _graph())
    write_code_file(folder)
    for name in ("bentofile.yaml", "prefect.yaml"):
        write_text(folder / name, default_file(name).read_text(encoding="utf-8"))
    for name in ("accepted.json", "sources.json"):
        write_json(folder / "data" / name, {})
    write_text(folder / ".gitignore", "\n".join(_IGNORED) + "\n")
    write_text(folder / "README.md", _README.format(name=_name(folder)))
    print(f"{folder} is ready: look through {folder / 'params.yaml'}, then `cd {folder} && potstill run`")


def _name(folder: Path) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-")
    return slug[:40] or "project"


def _version_control(folder: Path) -> None:
    try:
        inside = _call(["git", "rev-parse", "--is-inside-work-tree"], folder) == 0
        if not inside and _call(["git", "init", "-q"], folder) != 0:
            raise ToolError(f"`git init` failed in {folder}; `potstill doctor` says what is missing")
    except FileNotFoundError:
        raise ToolError("git is not installed; install it, DVC needs it") from None
    subdir = ["--subdir"] if inside else []
    if _call([sys.executable, "-m", "dvc", "init", "-q", *subdir], folder) != 0:
        raise ToolError(f"`dvc init` failed in {folder}; run it there by hand to see why")
    write_text(folder / ".dvc" / "config", "[core]\n    analytics = false\n    check_update = false\n")


def _call(command: list[str], folder: Path) -> int:
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode


def _graph() -> str:
    """dvc.yaml without the code, which is the installed package here: `code.yaml` stands for it."""
    graph = yaml.safe_load(default_file("dvc.yaml").read_text(encoding="utf-8"))
    for stage in graph["stages"].values():
        if "deps" in stage:
            stage["deps"] = [path for path in stage["deps"] if path.split("/")[0] not in CODE_ROOMS]
            if not stage["deps"]:
                del stage["deps"]
        stage["params"] = [*stage["params"], {CODE_FILE.as_posix(): ["potstill", "tree"]}]
    head = "# The only stage graph and the only cache between runs; code.yaml stands for the installed Potstill.\n"
    return head + yaml.safe_dump(graph, sort_keys=False, width=120)


# --- params -----------------------------------------------------------------------------------------------------------


def _params(name: str, data: Path, text: str | list[str], label: str, teacher: str | None) -> str:
    """The default params.yaml, comments kept, with data, teacher and what depends on their size replaced."""
    labels = _count_labels(data, text, label)
    document = edit_params(default_file("params.yaml"))
    document["project"]["name"] = name
    document["ingest"]["data"] = {"data": {"kind": "file", "path": str(data.resolve())}}
    document["prepare"].update({"tables": [{"source": "data"}], "text": text})
    document["prepare"].update({"label": {"kind": "column", "column": label}, "labels": None})
    if not isinstance(text, str):
        document["prepare"]["augment"] = None  # it cuts single texts
    document["validate"].update(_minimums(labels, document["prepare"]["split"]))
    # What a good score is, nobody knows yet; the limits against teacher and control stay.
    document["gate"].update({"min_accuracy": None, "min_macro_f1": None})
    if teacher is not None:
        _use_teacher(document, teacher)
    result = dump_params(document)
    parse_params(yaml.safe_load(result), where=f"params.yaml for {data}")
    return result


def _count_labels(data: Path, text: str | list[str], label: str) -> Counter[str]:
    from potstill.data.labels import normal_label
    from potstill.data.tables import read_tables

    if not data.exists():
        raise FetchError(f"{data} does not exist; --data names a file, or a folder of files, of this machine")
    folder, files = (data.parent, data.name) if data.is_file() else (data, "*")
    counts: Counter[str] = Counter()
    for table in read_tables(folder, files, "auto", None, sys.maxsize):
        for column in [text] if isinstance(text, str) else text:
            table.column(column)
        counts.update(normal_label(value) for value in table.column(label) if value is not None)
    if not counts:
        raise EmptyDataError(f"{data} has no labelled rows; it needs some with {label!r} filled in")
    return counts


def _minimums(labels: Mapping[str, int], split: Mapping[str, float]) -> dict[str, Any]:
    """Half of what a seeded draw gives on average: low enough for cleaning, high enough to notice missing data."""
    rows, smallest = sum(labels.values()), min(labels.values())
    shares = {"train": 1 - split["dev"] - split["test"], "dev": split["dev"], "test": split["test"]}
    minimums = {name: max(1, int(rows * share / 2)) for name, share in shares.items()}
    per_class = max(1, int(smallest * min(shares.values()) / 4))
    return {"min_rows": {**minimums, "transfer": 0}, "min_per_class": per_class, "max_class_share": 0.95}


def _use_teacher(document: Any, teacher: str) -> None:
    folder = Path(teacher)
    document["ingest"].ca.items.pop("teacher", None)  # the comment is about the default one
    if teacher == "scratch" and not folder.is_dir():
        document["ingest"]["teacher"] = {"kind": "scratch"}
        document["distill"]["layers"] = strided_layers(Pretrain().layers)
        return
    if folder.is_dir():
        document["ingest"]["teacher"] = {"kind": "file", "path": str(folder.resolve())}
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            layers = int(config["num_hidden_layers"])
        except (OSError, ValueError, KeyError) as error:
            raise ParamsError(f"{folder} is no model folder: it has no config.json with num_hidden_layers") from error
        document["distill"]["layers"] = strided_layers(layers)
        tuned = any("SequenceClassification" in name for name in config.get("architectures") or [])
        document["teacher"]["fine_tuned"] = tuned
        return
    name, at, revision = teacher.partition("@")
    if not at or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ParamsError(
            f"--teacher {teacher}: there is no such folder, and a hub id needs its commit, 40 hex digits: id@commit"
        )
    document["ingest"]["teacher"] = {"kind": "hub", "id": name, "revision": revision}


def strided_layers(layers: int) -> list[int]:
    """Half of a teacher's layers, from the first to the last in even strides: these beat its upper ones."""
    count = max(1, layers // 2)
    return [0] if count == 1 else [round(index * (layers - 1) / (count - 1)) for index in range(count)]
