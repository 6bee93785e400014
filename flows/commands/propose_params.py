"""params.yaml for data and a teacher of one's own: the default one, comments kept, with what follows from both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands.inspect_model import source_of
from flows.commands.params_changes import dump_params, edit_params
from potstill.config.base import OF_PLACES
from potstill.config.params import Params
from potstill.config.params_file import parse_params
from potstill.config.promotion_params import GATE_TASKS
from potstill.config.teacher_params import Pretrain
from potstill.config.tokenize_params import Tokenize
from potstill.config.yaml_file import load_yaml
from potstill.errors import TokenizationError
from potstill.models.students.layer_choice import default_layers

if TYPE_CHECKING:
    from potstill.data.proposals.survey import Survey
    from potstill.data.tokens.coverage import Coverage
    from potstill.pretrained.inspection import Inspection
    from potstill.training.plan import DataSize

SCRATCH = "scratch"
# Longer sequences than that are only proposed where more than half of the texts would be cut.
_LENGTHS = (128, 256)


@dataclass(frozen=True)
class Given:
    """A teacher as `--teacher` names it.

    Attributes:
        source: for `ingest.teacher`; None: the default one.
        look: at its folder; None for the default one and for one that is trained.
        layers: of the student; None: as in the default params.
        folder: with its tokenizer, as long as it is open; None where there is no look.
    """

    source: dict[str, Any] | None
    look: Inspection | None
    layers: list[int] | None
    folder: Path | None = None

    @property
    def scratch(self) -> bool:
        """Whether it is trained from scratch."""
        return self.source is not None and self.source["kind"] == SCRATCH


@dataclass(frozen=True)
class Proposed:
    """A params.yaml, and what it was made from."""

    text: str
    params: Params
    teacher: Given
    size: DataSize
    coverage: Coverage
    estimated: bool

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json of the teacher, as far as a forecast needs it."""
        from potstill.data.proposals.english_coverage import CONFIG
        from potstill.training.forecast import scratch_config

        config: Mapping[str, Any] = CONFIG
        if self.teacher.look is not None:
            config = self.teacher.look.saved.config
        elif self.teacher.scratch:
            config = scratch_config(self.params)
        return config


@contextmanager
def open_teacher(teacher: str | None) -> Iterator[Given]:
    """Yield what `--teacher` names; of a hub model what a look needs is fetched for as long as it is open.

    Raises:
        ParamsError: neither a folder, a hub id with its commit, nor `scratch`.
        FetchError: the hub did not give it.
        UnsafeFileError, ModelError, LabelCountError: a model that cannot be used.
    """
    from potstill.data.fetching.ingestion import open_for_inspection, source_name
    from potstill.pretrained.inspection import inspect_model

    if teacher is None:
        yield Given(None, None, None)
    elif teacher == SCRATCH and not Path(teacher).is_dir():
        yield Given({"kind": SCRATCH}, None, default_layers(Pretrain().layers))
    else:
        source = source_of(teacher, "--teacher")
        with open_for_inspection(source) as folder:
            look = inspect_model(folder, where=source_name(source))
            yield Given(source.model_dump(exclude_defaults=True), look, default_layers(look.layers), folder)


def propose_params(defaults: Path, name: str, data: Path, survey: Survey, teacher: Given) -> Proposed:
    """Write what follows from data and teacher into the default params.

    Args:
        defaults: the default params.yaml.
        name: of the project.
        data: the file or folder.
        survey: of the data.
        teacher: see `open_teacher`.

    Raises:
        TokenizationError: the teacher's tokenizer does not know much of the texts.
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
    proposed = _checked(document, data, teacher, size, coverage, estimated)
    megabytes, limit = file_megabytes(proposed), proposed.params.gate.max_file_mb
    if megabytes is not None and limit is not None and megabytes > limit:
        document["gate"]["max_file_mb"] = float(math.ceil(megabytes * 1.1))
        proposed = _checked(document, data, teacher, size, coverage, estimated)
    return proposed


def _checked(
    document: Any, data: Path, teacher: Given, size: DataSize, coverage: Coverage, estimated: bool
) -> Proposed:
    text = dump_params(document)
    params = parse_params(load_yaml(text), where=f"params.yaml for {data}")
    return Proposed(text, params, teacher, size, coverage, estimated)


def file_megabytes(proposed: Proposed) -> float | None:
    """The INT8 file that will ship; None where the student's shape is not known before a run."""
    from potstill.onnx_export.size import student_shape

    params = proposed.params
    shape = student_shape(proposed.config, params.distill, labels=proposed.size.outputs)
    return None if shape is None else shape.file_bytes(params.export.embedding_bits) / 1e6


