"""Reading `params.yaml`: values in, typed sections or one sentence for each misfit out."""

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
        ParamsError: the file is missing, is not YAML, or does not fit; the message names every misfit.
    """
    return parse_params(read_params(path), where=str(path))


_SECTIONS = {field.alias or name: field.annotation for name, field in Params.model_fields.items()}


def parse_params(value: Mapping[str, Any], *, where: str = "params.yaml") -> Params:
    """Check a raw mapping. See `load_params` for errors."""
    try:
        return Params.model_validate(dict(value))
    except ValidationError as error:
        raise ParamsError(f"{where}: " + misfits(_SECTIONS, value, [dict(item) for item in error.errors()])) from error


def parse_distill(values: Mapping[str, Any]) -> Distill:
    """Check a `distill` section alone. See `load_params` for errors."""
    return parse_section("distill", Distill, values)
