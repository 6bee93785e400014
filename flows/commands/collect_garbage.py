"""`potstill gc`: shows what no kept version needs any more, and removes it."""

from __future__ import annotations

from pathlib import Path

from flows.engine.champions import no_champion
from potstill.compute.processes import hold
from potstill.config.params_file import load_params
from potstill.paths import DVC_FILE, DVC_LOCK, PARAMS, RUN_LOCK
from potstill.registry import tracking
from potstill.registry.artifact_locations import relocate
from potstill.registry.promotion import Registry
from potstill.registry.retention import Retention, divide
from tasks.garbage import Garbage, find_garbage, folder_bytes

# Names of a kind that are printed.
_SHOWN = 8


def collect(workspace: Path, keep: int, days: float, *, remove: bool) -> None:
    """Print what may go, and remove it if asked to.

    Args:
        workspace: the current folder.
        keep: how many of the newest versions are kept.
        days: how long a line of the ledger protects what it names, and checkpoints stay.
        remove: whether to remove it.

    Raises:
        RegistryError: there is no registry yet, or its ledger was edited.
        BusyError: a run holds the workspace, or another process is changing the registry.
        StoreError: MLflow's store cannot be read or changed.
        ToolError: DVC, BentoML or `watch.folder` cannot be used.
    """
    params = load_params(workspace / PARAMS)
    if not tracking.has_store(workspace):
        raise no_champion(params)
    with hold(workspace / RUN_LOCK, what="a run"):
        registry = Registry(workspace, params.project.name)
        if remove:
            relocate(workspace)  # MLflow deletes artifacts by the names in its store
            for sentence in registry.reconcile():
                print(sentence)
        retention = divide(registry, keep, days)
        kinds = [*find_garbage(params, registry, retention, days), _cache(workspace, registry, retention)]
        garbage = [kind for kind in kinds if kind.names]
        _show(garbage, retention)
        if not remove:
            print("nothing is removed yet; `potstill gc --yes` removes it" if garbage else "nothing to remove")
            return
        for kind in garbage:
            kind.remove()
            print(f"removed {len(kind.names)} {kind.what}", flush=True)


def _cache(workspace: Path, registry: Registry, retention: Retention) -> Garbage:
    """Find the objects of DVC's cache that are in no commit, not in the workspace, and of no kept version."""
    from flows.engine.dvc_cache import remove_unused, unused_objects

    paths = []
    locks: list[Path] = []
    if (workspace / DVC_FILE).exists():
        judged = retention.kept.keys() & registry.history().registered  # one that was made by hand has no evidence
        existing = [version for version in registry.versions() if version.version in judged]
        evidence = [folder / DVC_LOCK for version in existing if (folder := registry.fetch_evidence(version))]
        locks = [lock for lock in evidence if lock.exists()]
        paths = unused_objects(workspace, locks)
    return Garbage(
        "objects of DVC's cache",
        [path.name for path in paths],
        folder_bytes(paths),
        lambda: remove_unused(workspace, locks),
    )


def _show(garbage: list[Garbage], retention: Retention) -> None:
    for version, reason in retention.kept.items():
        print(f"keeps version {version:<8} {reason}")
    for kind in garbage:
        names = ", ".join(kind.names[:_SHOWN]) + (", ..." if len(kind.names) > _SHOWN else "")
        print(f"{kind.size / 1e6:>9.1f} MB  {len(kind.names):>5} {kind.what}: {names}")
    print(f"{sum(kind.size for kind in garbage) / 1e6:>9.1f} MB  in all")
