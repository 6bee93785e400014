"""What all sections of params share: strictness, common types and the section `project`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

Share = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Splits in which every row has a label.
LABELLED = ("train", "dev", "test")
SPLITS = (*LABELLED, "transfer")
# The folder of `ingest.generator` in `data/raw/`.
GENERATOR = "generator"
# auto: on where it helps.
Switch = Literal["auto"] | bool
# Numbers of hidden states, counted from 0, the input of the first layer.
LayerNumbers = list[NonNegativeInt]
# Layers that a student starts from.
Layers = Annotated[LayerNumbers, Field(min_length=1)]


class Strict(BaseModel):
    """Base of all sections: no unknown keys, no coercion, no mutation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Project(Strict):
    """Name, seed and hardware, which every stage reads."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,40}$",
        description="Name of the MLflow experiment, of the registered model and of the Bento.",
    )
    seed: int = Field(
        17, ge=0, lt=2**31, description="Seed of training: of new weights, dropout and the order of rows."
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        "auto", description="Where models run. auto: CUDA if there is a GPU, else MPS, else the CPU."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Number format of training. auto: bf16 where it is faster than fp32, measured once on a machine.",
    )
    processes: PositiveInt = Field(
        1,
        description="Processes on this machine that share each training step and the files of signals. `torchrun` "
        "starts them, each on its own GPU if there are GPUs.",
    )


Section = TypeVar("Section", bound=Strict)

Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


def check_interval(interval: list[float], name: str) -> None:
    """Refuse a lower bound above the upper bound.

    Raises:
        ValueError: pydantic adds the key to its message.
    """
    if interval[0] > interval[1]:
        raise ValueError(f"{name} is {interval}; the lower bound is above the upper bound")
