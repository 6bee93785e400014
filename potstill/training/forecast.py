"""Forecast of optimizer steps and minutes of every training stage.

Minutes follow from a count of operations: six for each token and weight of a layer in training, two in inference
(Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1). The machine's rate is that of its matrix
products (`precision.choose_precision` measures and saves it), and AdamW passes over every weight once a step. On an
idle machine, stages of the default run took between 0.7 and 1.4 times the forecast.
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

# The rate of a model's layers relative to that of one large matrix product; in 16 bits other operations matter more.
_EFFICIENCY = {"fp32": 1.2, "bf16": 0.45, "fp16": 0.45}
_DROPOUT_COST = 1.33
_ADAMW_SECONDS = 7e-9
_START_SECONDS = 10.0
_TRAINING, _INFERENCE = 6, 2
# Rows of dev relative to rows of train.
_DEV_SHARE = 1 / 7


@dataclass(frozen=True)
class Speed:
    """The machine's rate in matrix products, in billions of operations a second, and their number format."""

    gflops: float
    precision: str


@dataclass(frozen=True)
class StageForecast:
    """The forecast of a stage: optimizer steps (0 if it trains nothing) and minutes."""

    steps: int
    minutes: float


def measure_speed(params: Params, config: Mapping[str, Any], remembered: Path) -> Speed:
    """Measure the rate of the matrix products that the stages will use, within a second or two.

    Args:
        params: determines device and number format (`project.device`, `project.precision`).
        config: config.json of the teacher.
        remembered: JSON file of the measurement, which the stages read as well (`.work/precision.json`).

    Raises:
        ToolError: the device does not exist.
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
    """Return the keys of a new teacher's config.json that a forecast needs."""
    pretrain = params.pretrain
    return {
        "model_type": "bert",
        "vocab_size": pretrain.vocabulary,
        "hidden_size": pretrain.width,
        "intermediate_size": 4 * pretrain.width,
        "num_hidden_layers": pretrain.layers,
    }


def forecast(params: Params, size: DataSize, config: Mapping[str, Any], speed: Speed) -> dict[str, StageForecast]:
    """Forecast every stage that trains or runs the teacher.

    Args:
        params: the training plans.
        size: size of the data, including augmentation.
        config: config.json of the teacher (`scratch_config` for a teacher from scratch).
        speed: rate of the machine (`measure_speed`).

    Returns:
        Name of the stage -> its forecast.
    """
    all_rows = size.learned if params.distill.transfer else size.rows
    teacher = _Model.of(config, None)
    student = _Model.of(config, len(params.distill.layers))
    result: dict[str, StageForecast] = {}
    if isinstance(params.ingest.teacher, ScratchSource):
        result["pretrain"] = _training(params.pretrain, size.learned, size, teacher, speed)
    if not params.teacher.fine_tuned:
        single = _training(params.teacher, size.rows, size, teacher, speed)
        result["teacher"] = StageForecast(single.steps, single.minutes * params.teacher.seeds)
    tokens = (params.teacher.seeds + len(params.teacher.members)) * all_rows * size.tokens
    result["signals"] = StageForecast(0, _minutes(_INFERENCE * teacher.layer_weights * tokens, speed))
    result["distill"] = _training(params.distill, all_rows, size, student, speed)
    result["finetune"] = _training(params.finetune, size.rows, size, student, speed)
    control = _training(params.control, size.rows, size, student, speed)
    controls = 1 + params.control.initialised
    result["control"] = StageForecast(control.steps, controls * control.minutes)
    return result


@dataclass(frozen=True)
class _Model:
    """The numbers of an encoder's weights: those of its layers, which every token passes, and all."""

    layer_weights: int
    weights: int

    @classmethod
    def of(cls, config: Mapping[str, Any], layers: int | None) -> _Model:
        """Count the weights of an encoder with that many layers; None counts all of its layers."""
        family = FAMILIES[str(config["model_type"])]
        hidden = int(config[family.hidden_key])
        inner = int(config[family.intermediate_key])
        count = int(config[family.layers_key]) if layers is None else layers
        layer_weights = count * (4 * hidden * hidden + (3 if family.gated else 2) * hidden * inner)
        table = int(config["vocab_size"]) * int(config.get("embedding_size") or hidden)
        return cls(layer_weights, layer_weights + table)


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