def _cover(survey: Survey, teacher: Given) -> tuple[Coverage, bool]:
    """What the teacher's tokenizer makes of the texts, and whether that is an estimate."""
    from potstill.data.proposals.english_coverage import estimate_coverage
    from potstill.data.tokens.coverage import check_unknown, measure_coverage

    texts = survey.texts()
    if teacher.folder is not None:
        coverage, estimated = measure_coverage(teacher.folder, texts), False
    else:
        coverage, estimated = estimate_coverage(texts), True
    if not teacher.scratch:
        try:
            check_unknown(coverage.unknown_share, Tokenize().max_unknown_share)
        except TokenizationError as error:
            raise TokenizationError(
                f"{error}; --teacher names a folder or a hub id, --teacher scratch trains one on these texts"
            ) from None
    return coverage, estimated


def _set_teacher(document: Any, survey: Survey, teacher: Given) -> None:
    if teacher.source is None:
        return
    document["ingest"].ca.items.pop("teacher", None)  # the comment is about the default one
    document["ingest"]["teacher"] = dict(teacher.source)
    if teacher.layers is not None:
        document["distill"]["layers"] = teacher.layers
    if teacher.look is not None:
        document["teacher"]["fine_tuned"] = teacher.look.has_head_of(survey.proposal.task)


def _set_prepare(prepare: Any, survey: Survey) -> None:
    from potstill.training.plan import augmentation

    prepare["split"].update(survey.section["split"])
    prepare.update({key: value for key, value in survey.section.items() if key != "split"})
    single = isinstance(survey.section["text"], str) and survey.proposal.task not in OF_PLACES
    cuts = augmentation(len(survey.splits["train"])) if single else None
    prepare["augment"] = None if cuts is None else {**cuts, "seed": 0}


def _set_length(tokenize: Any, survey: Survey, teacher: Given, coverage: Coverage) -> None:
    """Sequences that hold nearly all texts, up to a limit beyond which training on a CPU takes hours."""
    from potstill.data.tokens.coverage import fitting_length

    positions = Pretrain().max_length if teacher.scratch else None
    if teacher.look is not None:
        positions = teacher.look.positions
    most = positions or 512
    fitting = fitting_length(coverage, most)
    length = min(max(_LENGTHS[0], min(fitting, _LENGTHS[1])), most)
    limit = Tokenize().max_cut_share
    if survey.proposal.task not in OF_PLACES and limit is not None and coverage.cut_share(length) > limit:
        length = fitting
        if coverage.cut_share(length) > limit:
            tokenize["max_cut_share"] = round(min(1.0, coverage.cut_share(length) * 1.2), 2)
    tokenize["max_length"] = length


def _set_gate(gate: Any, survey: Survey, teacher: Given) -> None:
    """What a good score is, nobody knows yet; the limits against teacher and control stay."""
    gate.update({"min_accuracy": None, "min_macro_f1": None})
    if survey.proposal.task not in GATE_TASKS["max_ece"]:
        gate["max_ece"] = None
    if teacher.scratch:
        gate["min_speedup"] = None  # the teacher is small itself


def _size(survey: Survey, teacher: Given, document: Any, coverage: Coverage) -> DataSize:
    """What the plans follow from."""
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
        **({"width": teacher.look.width} if teacher.look is not None else {}),
    )
