"""The stage contract: what `python -m tasks.<stage>` does before and after the stage's own function.

dvc.yaml declares what a stage depends on and what it writes. This module reads it, checks the parameters, verifies the
manifests of the inputs, holds the workspace's lock, turns every user error into one sentence, and logs one MLflow run.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from potstill import environment
from potstill.artifacts import (
    MANIFEST,
    disk_errors,
    file_sums,
    read_json,
    sha256_file,
    sha256_value,
    verify,
    write_json,
)
from potstill.causes import unexpected
from potstill.compute.processes import die_with_parent, hold
from potstill.config.base import Project, Strict
from potstill.config.compute_params import Compute
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import (
    INTERRUPTED,
    ChecksumError,
    DiskFullError,
    LostProcessError,
    ParamsError,
    PotstillError,
    ToolError,
    first_names,
)
from potstill.paths import CHECKPOINTS, CODE_CACHE, DVC_FILE, FAILURE, LOGS, PARAMS, RUN_LOCK, STAGE_LOCK, TIMINGS, WORK
from potstill.progress import say
from tasks import torchrun
from tasks.identity import ROOT, Code, check_code_file, named_files, sections_of

IN_PARAMS = "in params.yaml"
# How many changed inputs a message names.
NAMED_CHANGES = 5
# Variable that the flow sets for the stages it runs; its value is the pid that holds the run lock.
INSIDE_RUN = "POTSTILL_RUN"
PARENT_RUN = "POTSTILL_MLFLOW_PARENT"

Section = TypeVar("Section", bound=Strict)


@dataclass
class Result:
    """What a stage reports.

    Attributes:
        summary: one line for the user.
        metrics: numbers for MLflow.
        history: (step, name, value) in order: losses and scores over a training run.
        datasets: name in MLflow -> digest, source and rows of a dataset.
    """

    summary: str
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[tuple[int, str, float]] = field(default_factory=list)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """What a stage's function receives: its own parameters and the paths of its deps and outs, nothing else.

    Attributes:
        name: in dvc.yaml.
        sections: the sections of params.yaml that dvc.yaml declares for it.
        deps: stem of each dep -> its path.
        outs: stem of each out -> its path.
        watch: called with every dev score of a training run in the stage (`potstill search`).
    """

    name: str
    sections: Mapping[str, Strict]
    deps: Mapping[str, Path]
    outs: Mapping[str, Path]
    _clock: dict[str, float] = field(default_factory=dict)
    watch: Callable[[float], None] | None = None

    @property
    def project(self) -> Project:
        """The parameters that all stages share."""
        return self.params(Project)

    def params(self, kind: type[Section]) -> Section:
        """Return the section of that type."""
        return next(section for section in self.sections.values() if isinstance(section, kind))

    @cached_property
    def key(self) -> str:
        """Hash of deps, params, lock file and the stage's code. It names the stage's checkpoints."""
        deps = {name: folder_sum(path) if path.is_dir() else sha256_file(path) for name, path in self.deps.items()}
        params = {name: section.model_dump(mode="json") for name, section in self.sections.items()}
        lock = ROOT / "requirements.lock"
        lock_sum = sha256_file(lock) if lock.exists() else None
        return sha256_value({"deps": deps, "params": params, "lock": lock_sum, "code": self.modules()})[:32]

    def modules(self) -> dict[str, str]:
        """Return path -> digest of each module of Potstill that the stage imports, lazily or not, as it is now."""
        code = Code(cache=CODE_CACHE)
        modules = code.modules(self.name)
        code.save()
        return modules

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints and unfinished signals. No DVC out, since DVC deletes outs before a rerun."""
        return CHECKPOINTS / f"{self.name}-{self.key}"

    @contextmanager
    def work(self, kind: str) -> Iterator[None]:
        """Count the time of the block as training or inference, and not as overhead."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._clock[kind] = self._clock.get(kind, 0.0) + time.monotonic() - start


def load_stage(name: str, params: Params) -> Stage:
    """Read a stage from dvc.yaml."""
    declared = yaml.safe_load(DVC_FILE.read_text(encoding="utf-8"))["stages"][name]
    deps = [_path(item) for item in declared.get("deps", [])]
    outs = [_path(item) for kind in ("outs", "metrics", "plots") for item in declared.get(kind, [])]
    sections = {section: params.section(section) for section in sections_of(declared)}
    return Stage(
        name,
        sections,
        {Path(path).stem: Path(path) for path in deps},
        {Path(path).stem: Path(path) for path in outs},
    )


def default_file(name: str) -> Path:
    """Find a file that comes with Potstill: next to the code, or where an installed package has it.

    Raises:
        ToolError: the installation lacks it.
    """
    for folder in (ROOT, Path(sys.prefix) / "share" / "potstill"):
        if (folder / name).exists():
            return folder / name
    raise ToolError(f"this installation of Potstill lacks {name}; install it again")


def main(function: Callable[[Stage], Result], *, shared: bool = False) -> None:
    """Run a stage's function under the contract, and exit with its code.

    Args:
        function: the stage's own function.
        shared: whether the processes of section `compute` share its work. This process then starts them (`torchrun`)
            and ends as they end. A process that `torchrun` has started is one of them.
    """
    name = Path(inspect.getfile(function)).stem
    die_with_parent(torchrun.launcher())
    # Under torchrun SIGTERM keeps its default: a process that waits for another in C code runs no Python handler.
    if not torchrun.inside():
        signal.signal(signal.SIGTERM, _interrupt)
    if torchrun.first() and torchrun.launcher() is None:
        FAILURE.unlink(missing_ok=True)
    elif torchrun.launcher() is not None and FAILURE.exists():  # restarted after an error that would come again
        _fail(name, 1, "")
    try:
        _run(name, function, shared=shared)
    except PotstillError as error:
        _fail(name, error.exit_code, str(error))
    except KeyboardInterrupt:
        _fail(name, INTERRUPTED, "interrupted; run again to go on where it stopped")
    except Exception as error:
        message, code = unexpected(error, LOGS / f"{name}.txt")
        _fail(name, code, message)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _fail(name: str, code: int, message: str) -> NoReturn:
    if torchrun.inside() and FAILURE.exists():  # another process has failed and said why; this one only lost it
        torchrun.stop_launcher()
        os._exit(code)
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    if torchrun.inside() and code == LostProcessError.exit_code:  # the launcher restarts this one with the lost one
        os._exit(code)
    with suppress(OSError, DiskFullError):  # on a full disk the run learns from the exit code alone
        WORK.mkdir(exist_ok=True)
        write_json(FAILURE, {"stage": name, "exit_code": code, "message": message})
    torchrun.stop_launcher()
    # A library's threads must neither delay the end nor print after the sentence.
    sys.stdout.flush()
    os._exit(code)


def _run(name: str, function: Callable[[Stage], Result], *, shared: bool) -> None:
    start = time.monotonic()
    params = load_params(PARAMS)
    stage = load_stage(name, params)
    environment.prepare()
    if shared and torchrun.inside() and not torchrun.first():
        return _run_as_follower(stage, function)
    if shared and not torchrun.inside() and params.compute.processes * params.compute.nodes > 1:
        return _launch(name, params.compute)
    check_code_file(Path(), name, stage.modules())
    with ExitStack() as locks:
        if INSIDE_RUN not in os.environ:
            locks.enter_context(hold(RUN_LOCK, what="a run"))
        # Needed inside a run too: the stage of a killed run may still be ending.
        locks.enter_context(hold(STAGE_LOCK, what="a stage", wait_seconds=30))
        for path in stage.deps.values():
            _verify(path)
        before = _inputs(stage)
        with disk_errors(Path.cwd()):
            result = function(stage)
            _refuse_changed_inputs(stage, before)
            _log(stage, result, time.monotonic() - start)
            timing = {"seconds": time.monotonic() - start, "work": stage._clock}
            write_json(TIMINGS / f"{name}.json", timing)
    # Checkpoints of other params or code, left by runs that were stopped, go too: they can be large.
    for checkpoints in CHECKPOINTS.glob(f"{name}-*"):
        shutil.rmtree(checkpoints, ignore_errors=True)
    say(f"{name}: {result.summary}")


def _refuse_changed_inputs(stage: Stage, before: Mapping[str, Any]) -> None:
    """Remove the outs of a stage whose inputs changed while it ran: DVC would record them under the new inputs."""
    changed = _differences(before, _inputs(stage))
    if not changed:
        return
    for out in stage.outs.values():
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
    raise ChecksumError(f"{changed} changed while {stage.name} ran, so its outs were removed; run again")


def _launch(name: str, compute: Compute) -> None:
    """Run the stage in its processes; the first of them writes, logs and holds the locks."""
    code = torchrun.run(name, compute)
    if code == 0:
        return
    if FAILURE.exists():
        failure = read_json(FAILURE)
        _fail(name, failure["exit_code"], failure["message"])
    raise LostProcessError(
        f"its processes ended with exit code {code}; their last words are in {torchrun.log_file(name)}"
    )


def _run_as_follower(stage: Stage, function: Callable[[Stage], Result]) -> None:
    """Do the part of a process that is not the first; its outs are thrown away."""
    discarded = WORK / "processes" / os.environ["RANK"]
    try:
        function(replace(stage, outs={out: discarded / path.name for out, path in stage.outs.items()}))
    finally:
        shutil.rmtree(discarded, ignore_errors=True)


def _path(item: str | dict[str, Any]) -> str:
    return item if isinstance(item, str) else next(iter(item))


def _verify(path: Path) -> None:
    if not path.exists():
        raise ChecksumError(f"{path} does not exist; `potstill run` (or `dvc repro`) makes it")
    if path.is_dir():
        verify(path)


def folder_sum(folder: Path) -> Any:
    """Return what identifies a folder: the sum of its manifest where it has one, else the sums of its files."""
    return sha256_file(folder / MANIFEST) if (folder / MANIFEST).exists() else file_sums(folder)


def _inputs(stage: Stage) -> dict[str, Any]:
    """Return what the stage's outs follow from: key of params.yaml, module or file -> its value, hash or stamp."""
    try:
        params = load_params(PARAMS)
        inputs: dict[str, Any] = {
            f"{section}.{key} {IN_PARAMS}": value
            for section in stage.sections
            for key, value in params.section(section).model_dump(mode="json").items()
        }
    except ParamsError as error:
        inputs = {"params.yaml": str(error)}
    else:
        inputs |= named_files(params, [*stage.sections], Path())
    inputs |= stage.modules()
    for dep in stage.deps.values():
        inputs |= _stamps(dep)
    return inputs


def _stamps(path: Path) -> dict[str, tuple[int, int]]:
    """Return file -> size and change time: cheap, and enough to notice an edit within one run."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()}


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Name the inputs that have changed; empty where none has."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if "params.yaml" in names:  # it cannot be read now, so all of its keys are missing
        names = [name for name in names if not name.endswith(IN_PARAMS)]
    return first_names(names, NAMED_CHANGES)


def _log(stage: Stage, result: Result, seconds: float) -> None:
    from potstill.registry.store_calls import RUN, patience
    from potstill.registry.tracking import log_stage

    params = {
        f"{section}.{key}": json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
        for section, values in stage.sections.items()
        for key, value in values.model_dump(mode="json").items()
    }
    with patience(RUN):
        log_stage(
            project=stage.project.name,
            stage=stage.name,
            parent=os.environ.get(PARENT_RUN),
            params=params,
            metrics={**result.metrics, "seconds": seconds, **{f"seconds_{k}": v for k, v in stage._clock.items()}},
            history=result.history,
            datasets=result.datasets,
            outs={name: folder_sum(path) for name, path in stage.outs.items() if path.is_dir()},
        )
