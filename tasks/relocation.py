"""Stages with other params and other folders for their outs, for the seeds of a proof and the trials of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from potstill.config.params import Params
from tasks.stage import Stage, load_stage


def relocated_stage(
    name: str,
    params: Params,
    folder: Path,
    moved: dict[Path, Path],
    *,
    clock: dict[str, float],
    watch: Callable[[float], None] | None = None,
) -> Stage:
    """Load a stage as dvc.yaml declares it, but with its outs below `folder`.

    Args:
        name: name of the stage.
        params: the params of which it receives its sections.
        folder: parent of its outs.
        moved: path of a dep or an out -> the path that replaces it; this stage's outs are added.
        clock: receives its seconds of training and inference.
        watch: called with every dev score of its training.
    """
    declared = load_stage(name, params)
    moved |= {path: folder / path.name for path in declared.outs.values()}
    deps = {key: moved.get(path, path) for key, path in declared.deps.items()}
    outs = {key: moved[path] for key, path in declared.outs.items()}
    return replace(declared, deps=deps, outs=outs, _clock=clock, watch=watch)
