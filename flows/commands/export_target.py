"""`potstill export`: writes the finished student for browsers and phones, or for OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.engine.champions import open_registry
from potstill.config.params_file import load_params
from potstill.paths import EXPORTS, PARAMS, PREPARED, SERVING

if TYPE_CHECKING:
    from tasks.target_export import Target


def export(workspace: Path, target: Target, out: Path | None, version: str | None, *, exact: bool) -> None:
    """Write the student, and print what was written.

    Args:
        workspace: the current folder.
        target: the runtime.
        out: the folder to write; `exports/<target>` when None.
        version: number or alias; the workspace's candidate when None.
        exact: whether weights stay in fp32.

    Raises:
        RegistryError: there is no such version, or its fp32 model is not here.
        PotstillError: see `tasks.target_export.export_target`.
    """
    from tasks.target_export import export_target, find_source

    params = load_params(workspace / PARAMS)
    serving = workspace / SERVING
    student = "candidate"
    if version is not None:
        registry = open_registry(workspace, params, read_only=True)
        serving = registry.fetch(version)
        student = f"version {registry.get(version).version}"
    source = find_source(workspace, serving)
    folder = out or EXPORTS / target
    title = f"{params.project.name}, {student}"
    exported = export_target(target, source, workspace / PREPARED, folder, title=title, exact=exact)
    print(f"{folder}: {exported.megabytes:.1f} MB, {exported.bits} bits a weight; README.md there says how to use it")
    print(exported.check.agreement_sentence)
