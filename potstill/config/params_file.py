"""Reading `params.yaml` into typed sections, or a sentence about all that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from potstill.config.distill_params import Distill
from potstill.config.misfits import misfits
from potstill.config.params import Params
from potstill.config.yaml_file import parse_section, read_params
from potstill.errors import ParamsError


def load_params(path: Path) -> Params:
    """Read and check `params.yaml`.

    Raises:
        ParamsError: the file is missing, is not YAML, or has values that do not fit; the message names them all.
    """
    return parse_params(read_params(path), where=str(path))


_SECTIONS = {field.alias or name: field.annotation for name, field in Params.model_fields.items()}


def parse_params(value: Mapping[str, Any], *, where: str = "params.yaml") -> Params:
    """Check values that were read already. See `load_params` for errors."""
    try:
        return Params.model_validate(dict(value))
    except ValidationError as error:
        raise ParamsError(f"{where}: " + misfits(_SECTIONS, value, [dict(item) for item in error.errors()])) from error


def parse_distill(values: Mapping[str, Any]) -> Distill:
    """Check a `distill` section alone. See `load_params` for errors."""
    return parse_section("distill", Distill, values)
