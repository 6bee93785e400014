"""Whether the teacher helps: a student against two controls, over test rows and training seeds.

`pretrained` is the student without a teacher: the same layers of the pretrained base, trained on gold labels.
`initialised` is the student by copying alone: the fine-tuned teacher's layers, trained on gold labels without signals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from potstill.artifacts import read_json, write_json
from potstill.config.evaluation_params import Evaluate
from potstill.data.tokens.batches import SPAN, label_column, ragged
from potstill.errors import ChecksumError
from potstill.evaluation.summary import Answers, Gold, fidelity, score_value
from potstill.labels.offsets import IGNORED, flat_labels
from potstill.paths import TOKENS
from potstill.scores.metrics import Labels
from potstill.scores.statistics import Comparison

if TYPE_CHECKING:
    import pyarrow as pa

MODELS = ("student", "pretrained", "initialised")
# Attributes of `Answers` that a seed's `models.json` holds.
_FACTS = ("temperature", "parameters", "file_bytes", "task")


@dataclass(frozen=True)
class Seed:
    """The test answers of the models of one training seed.

    Attributes:
        seed: the seed they were trained with.
        answers: name in `MODELS` -> answers; `initialised` only where params ask for that control.
    """

    seed: int
    answers: Mapping[str, Answers]


def prove(
    labels: Gold, teacher: Answers, seeds: Sequence[Seed], settings: Evaluate, *, bootstrap_seed: int
) -> dict[str, Any]:
    """Compute `proof` of metrics.json: the verdict against each control, and every model's numbers, seed by seed.

    Args:
        labels: [rows, ...] gold labels in the task's form.
        teacher: the teacher's answers to those rows, for agreement and divergence.
        seeds: the models of each training seed, the served student's seed first.
        settings: level of the interval, resamples of the bootstrap, bins of the calibration error.
        bootstrap_seed: seed of the bootstrap.
    """
    names = [name for name in MODELS if all(name in seed.answers for seed in seeds)]
    options = {"replicates": settings.bootstrap, "confidence": settings.confidence, "seed": bootstrap_seed}
    verdicts = {}
    for control in names[1:]:
        comparison, differences = _compare_control(labels, seeds, control, options)
        verdicts[control] = comparison.to_json() | {"differences": differences}
    return {
        "seeds": [seed.seed for seed in seeds],
        "verdicts": verdicts,
        "models": {name: _numbers(labels, teacher, [seed.answers[name] for seed in seeds], settings) for name in names},
    }


def _compare_control(
    labels: Gold, seeds: Sequence[Seed], control: str, options: Mapping[str, Any]
) -> tuple[Comparison, list[float]]:
    """Return the verdict against a control, and the difference of each seed."""
    sides = [[seed.answers[name] for seed in seeds] for name in ("student", control)]
    students, controls = ([(answers.view(labels), answers.logits) for answers in side] for side in sides)
    return sides[0][0].kind.compare(students, controls, **options)


def _numbers(labels: Gold, teacher: Answers, seeds: Sequence[Answers], settings: Evaluate) -> dict[str, list[float]]:
    """Compute one model's numbers, each a list over the seeds, the task's score first."""
    numbers = {teacher.kind.scoring.key: [score_value(labels, answers) for answers in seeds]}
    fidelities = [fidelity(teacher, answers, labels=labels) for answers in seeds]
    numbers |= {key: [values[key] for values in fidelities] for key in fidelities[0]}
    if teacher.kind.has_classes:
        numbers["ece"] = [answers.reliability(labels, settings.calibration_bins).ece for answers in seeds]
    return numbers


def flatten(proof: Mapping[str, Any]) -> dict[str, float]:
    """Flatten a proof for MLflow: means over the seeds, intervals, and each verdict as 1 (BEATS), 0 or -1 (LOSES)."""
    flat = {"proof_seeds": float(len(proof["seeds"]))}
    for control, verdict in proof["verdicts"].items():
        flat |= {f"proof_{control}_{part}": verdict[part] for part in ("difference", "low", "high")}
        flat[f"proof_{control}_verdict"] = {"BEATS": 1.0, "NO DIFFERENCE": 0.0, "LOSES": -1.0}[verdict["outcome"]]
    for name, numbers in proof["models"].items():
        flat |= {f"proof_{name}_{key}": float(np.mean(values)) for key, values in numbers.items()}
    return flat


# --- the further seeds as files ---------------------------------------------------------------------------------------


def write_answers(folder: Path, labels: Labels, answers: Mapping[str, Answers]) -> None:
    """Write one seed's answers to the test split into a folder: `predictions.parquet` and `models.json`.

    A row is a text; for entities it is a token that answers, for questions a window.

    Args:
        folder: an existing folder.
        labels: [rows, ...] gold labels in the task's form.
        answers: name of a model -> its answers.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: _logits_column(model.logits) for name, model in answers.items()}
    pq.write_table(pa.table({"label": _gold_column(labels), **columns}), folder / "predictions.parquet")
    facts = {name: {fact: getattr(model, fact) for fact in _FACTS} for name, model in answers.items()}
    write_json(folder / "models.json", facts)


def _gold_column(labels: Labels) -> pa.Array:
    """Return the gold labels of texts, of the tokens that answer, or the spans of windows as a column."""
    import pyarrow as pa

    if labels.dtype == SPAN:
        return pa.array(np.stack([labels["start"], labels["end"]], axis=1).tolist(), pa.list_(pa.int32()))
    if labels.dtype.kind == "O":
        flat = flat_labels(labels)
        return pa.array(flat[flat != IGNORED])
    return label_column(labels)


def _logits_column(logits: npt.NDArray[Any]) -> pa.Array:
    import pyarrow as pa

    numbers = pa.list_(pa.float32())
    if logits.dtype.kind == "O":
        return pa.array([row.tolist() for row in logits], pa.list_(numbers))
    return pa.array(list(logits), numbers)


def _column_logits(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Read logits from a column; the inverse of `_logits_column`."""
    rows = column.to_pylist()
    if rows and rows[0] and isinstance(rows[0][0], list):
        return ragged([np.array(row, dtype=np.float32) for row in rows])
    return np.array(rows, dtype=np.float32)


def read_seeds(folder: Path, labels: Labels) -> list[Seed]:
    """Read the further seeds of `data/proof`, in order.

    Raises:
        ChecksumError: they are about other test rows.
    """
    folders = sorted(folder.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
    return [Seed(int(path.name.removeprefix("seed-")), _read_answers(path, labels)) for path in folders]


def _read_answers(folder: Path, labels: Labels) -> dict[str, Answers]:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "predictions.parquet")
    facts = read_json(folder / "models.json")
    if table.column("label").to_pylist() != _gold_column(labels).to_pylist():
        raise ChecksumError(f"{folder} is about other test rows than {TOKENS} holds; run the proof stage again")
    return {name: Answers(_column_logits(table.column(name)), **facts[name]) for name in MODELS if name in facts}
