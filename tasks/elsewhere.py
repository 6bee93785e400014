"""A stage once more with other params and other places for its outs: what a proof's seeds and a search's trials are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from potstill.artifacts import verify
from potstill.config.params import Params
from potstill.errors import ChecksumError
from tasks.stage import Stage, load_stage


def elsewhere(
    name: str,
    params: Params,
    folder: Path,
    moved: dict[Path, Path],
    *,
    clock: dict[str, float],
    watch: Callable[[float], None] | None = None,
) -> Stage:
    """The stage as dvc.yaml declares it, but with its outs below `folder`.

    Args:
        name: of the stage.
        params: it receives its sections of these.
        folder: where its outs go.
        moved: path of a dep or an out -> where it lies instead; this stage's outs are added.
        clock: counts its seconds of training and inference.
        watch: told every dev score of its training.
    """
    declared = load_stage(name, params)
    moved |= {path: folder / path.name for path in declared.outs.values()}
    deps = {key: moved.get(path, path) for key, path in declared.deps.items()}
    outs = {key: moved[path] for key, path in declared.outs.items()}
    return replace(declared, deps=deps, outs=outs, _clock=clock, watch=watch)


def is_whole(*folders: Path) -> bool:
    """Whether all of them are there with every byte their manifests name."""
    try:
        for folder in folders:
            verify(folder)
    except ChecksumError:
        return False
    return True
