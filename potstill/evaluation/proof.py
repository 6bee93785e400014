"""Does the teacher help? A student against two controls, over test rows and training seeds.

`pretrained` is what one would have without a teacher: the same layers of the pretrained base on gold labels.
`initialised` is what copying alone gives: the fine-tuned teacher's layers on gold labels, without its signals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from potstill.artifacts import read_json, write_json
from potstill.config import Evaluate
from potstill.data.batches import label_array, label_column
from potstill.errors import ChecksumError
from potstill.evaluation.marks import GoldAnswers, GoldTags
from potstill.evaluation.metrics import Labels
from potstill.evaluation.scoring import SCORINGS
from potstill.evaluation.statistics import Comparison, compare_scores, paired_bootstrap
from potstill.evaluation.summary import Answers, Gold, likeness, score_value

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
    """Write one seed's answers to the test split into a folder: `predictions.parquet` and `models.json`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: pa.array(list(one.logits), pa.list_(pa.float32())) for name, one in answers.items()}
    pq.write_table(pa.table({"label": label_column(labels), **columns}), folder / "predictions.parquet")
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
    if not np.array_equal(label_array(table.column("label")), labels):
        raise ChecksumError(f"{folder} is about other test rows than data/tokens holds; run the proof stage again")
    return {name: Answers(np.array(table.column(name).to_pylist(), dtype=np.float32), **about[name]) for name in MODELS}
