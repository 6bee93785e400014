"""`potstill export`: writes the finished student for browsers and phones, or for OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flows.engine.champions import open_registry
from potstill.config.params_file import load_params
from potstill.paths import EXPORTS, PARAMS, SERVING

if TYPE_CHECKING:
    from tasks.target_export import Target


def export(workspace: Path, target: Target, out: Path | None, version: str | None, *, exact: bool) -> None:
    """Write the student and print what was written; see `potstill export --help`.

    Args:
        workspace: the current folder.
        target: the runtime.
        out: the folder to write; `exports/<target>` when None.
        version: number or alias; the workspace's candidate when None.
        exact: whether weights stay in fp32.

    Raises:
        PotstillError: see `tasks.target_export.export_target`.
    """
    from tasks.target_export import export_target

    params = load_params(workspace / PARAMS)
    serving, number = workspace / SERVING, None
    if version is not None:
        registry = open_registry(workspace, params, read_only=True)
        serving, number = registry.fetch(version), registry.get(version).version
    exported = export_target(
        target,
        workspace,
        serving,
        out or workspace / EXPORTS / target,
        project=params.project.name,
        version=number,
        exact=exact,
    )
    check = exported.check
    print(f"{target}: {exported.megabytes:.1f} MB, weights of {exported.bits} bits")
    print(f"on {check.texts} dev texts, {exported.answers}")
    print(f"{exported.path} is whole; its README.md says how to run it")
