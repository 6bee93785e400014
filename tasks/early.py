"""Checks before any training: params, templates, keys or a teacher with which the run would fail at its end."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from potstill.artifacts import read_json, read_json_if_present
from potstill.config.ingest_params import FileSource
from potstill.config.params import Params
from potstill.data.tokens.tokenization import STUDENT
from potstill.evaluation.behaviour.templates import read_templates
from potstill.models.students.student import check_available
from potstill.onnx_export.size import check_file_size, student_shape
from potstill.paths import BASE, GIVEN, LABELS, TOKENS
from potstill.pretrained.families import FAMILIES
from potstill.registry.signatures import signer_sum
from potstill.serving.launch import check_bento_home

# Stage -> the folder to which it writes the teacher, the later stage first.
_TEACHERS = {"pretrain": BASE, "ingest": GIVEN}


def check_early(params: Params, workspace: Path, finished: Collection[str] = ()) -> None:
    """Refuse templates that do not fit, an unusable key, layers that the teacher lacks, a file over `gate.max_file_mb`.

    The check reads only files of a few kilobytes, so that it can run before every stage. A limit that depends on a
    later stage's outs is checked after that stage.

    Args:
        params: the whole of params.yaml.
        workspace: holds `data/`.
        finished: stages whose outs are current. Outs of other stages may belong to an earlier run.

    Raises:
        ModelError: `distill` names layers that the teacher does not have.
        ParamsError: the templates do not fit, or the model's file will certainly be too large; the message names what
            makes it smaller.
        SignatureError: the key that is to sign the candidate cannot be used.
        ToolError: BentoML's store cannot be written.
    """
    check_bento_home()
    signer_sum(params.sign, workspace)
    _check_templates(params, workspace, finished)
    teacher = _teacher(params, workspace, finished)
    if teacher is None:
        return
    config = read_json(teacher / "config.json")
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        return  # ingest refuses such a model
    if params.distill.student.kind in ("layers", "distilbert"):
        check_available(params.distill, int(config[family.layers_key]), str(teacher))
    tokens, is_known = _vocabulary(params, workspace, finished)
    if not is_known:
        return
    shape = student_shape(
        read_json(workspace_student(teacher) / "config.json"),
        params.distill,
        labels=_label_count(params, workspace, finished),
        vocabulary=tokens,
        rank=params.tokenize.vocabulary.rank if params.tokenize.vocabulary is not None else None,
    )
    if shape is not None:
        check_file_size(params, shape)


def _check_templates(params: Params, workspace: Path, finished: Collection[str]) -> None:
    templates = params.evaluate.behaviour.templates
    if templates is not None:
        labels = _labels(params, workspace, finished)
        read_templates(workspace / templates, params.prepare.task, labels, pair=params.prepare.pair)


def workspace_student(teacher: Path) -> Path:
    """Return the folder of the model that the student starts from: the student's own checkpoint, or the teacher."""
    checkpoint = teacher / STUDENT
    return checkpoint if (checkpoint / "config.json").exists() else teacher


def _teacher(params: Params, workspace: Path, finished: Collection[str]) -> Path | None:
    """Return the folder with the teacher's config.json; None where the teacher is not in the workspace yet."""
    folders = [workspace / folder for stage, folder in _TEACHERS.items() if stage in finished]
    if isinstance(params.ingest.teacher, FileSource):
        folders.append(workspace / params.ingest.teacher.path)
    return next((folder for folder in folders if (folder / "config.json").exists()), None)


def _vocabulary(params: Params, workspace: Path, finished: Collection[str]) -> tuple[int | None, bool]:
    """Return the size of a trimmed vocabulary, None for the whole one, and whether that is known yet."""
    if params.tokenize.vocabulary is None:
        return None, True
    if "tokenize" not in finished:
        return None, False
    info = read_json_if_present(workspace / TOKENS / STUDENT / "info.json")
    tokens: int | None = info.get("vocabulary", {}).get("tokens")
    return tokens, tokens is not None or params.tokenize.vocabulary.max_tokens == "auto"


def _label_count(params: Params, workspace: Path, finished: Collection[str]) -> int:
    labels = _labels(params, workspace, finished)
    return 2 if labels is None else len(labels)


def _labels(params: Params, workspace: Path, finished: Collection[str]) -> list[str | int] | None:
    """Return the labels that params or data name; None where they are not known yet."""
    if params.prepare.labels is not None:
        return params.prepare.labels
    path = workspace / LABELS
    labels: list[str | int] | None = read_json(path)["labels"] if "prepare" in finished and path.exists() else None
    return labels
