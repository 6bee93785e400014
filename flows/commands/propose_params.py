"""Proposes params.yaml for the user's data and teacher: the default file, comments kept, adapted to both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.inspect_model import model_source
from flows.commands.params_changes import dump_params, edit_params
from potstill.config.params import Params
from potstill.config.params_file import parse_params
from potstill.config.teacher_params import Pretrain
from potstill.config.tokenize_params import Tokenize
from potstill.config.yaml_file import load_yaml
from potstill.errors import TokenizationError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.students.layer_choice import default_layers

if TYPE_CHECKING:
    from potstill.data.proposals.survey import Survey
    from potstill.data.tokens.coverage import Coverage
    from potstill.onnx_export.size import StudentShape
    from potstill.pretrained.inspection import Inspection
    from potstill.training.plan import DataSize

SCRATCH = "scratch"
# Shortest and longest sequence that is proposed where it cuts no more texts than `tokenize.max_cut_share` allows.
_LENGTHS = (128, 256)
# A vocabulary for many languages is trimmed if the file has room for this many tokens: ten thousand characters, as
# Chinese texts need them, and the words.
_ROOMY_VOCABULARY = 16_000


@dataclass(frozen=True)
class TeacherChoice:
    """A teacher as `--teacher` names it.

    Attributes:
        source: the value of `ingest.teacher`; None for the default teacher.
        inspection: of its folder; None for the default teacher and for one that is trained from scratch.
        layers: the student's layers; None for those of the default params.
        folder: the folder with its tokenizer, while `open_teacher` holds it; None where there is no inspection.
    """

    source: dict[str, Any] | None
    inspection: Inspection | None
    layers: list[int] | None
    folder: Path | None = None

    @property
    def scratch(self) -> bool:
        """Whether it is trained from scratch."""
        return self.source is not None and self.source["kind"] == SCRATCH


@dataclass(frozen=True)
class Proposed:
    """A proposed params.yaml, and the facts it follows from."""

    text: str
    params: Params
    teacher: TeacherChoice
    size: DataSize
    coverage: Coverage
    estimated: bool

    @property
    def config(self) -> Mapping[str, Any]:
        """The teacher's config.json, as far as a forecast needs it."""
        from potstill.data.proposals.english_coverage import CONFIG
        from potstill.training.forecast import scratch_config

        config: Mapping[str, Any] = CONFIG
        if self.teacher.inspection is not None:
            config = self.teacher.inspection.saved.config
        elif self.teacher.scratch:
            config = scratch_config(self.params)
        return config


@contextmanager
def open_teacher(teacher: str | None) -> Iterator[TeacherChoice]:
    """Yield the teacher that `--teacher` names, with the files of a hub model that an inspection needs.

    Raises:
        ParamsError: neither a folder, a hub id with its commit, nor `scratch`.
        FetchError: the hub did not deliver it.
        UnsafeFileError, ModelError, LabelCountError: a model that cannot be used.
    """
    from potstill.data.fetching.ingestion import open_for_inspection, source_name
    from potstill.pretrained.inspection import inspect_model

    if teacher is None:
        yield TeacherChoice(None, None, None)
    elif teacher == SCRATCH and not Path(teacher).is_dir():
        yield TeacherChoice({"kind": SCRATCH}, None, default_layers(Pretrain().layers))
    else:
        source = model_source(teacher, "--teacher")
        with open_for_inspection(source) as folder:
            inspection = inspect_model(folder, where=source_name(source))
            values = source.model_dump(exclude_defaults=True)
            yield TeacherChoice(values, inspection, default_layers(inspection.layers), folder)


def propose_params(defaults: Path, name: str, data: Path, survey: Survey, teacher: TeacherChoice) -> Proposed:
    """Adapt the default params to data and teacher.

    Args:
        defaults: the default params.yaml.
        name: the project's name.
        data: the file or folder.
        survey: the survey of the data.
        teacher: see `open_teacher`.

    Raises:
        TokenizationError: too many tokens of the texts are unknown to the teacher's tokenizer.
    """
    from potstill.training.plan import plan_training

    coverage, estimated = _cover(survey, teacher)
    document = edit_params(defaults)
    document["project"]["name"] = name
    document["ingest"]["data"] = {"data": {"kind": "file", "path": str(data.resolve())}}
    _set_teacher(document, survey, teacher)
    _set_prepare(document["prepare"], survey)
    document["validate"].update(survey.limits)
    _set_length(document["tokenize"], survey, teacher, coverage)
    _set_gate(document["gate"], survey, teacher)
    size = _size(survey, teacher, document, coverage)
    for stage, plan in plan_training(size).items():
        if not (stage == "teacher" and document["teacher"]["fine_tuned"]):
            document[stage].update(plan.params())
    text, params = _validated(document, data)
    proposed = Proposed(text, params, teacher, size, coverage, estimated)
    if _is_too_large(proposed):
        _make_file_fit(document, proposed)
        text, params = _validated(document, data)
        proposed = replace(proposed, text=text, params=params)
    return proposed


def _is_too_large(proposed: Proposed) -> bool:
    """Whether the file that will ship is over the limit of the gate."""
    megabytes, limit = file_megabytes(proposed), proposed.params.gate.max_file_mb
    return megabytes is not None and limit is not None and megabytes > limit


