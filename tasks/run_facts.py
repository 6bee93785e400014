"""The facts that identify a run on the report's page: commit, teacher, params, data, costs, the data's profile.

What a workspace lacks is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from potstill.artifacts import read_json_if_present, sha256_file, sha256_value
from potstill.config.ingest_params import HubSource, ScratchSource, TeacherSource
from potstill.config.params import Params
from potstill.data.fetching.ingestion import source_name
from potstill.evaluation.pages.decision_page import RunFacts, SplitProfile, StageCost, Validation
from potstill.paths import DVC_FILE, DVC_LOCK, GIVEN, PREPARED, TIMINGS, VALIDATION
from potstill.registry.lineage_trace import lock_hashes
from potstill.registry.model_card import Teacher
from potstill.registry.tracking import COMMIT, git_tags
from tasks.stage import default_file

# Labels whose shares the page shows; more would not fit a cell.
_LABELS = 8


def run_facts(params: Params, workspace: Path, metrics: Mapping[str, Any]) -> RunFacts:
    """Collect the facts that identify a run.

    Args:
        params: the whole of params.yaml.
        workspace: the workspace.
        metrics: the content of reports/metrics.json, for the steps of each training.
    """
    tags = git_tags(workspace)
    values = params.model_dump(mode="json", by_alias=True)
    teacher = teacher_origin(params.ingest.teacher, workspace / GIVEN)
    report = read_json_if_present(workspace / PREPARED / "report.json")
    return RunFacts(
        commit=tags.get(COMMIT),
        is_clean=tags.get("potstill.git_dirty") == "false",
        teacher=teacher.origin,
        licence=teacher.licence,
        params=yaml.safe_dump(values, sort_keys=False, allow_unicode=True),
        params_sha256=sha256_value(values),
        lock_sha256=sha256_file(default_file("requirements.lock")),
        data=data_hashes(workspace) if (workspace / DVC_LOCK).exists() else {},
        removed={reason: count for reason, count in report.get("removed", {}).items() if count},
        costs=_costs(workspace, metrics.get("steps") or {}),
        validation=_validation(workspace / VALIDATION),
    )


def data_hashes(workspace: Path) -> dict[str, str]:
    """Return out -> its DVC hash in dvc.lock, which names the version of the data even where nothing is committed."""
    return lock_hashes(workspace / DVC_LOCK)


def teacher_origin(source: TeacherSource, folder: Path) -> Teacher:
    """Name the origin of a teacher, and the licence that its folder names.

    Args:
        source: the teacher in params.
        folder: the teacher as it was fetched, `data/given`.
    """
    if isinstance(source, ScratchSource):
        return Teacher("an encoder trained from scratch on the project's own texts")
    hub_id = source.id if isinstance(source, HubSource) else None
    return Teacher(source_name(source), hub_id, _licence(folder))


def _licence(folder: Path) -> str | None:
    """Find the licence of a model: in the metadata of its card, else the first line of its licence file."""
    readme = folder / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")
        match = re.match(r"---\s*\n(.*?)\n---", text, flags=re.DOTALL)
        entry = re.search(r"^license:\s*(\S.*)$", match[1], flags=re.MULTILINE) if match else None
        if entry:
            return entry[1].strip(" '\"")
    for path in sorted(folder.glob("LICEN[CS]E*")):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip() for line in lines if line.strip()), None)
    return None


def _costs(workspace: Path, steps: Mapping[str, int]) -> list[StageCost]:
    """Read the time of each stage's last run here, in the order of dvc.yaml."""
    if not (workspace / DVC_FILE).exists():
        return []
    names = yaml.safe_load((workspace / DVC_FILE).read_text(encoding="utf-8"))["stages"]
    timings = {name: read_json_if_present(workspace / TIMINGS / f"{name}.json") for name in names}
    return [
        StageCost(
            name,
            timing["seconds"],
            timing["work"].get("training", 0.0),
            timing["work"].get("inference", 0.0),
            steps.get(name),
        )
        for name, timing in timings.items()
        if timing
    ]


def _validation(folder: Path) -> Validation | None:
    result = read_json_if_present(folder / "result.json")
    profile = read_json_if_present(folder / "profile.json")
    if not result or not profile:
        return None
    failed = [
        f"{check['what']} ({split})"
        for split, checks in result["suites"].items()
        for check in checks
        if not check["success"]
    ]
    splits = [_split(name, rows, profile) for name, rows in profile["rows"].items()]
    return Validation(result["expectations"], failed, splits)


def _split(name: str, rows: int, profile: Mapping[str, Any]) -> SplitProfile:
    """Profile a split by the deciles of its lengths, of which it has nine."""
    edges = profile.get("lengths", {}).get(name, {}).get("edges", [])
    characters = [edges[0], edges[4], edges[8]] if len(edges) == 9 else []
    shares = profile.get("labels", {}).get(name, {})
    is_shown = len(shares) <= _LABELS and all(isinstance(share, int | float) for share in shares.values())
    return SplitProfile(name, rows, characters, shares if is_shown else {})
