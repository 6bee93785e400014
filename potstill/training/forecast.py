"""Optimiser steps and minutes of every training stage, before any of them runs.

The minutes follow from a count of operations: six for each weight of a layer and token in a training step, two in
inference (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1). The machine does them at the
rate that its matrix products reach (`precision.choose_precision` measures and keeps it), and AdamW passes over every
weight once a step. On an idle machine stages of the default run took between 0.7 and 1.4 times what is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from potstill.config.ingest_params import ScratchSource
from potstill.config.params import Params
from potstill.config.training_params import Training
from potstill.pretrained.families import FAMILIES
from potstill.training.plan import DataSize, steps_per_epoch

# A model's layers against one large product of the same width: in 16 bits what surrounds the products weighs more.
_EFFICIENCY = {"fp32": 1.2, "bf16": 0.45, "fp16": 0.45}
_DROPOUT_COST = 1.33
_ADAMW_SECONDS = 7e-9
_START_SECONDS = 10.0
_TRAINING, _INFERENCE = 6, 2
# Of the labelled rows, those that are not train, for every evaluation on dev.
_DEV_SHARE = 1 / 7


@dataclass(frozen=True)
class Speed:
    """What the machine does: billions of operations a second in matrix products, and their number format."""

    gflops: float
    precision: str


@dataclass(frozen=True)
class StageForecast:
    """What a stage will take: optimiser steps (0 for one that trains nothing) and minutes."""

    steps: int
    minutes: float


def measure_speed(params: Params, config: Mapping[str, Any], remembered: Path) -> Speed:
    """The rate of the matrix products that the stages will use, measured within a second or two.

    Args:
        params: `project.device` and `project.precision` say where and how.
        config: config.json of the teacher.
        remembered: JSON file of the measurement, which the stages read as well (`.work/precision.json`).

    Raises:
        ToolError: the device is not there.
    """
    from potstill.compute.precision import choose_device, choose_precision, measured_rates

    family = FAMILIES[str(config["model_type"])]
    hidden = int(config[family.hidden_key])
    size = hidden, int(config.get(family.intermediate_key) or 4 * hidden)
    device = choose_device(params.project.device)
    precision, _ = choose_precision(params.project.precision, device, *size, remembered)
    fp32, half = measured_rates(device, *size, remembered)
    return Speed(fp32 if precision == "fp32" else half, precision)


def scratch_config(params: Params) -> dict[str, Any]:
    """config.json of a teacher from scratch, as far as a forecast needs it."""
    pretrain = params.pretrain
    return {
        "model_type": "bert",
        "vocab_size": pretrain.vocabulary,
        "hidden_size": pretrain.width,
        "intermediate_size": 4 * pretrain.width,
        "num_hidden_layers": pretrain.layers,
    }


def forecast(params: Params, size: DataSize, config: Mapping[str, Any], speed: Speed) -> dict[str, StageForecast]:
    """What every stage that trains or asks the teacher will take, by the stage's name.

    Args:
        params: the plans.
        size: of the data: rows, their tokens, what augmentation adds.
        config: config.json of the teacher (`scratch_config` for one from scratch).
        speed: of the machine (`measure_speed`).
    """
    everything = size.learned if params.distill.transfer else size.rows
    teacher = _Model.of(config, None)
    student = _Model.of(config, len(params.distill.layers))
    result: dict[str, StageForecast] = {}
    if isinstance(params.ingest.teacher, ScratchSource):
        result["pretrain"] = _training(params.pretrain, size.learned, size, teacher, speed)
    if not params.teacher.fine_tuned:
        one = _training(params.teacher, size.rows, size, teacher, speed)
        result["teacher"] = StageForecast(one.steps, one.minutes * params.teacher.seeds)
    asked = (params.teacher.seeds + len(params.teacher.members)) * everything * size.tokens
    result["signals"] = StageForecast(0, _minutes(_INFERENCE * teacher.layer_weights * asked, speed))
    result["distill"] = _training(params.distill, everything, size, student, speed)
    result["finetune"] = _training(params.finetune, size.rows, size, student, speed)
    control = _training(params.control, size.rows, size, student, speed)
    result["control"] = StageForecast(control.steps, 2 * control.minutes)
    return result


@dataclass(frozen=True)
class _Model:
    """Weights of an encoder: those of its layers, which every token meets, and all."""

    layer_weights: int
    weights: int

    @classmethod
    def of(cls, config: Mapping[str, Any], layers: int | None) -> _Model:
        """An encoder with as many layers; None: all of them."""
        family = FAMILIES[str(config["model_type"])]
        hidden, inner = int(config[family.hidden_key]), int(config[family.intermediate_key])
        count = int(config[family.layers_key]) if layers is None else layers
        each = 4 * hidden * hidden + (3 if family.gated else 2) * hidden * inner
        table = int(config["vocab_size"]) * int(config.get("embedding_size") or hidden)
        return cls(count * each, count * each + table)


def _training(plan: Training, rows: float, size: DataSize, model: _Model, speed: Speed) -> StageForecast:
    per_epoch = steps_per_epoch(rows, size.tokens, plan.batch_tokens, plan.accumulate)
    steps = plan.epochs * per_epoch
    work = _TRAINING * model.layer_weights * rows * size.tokens * plan.epochs
    if plan.dropout != 0.0:
        work *= _DROPOUT_COST
    evaluations = plan.epochs * plan.evaluations_per_epoch
    work += _INFERENCE * model.layer_weights * evaluations * size.rows * _DEV_SHARE * size.tokens
    return StageForecast(steps, _minutes(work, speed, _ADAMW_SECONDS * steps * model.weights))


def _minutes(operations: float, speed: Speed, more_seconds: float = 0.0) -> float:
    rate = 1e9 * speed.gflops * _EFFICIENCY[speed.precision]
    return (operations / rate + more_seconds + _START_SECONDS) / 60
