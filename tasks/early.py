"""What params and teacher alone tell of the candidate: limits that it cannot meet are refused before any training."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from potstill.artifacts import read_json
from potstill.config.ingest_params import FileSource
from potstill.config.params import Params
from potstill.data.tokens.tokenization import STUDENT
from potstill.models.students.student import check_available
from potstill.onnx_export.size import check_file_size, student_shape
from potstill.pretrained.families import FAMILIES

# Stage -> the folder in which it puts the teacher, the later stage first.
_TEACHERS = {"pretrain": Path("data/base"), "ingest": Path("data/given")}
_TOKENS = Path("data/tokens")
_LABELS = Path("data/prepared/labels.json")


def check_early(params: Params, workspace: Path, done: Collection[str] = ()) -> None:
    """Refuse what cannot come to a promotion: layers that the teacher lacks, and a file over `gate.max_file_mb`.

    Looks at files of a few kilobytes alone, so that it can be asked before every stage; what is not known yet is
    looked at after the stage that makes it.

    Args:
        params: the whole of params.yaml.
        workspace: holds `data/`.
        done: stages whose outs are current; those of others may be of an earlier run.

    Raises:
        ModelError: `distill` names layers that the teacher does not have.
        ParamsError: the file will certainly be too large; the message names what makes it smaller.
    """
    teacher = _teacher(params, workspace, done)
    if teacher is None:
        return
    config = read_json(teacher / "config.json")
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return  # refused where the teacher comes in
    if params.distill.student.kind in ("layers", "distilbert"):
        check_available(params.distill, int(config[family.layers_key]), str(teacher))
    student = workspace_student(teacher)
    tokens, known = _vocabulary(params, workspace, done)
    if not known:
        return
    shape = student_shape(
        read_json(student / "config.json"),
        params.distill,
        labels=_label_count(params, workspace, done),
        vocabulary=tokens,
        rank=params.tokenize.vocabulary.rank if params.tokenize.vocabulary is not None else None,
    )
    if shape is not None:
        check_file_size(params, shape)


def workspace_student(teacher: Path) -> Path:
    """The folder of the model that the student starts from: its own checkpoint, where there is one, or the teacher."""
    own = teacher / STUDENT
    return own if (own / "config.json").exists() else teacher


def _teacher(params: Params, workspace: Path, done: Collection[str]) -> Path | None:
    """The folder with the teacher's config.json; None where it has not come in yet."""
    places = [workspace / folder for stage, folder in _TEACHERS.items() if stage in done]
    if isinstance(params.ingest.teacher, FileSource):
        places.append(workspace / params.ingest.teacher.path)
    return next((place for place in places if (place / "config.json").exists()), None)


def _vocabulary(params: Params, workspace: Path, done: Collection[str]) -> tuple[int | None, bool]:
    """The tokens of a trimmed vocabulary, None for the whole one, and whether that is known yet."""
    if params.tokenize.vocabulary is None:
        return None, True
    info = workspace / _TOKENS / STUDENT / "info.json"
    there = "tokenize" in done and info.exists()
    trimmed: Mapping[str, Any] = read_json(info).get("vocabulary", {}) if there else {}
    tokens: int | None = trimmed.get("tokens")
    return tokens, tokens is not None


def _label_count(params: Params, workspace: Path, done: Collection[str]) -> int:
    if params.prepare.labels is not None:
        return len(params.prepare.labels)
    path = workspace / _LABELS
    return len(read_json(path)["labels"]) if "prepare" in done and path.exists() else 2
