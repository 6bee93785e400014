"""What all sections of params share: strictness, common types and the section `project`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler, NonNegativeInt, PositiveInt
from pydantic_core import CoreSchema

Share = Annotated[float, Field(ge=0, le=1)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Splits in which every row has a label.
LABELLED = ("train", "dev", "test")
SPLITS = (*LABELLED, "transfer")
# Labelled rows of another domain, which are only evaluated. Most projects have none.
SHIFT = "shift"
# The folder of `ingest.generator` in `data/raw/`.
GENERATOR = "generator"
# auto: on where it helps.
Switch = Literal["auto"] | bool
# Numbers of hidden states, counted from 0, the input of the first layer.
LayerNumbers = list[NonNegativeInt]
# Layers that a student starts from.
Layers = Annotated[LayerNumbers, Field(min_length=1)]


def _ordered(interval: list[float]) -> list[float]:
    """Refuse a lower bound above the upper bound. pydantic adds the key and the value to the message."""
    if interval[0] > interval[1]:
        raise ValueError("the lower bound is above the upper bound")
    return interval


# [lowest, highest].
Interval = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ordered)]
CountInterval = Annotated[list[PositiveInt], Field(min_length=2, max_length=2), AfterValidator(_ordered)]


class Strict(BaseModel):
    """Base of all sections: no unknown keys, no coercion, no mutation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe each field in the schema of the section by the docstring below it.

        pydantic's `use_attribute_docstrings` would read them whenever a class is defined: 0.2 s in every process.
        """
        described = handler(schema)
        properties = handler.resolve_ref_schema(described)["properties"]
        for section in reversed(cls.__mro__[: cls.__mro__.index(Strict)]):
            for name, text in _field_docstrings(section):
                properties[cls.model_fields[name].alias or name]["description"] = text
        return described


class MetricsAddress(Strict):
    """The keys of a section for the address of Prometheus metrics."""

    metrics_host: str = "127.0.0.1"
    """Address to bind for metrics_port."""
    metrics_port: int | None = Field(None, ge=1, le=65535)
    """Port of Prometheus metrics at `/metrics`. null: none."""


def _field_docstrings(section: type) -> Iterator[tuple[str, str]]:
    """Yield the name of each field of a class and the docstring below it, on one line."""
    definition = ast.parse(inspect.getsource(section)).body[0]
    for field, text in pairwise(ast.iter_child_nodes(definition)):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            yield ast.unparse(field.target), " ".join(ast.literal_eval(text.value).split())


class Project(Strict):
    """Name, seed and hardware, which every stage reads."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    """Name of the MLflow experiment, of the registered model and of the Bento."""
    seed: int = Field(17, ge=0, lt=2**31)
    """Seed of training: of new weights, dropout and the order of rows."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """Where models run. auto: CUDA if there is a GPU, else MPS, else the CPU."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of training. auto: bf16 where it is faster than fp32, measured once on a machine."""


Section = TypeVar("Section", bound=Strict)