def _make_file_fit(document: Any, proposed: Proposed) -> None:
    """Trim the student's vocabulary if the file then fits the limit, with room for words; else raise the limit."""
    shape, params = _shape(proposed), proposed.params
    limit = params.gate.max_file_mb
    assert shape is not None  # it has just been compared with the limit
    assert limit is not None
    bits = params.export.embedding_bits
    if shape.fitting_tokens(limit, bits) >= _ROOMY_VOCABULARY:
        document["tokenize"]["vocabulary"] = {"max_tokens": "auto", "scripts": "used", "spell": False}
    else:
        document["gate"]["max_file_mb"] = float(math.ceil(shape.file_bytes(bits) / 1e6 * 1.1))


def _validated(document: Any, data: Path) -> tuple[str, Params]:
    text = dump_params(document)
    return text, parse_params(load_yaml(text), where=f"params.yaml for {data}")


def file_megabytes(proposed: Proposed) -> float | None:
    """Return the size of the INT8 file that will ship, if its vocabulary is trimmed the largest that it can have.

    None where the student's shape is not known before a run.
    """
    params, shape = proposed.params, _shape(proposed)
    limit, bits = params.gate.max_file_mb, params.export.embedding_bits
    if shape is not None and limit is not None and params.tokenize.vocabulary is not None:
        shape = _shape(proposed, shape.fitting_tokens(limit, bits))
    return None if shape is None else shape.file_bytes(bits) / 1e6


def _shape(proposed: Proposed, vocabulary: int | None = None) -> StudentShape | None:
    from potstill.onnx_export.size import student_shape

    return student_shape(proposed.config, proposed.params.distill, labels=proposed.size.outputs, vocabulary=vocabulary)


def _cover(survey: Survey, teacher: TeacherChoice) -> tuple[Coverage, bool]:
    """Return how the teacher's tokenizer covers the texts, and whether that is an estimate."""
    from potstill.data.proposals.english_coverage import estimate_coverage
    from potstill.data.tokens.coverage import check_unknown, measure_coverage

    texts = survey.texts()
    estimated = teacher.folder is None
    coverage = estimate_coverage(texts) if teacher.folder is None else measure_coverage(teacher.folder, texts)
    if not teacher.scratch:
        try:
            check_unknown(coverage.unknown_share, Tokenize().max_unknown_share)
        except TokenizationError as error:
            raise TokenizationError(
                f"{error}; --teacher names a folder or a hub id, --teacher scratch trains one on these texts"
            ) from None
    return coverage, estimated


def _set_teacher(document: Any, survey: Survey, teacher: TeacherChoice) -> None:
    if teacher.source is None:
        return
    document["ingest"].ca.items.pop("teacher", None)  # the comment describes the default teacher
    document["ingest"]["teacher"] = dict(teacher.source)
    if teacher.layers is not None:
        document["distill"]["layers"] = teacher.layers
    if teacher.inspection is not None:
        document["teacher"]["fine_tuned"] = teacher.inspection.has_head_of(survey.proposal.task)


def _set_prepare(prepare: Any, survey: Survey) -> None:
    from potstill.training.plan import augmentation

    prepare["split"].update(survey.section["split"])
    prepare.update({key: value for key, value in survey.section.items() if key != "split"})
    prepare.pop("labelled_rows", None)  # the default data has more labels than it shows; one's own keep theirs
    single = isinstance(survey.section["text"], str) and not KINDS[survey.proposal.task].marks_spans
    cuts = augmentation(len(survey.splits["train"])) if single else None
    prepare["augment"] = None if cuts is None else {**cuts, "seed": 0}


def _set_length(tokenize: Any, survey: Survey, teacher: TeacherChoice, coverage: Coverage) -> None:
    """Set a sequence length that holds nearly all texts, up to a limit beyond which training on a CPU takes hours."""
    from potstill.data.tokens.coverage import fitting_length

    positions = Pretrain().max_length if teacher.scratch else None
    if teacher.inspection is not None:
        positions = teacher.inspection.positions
    max_length = positions or 512
    fitting = fitting_length(coverage, max_length)
    length = min(max(_LENGTHS[0], min(fitting, _LENGTHS[1])), max_length)
    limit = Tokenize().max_cut_share
    if not KINDS[survey.proposal.task].marks_spans and limit is not None and coverage.cut_share(length) > limit:
        length = fitting
        if coverage.cut_share(length) > limit:
            tokenize["max_cut_share"] = round(min(1.0, coverage.cut_share(length) * 1.2), 2)
    tokenize["max_length"] = length


def _set_gate(gate: Any, survey: Survey, teacher: TeacherChoice) -> None:
    """Drop limits on the score, since nobody knows a good score yet; the limits against teacher and control stay."""
    gate.update({"min_accuracy": None, "min_macro_f1": None})
    if "max_ece" not in KINDS[survey.proposal.task].limits:
        gate["max_ece"] = None
    if teacher.scratch:
        gate.update({"min_speedup": None, "min_advantage": None})  # the teacher is small itself


def _size(survey: Survey, teacher: TeacherChoice, document: Any, coverage: Coverage) -> DataSize:
    """Return the sizes that the training plans follow from."""
    from potstill.training.plan import DataSize

    rows = len(survey.splits["train"])
    cuts = document["prepare"]["augment"] or {}
    length = document["tokenize"]["max_length"]
    return DataSize(
        rows=rows,
        tokens=coverage.mean(length),
        outputs=len(survey.labels),
        transfer=len(survey.splits["transfer"]) + rows * (cuts.get("crops", 0) + cuts.get("splices", 0)),
        scratch=teacher.scratch,
        **({"width": teacher.inspection.width} if teacher.inspection is not None else {}),
    )
