"""Does the teacher help? A student against two controls, over test rows and training seeds.

`pretrained` is what one would have without a teacher: the same layers of the pretrained base on gold labels.
`initialised` is what copying alone gives: the fine-tuned teacher's layers on gold labels, without its signals.
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
from potstill.data.tokens.offsets import IGNORED, flat_labels
from potstill.errors import ChecksumError
from potstill.evaluation.marks import GoldAnswers, GoldTags
from potstill.evaluation.summary import Answers, Gold, likeness, score_value
from potstill.scores.metrics import Labels
from potstill.scores.scoring import SCORINGS
from potstill.scores.statistics import Comparison, compare_scores, paired_bootstrap

if TYPE_CHECKING:
    import pyarrow as pa

CONTROLS = ("pretrained", "initialised")
MODELS = ("student", *CONTROLS)


@dataclass(frozen=True)
class Seed:
    """What the models of one training seed said about the test split.

    Attributes:
        seed: the seed they were trained with.
        answers: name of `MODELS` -> answers.
    """

    seed: int
    answers: Mapping[str, Answers]


def prove(
    labels: Gold, teacher: Answers, seeds: Sequence[Seed], settings: Evaluate, *, bootstrap_seed: int
) -> dict[str, Any]:
    """`proof` of metrics.json: the verdict against each control, and every model's numbers, seed by seed.

    Args:
        labels: [rows, ...] gold labels in the task's form.
        teacher: its answers to those rows; agreement and divergence are with it.
        seeds: the models of each training seed, the served student's first.
        settings: level of the interval, resamples of the bootstrap, bins of the calibration error.
        bootstrap_seed: of the bootstrap.
    """
    options = {"replicates": settings.bootstrap, "confidence": settings.confidence, "seed": bootstrap_seed}
    verdicts = {}
    for control in CONTROLS:
        against, differences = _against(labels, seeds, control, options)
        verdicts[control] = against.to_json() | {"differences": differences}
    return {
        "seeds": [one.seed for one in seeds],
        "verdicts": verdicts,
        "models": {name: _numbers(labels, teacher, [one.answers[name] for one in seeds], settings) for name in MODELS},
    }


def _against(
    labels: Gold, seeds: Sequence[Seed], control: str, options: Mapping[str, Any]
) -> tuple[Comparison, list[float]]:
    """The verdict against a control, and the difference of each seed."""
    ours, theirs = ([one.answers[name] for one in seeds] for name in ("student", control))
    if not isinstance(labels, GoldTags | GoldAnswers) and ours[0].task == "single_label":
        first, second = (np.stack([one.predictions for one in side]) for side in (ours, theirs))
        gains = (first == labels).sum(axis=1) - (second == labels).sum(axis=1)
        return paired_bootstrap(labels, first, second, **options), [int(gain) / len(labels) for gain in gains]
    key = SCORINGS[ours[0].task].key
    sums, others = ([one.moments(labels) for one in side] for side in (ours, theirs))
    differences = [one.values[key] - other.values[key] for one, other in zip(sums, others, strict=True)]
    return compare_scores(sums, others, key, **options), differences


def _numbers(labels: Gold, teacher: Answers, answers: Sequence[Answers], settings: Evaluate) -> dict[str, list[float]]:
    """One model's numbers, each a list over the seeds: the task's score first."""
    scoring = SCORINGS[teacher.task]
    found = {scoring.key: [score_value(labels, one) for one in answers]}
    alike = [likeness(teacher, one, labels=labels) for one in answers]
    found |= {key: [one[key] for one in alike] for key in alike[0]}
    if teacher.task not in ("regression", "question_answering"):
        found["ece"] = [one.reliability(labels, settings.calibration_bins).ece for one in answers]
    return found


def flatten(proof: Mapping[str, Any]) -> dict[str, float]:
    """A proof's numbers for MLflow: means over the seeds, intervals, and each verdict as 1 (BEATS), 0 or -1 (LOSES)."""
    found = {"proof_seeds": float(len(proof["seeds"]))}
    for control, verdict in proof["verdicts"].items():
        found |= {f"proof_{control}_{part}": verdict[part] for part in ("difference", "low", "high")}
        found[f"proof_{control}_verdict"] = {"BEATS": 1.0, "NO DIFFERENCE": 0.0, "LOSES": -1.0}[verdict["outcome"]]
    for name, numbers in proof["models"].items():
        found |= {f"proof_{name}_{key}": float(np.mean(values)) for key, values in numbers.items()}
    return found


# --- the further seeds as files ---------------------------------------------------------------------------------------


def write_answers(folder: Path, labels: Labels, answers: Mapping[str, Answers]) -> None:
    """Write one seed's answers to the test split into a folder: `predictions.parquet` and `models.json`.

    A row is a text; of entities a token that answers, of questions a window.

    Args:
        folder: exists.
        labels: [rows, ...] gold labels in the task's form.
        answers: name of a model -> what it said.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: _logits_column(one.logits) for name, one in answers.items()}
    pq.write_table(pa.table({"label": _gold_column(labels), **columns}), folder / "predictions.parquet")
    about = {
        name: {
            "temperature": one.temperature,
            "parameters": one.parameters,
            "file_bytes": one.file_bytes,
            "task": one.task,
        }
        for name, one in answers.items()
    }
    write_json(folder / "models.json", about)


def _gold_column(labels: Labels) -> pa.Array:
    """Gold labels of what answers: of texts, of tokens that are asked, or the spans of windows."""
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


def _logits_of(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """`_logits_column` undone."""
    rows = column.to_pylist()
    if rows and rows[0] and isinstance(rows[0][0], list):
        return ragged([np.array(row, dtype=np.float32) for row in rows])
    return np.array(rows, dtype=np.float32)


def read_seeds(folder: Path, labels: Labels) -> list[Seed]:
    """The further seeds of `data/proof`, in order.

    Raises:
        ChecksumError: they are about other test rows.
    """
    folders = sorted(folder.glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
    return [Seed(int(path.name.removeprefix("seed-")), _read_answers(path, labels)) for path in folders]


def _read_answers(folder: Path, labels: Labels) -> dict[str, Answers]:
    import pyarrow.parquet as pq

    table, about = pq.read_table(folder / "predictions.parquet"), read_json(folder / "models.json")
    if table.column("label").to_pylist() != _gold_column(labels).to_pylist():
        raise ChecksumError(f"{folder} is about other test rows than data/tokens holds; run the proof stage again")
    return {name: Answers(_logits_of(table.column(name)), **about[name]) for name in MODELS}
