"""What every section of params has in common: strictness, shared types and the section `project`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Splits whose rows all have labels.
LABELLED = ("train", "dev", "test")
SPLITS = (*LABELLED, "transfer")
# What a model is to answer: one class of several; any of several labels; a number; the entities of a text; a span of
# a context that answers a question.
TaskKind = Literal["single_label", "multi_label", "regression", "token_classification", "question_answering"]
# Of these the answers are places in a text: tokens.
OF_PLACES: tuple[TaskKind, ...] = ("token_classification", "question_answering")
# Where `ingest.generator` lies in `data/raw/`.
GENERATOR = "generator"
# auto: where it is of use.
Switch = Literal["auto"] | bool
# Hidden states, counted from 0: what the first layer takes in.
LayerNumbers = list[Annotated[int, Field(ge=0)]]


class Strict(BaseModel):
    """Base of all sections: no unknown keys, no coercion, no mutation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Project(Strict):
    """What every stage shares."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 17
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # That share each step of a training stage, and the files of signals, on this machine: `torchrun` starts them, one a
    # GPU where there are some.
    processes: Positive = 1


Section = TypeVar("Section", bound=Strict)

Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


def check_interval(interval: list[float], name: str) -> None:
    """Refuse a lower bound above the upper one.

    Raises:
        ValueError: pydantic makes a sentence of it.
    """
    if interval[0] > interval[1]:
        raise ValueError(f"{name} {interval}: the lower bound is above the upper")
