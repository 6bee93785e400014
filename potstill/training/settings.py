"""The setting of a training that a caller from Python asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from potstill.compute.precision import choose_device, choose_precision, product_size
from potstill.config.training_params import Training
from potstill.training.loop import Setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def choose_setting(
    name: str, seed: int, device: str, precision: str, work_dir: Path, plan: Training, model: PreTrainedModel
) -> Setting:
    """Choose device and number format for a training.

    Args:
        name: of the training, in messages.
        seed: of everything random.
        device: auto, cpu, cuda or mps.
        precision: auto, fp32, bf16 or fp16.
        work_dir: folder for measurements and checkpoints.
        plan: of the training.
        model: the one to train.
    """
    chosen = choose_device(device)
    products, _ = choose_precision(precision, chosen, *product_size(model.config), work_dir / "precision.json")
    return Setting(name, plan, seed, chosen, products, work_dir / "checkpoints")
