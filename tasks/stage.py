"""The stage contract: what `python -m tasks.<stage>` does around the stage's own function.

dvc.yaml says what a stage depends on and makes; this module reads it, checks the parameters, verifies the manifests of
the inputs, holds the workspace's lock, turns every user error into one sentence, and logs one MLflow run.
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
from typing import Any, TypeVar

import yaml

from potstill import environment
from potstill.artifacts import MANIFEST, disk_errors, file_sums, sha256_file, sha256_value, verify, write_json
from potstill.causes import unexpected
from potstill.compute.processes import die_with_parent, hold
from potstill.config.base import Project, Strict
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import INTERRUPTED, ChecksumError, DiskFullError, ParamsError, PotstillError, ToolError
from potstill.progress import say
from tasks import torchrun
from tasks.identity import CODE_CACHE, ROOT, Code, check_code_file, sections_of

WORK = Path(".work")
RUN_LOCK = WORK / "run.lock"
FAILURE = WORK / "failure.json"
IN_PARAMS = "in params.yaml"
# Changed inputs that a message names.
SHOWN = 5
# Set by the flow for the stages it runs; its value is the pid that holds the run lock.
INSIDE_RUN = "POTSTILL_RUN"
PARENT_RUN = "POTSTILL_MLFLOW_PARENT"

Section = TypeVar("Section", bound=Strict)


@dataclass
class Result:
    """What a stage reports: numbers for MLflow, one line for the user."""

    summary: str
    metrics: dict[str, float] = field(default_factory=dict)
    # (step, name, value) in order: losses and scores over a training run.
    history: list[tuple[int, str, float]] = field(default_factory=list)
    # Name in MLflow -> facts of a dataset: digest, source, rows.
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """What a stage's function receives: its own parameters and the paths of its deps and outs, nothing else."""

    name: str
    sections: Mapping[str, Strict]
    deps: Mapping[str, Path]
    outs: Mapping[str, Path]
    _clock: dict[str, float] = field(default_factory=dict)
    # Told every dev score of a training run in the stage (`potstill search`).
    watch: Callable[[float], None] | None = None

    @property
    def project(self) -> Project:
        """The parameters all stages share."""
        return self.params(Project)

    def params(self, kind: type[Section]) -> Section:
        """The section of that type among those dvc.yaml declares for the stage."""
        return next(section for section in self.sections.values() if type(section) is kind)

    @cached_property
    def key(self) -> str:
        """Hash of deps, params, lock file and the stage's code: names the stage's checkpoints."""
        deps = {name: _sums(path) for name, path in self.deps.items()}
        params = {name: section.model_dump(mode="json") for name, section in self.sections.items()}
        lock = ROOT / "requirements.lock"
        lock_sum = sha256_file(lock) if lock.exists() else None
        return sha256_value({"deps": deps, "params": params, "lock": lock_sum, "code": self.modules()})[:32]

    def modules(self) -> dict[str, str]:
        """Path -> digest of each module of Potstill that the stage imports, lazily or not, as it is now."""
        code = Code(cache=CODE_CACHE)
        modules = code.modules(self.name)
        code.save()
        return modules

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints and unfinished signals live; not a DVC out, since DVC deletes outs before a rerun."""
        return WORK / "checkpoints" / f"{self.name}-{self.key}"

    @contextmanager
    def work(self, what: str) -> Iterator[None]:
        """Count the time inside as training or inference, not as overhead."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._clock[what] = self._clock.get(what, 0.0) + time.monotonic() - start


def load_stage(name: str, params: Params) -> Stage:
    """The stage as dvc.yaml declares it. Keys of `deps` and `outs` are the paths' last parts without suffix."""
    declared = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"][name]
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
    """A file that comes with Potstill: next to the code, or where an installed package has it.

    Raises:
        ToolError: the installation lacks it.
    """
    for folder in (ROOT, Path(sys.prefix) / "share" / "potstill"):
        if (folder / name).exists():
            return folder / name
    raise ToolError(f"this installation of Potstill lacks {name}; install it again")


def main(function: Callable[[Stage], Result], *, shared: bool = False) -> None:
    """Run a stage's function under the contract and exit with its code.

    Args:
        function: the stage's own.
        shared: whether `project.processes` processes share its work. This one then starts them (`torchrun`) and ends
            as they end; started by `torchrun` itself, it is one of them.
    """
    name = Path(inspect.getfile(function)).stem
    die_with_parent(torchrun.launcher())
    if not torchrun.inside():  # there SIGTERM ends it at once: it may wait for another process, where Python is deaf
        signal.signal(signal.SIGTERM, _interrupt)
    if torchrun.first() and torchrun.launcher() is None:
        FAILURE.unlink(missing_ok=True)
    try:
        _run(name, function, shared=shared)
    except PotstillError as error:
        _fail(name, error.exit_code, str(error))
    except KeyboardInterrupt:
        _fail(name, INTERRUPTED, "interrupted; run again to go on where it stopped")
    except Exception as error:
        message, code = unexpected(error, WORK / "logs" / f"{name}.txt")
        _fail(name, code, message)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _fail(name: str, code: int, message: str) -> None:
    if torchrun.inside() and FAILURE.exists():  # another one has failed and said why; this one lost touch with it
        os._exit(code)
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    with suppress(OSError, DiskFullError):  # on a full disk the exit code alone tells the run
        WORK.mkdir(exist_ok=True)
        write_json(FAILURE, {"stage": name, "exit_code": code, "message": message})
    # Threads of a library must not hold up the end or print behind the sentence.
    sys.stdout.flush()
    os._exit(code)


def _run(name: str, function: Callable[[Stage], Result], *, shared: bool) -> None:
    start = time.monotonic()
    params = load_params(Path("params.yaml"))
    stage = load_stage(name, params)
    environment.prepare()
    if shared and torchrun.inside() and not torchrun.first():
        return _help(stage, function)
    if shared and not torchrun.inside() and params.project.processes > 1:
        return _share(name, params.project.processes)
    check_code_file(Path(), name, stage.modules())
    with ExitStack() as held:
        if INSIDE_RUN not in os.environ:
            held.enter_context(hold(RUN_LOCK, what="a run"))
        # Also inside a run: the stage of a killed run may still be on its way out.
        held.enter_context(hold(WORK / "stage.lock", what="a stage", wait_seconds=30))
        for path in stage.deps.values():
            _verify(path)
        before = _inputs(stage)
        with disk_errors(Path.cwd()):
            result = function(stage)
            if changed := _differences(before, _inputs(stage)):
                for out in stage.outs.values():
                    shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
                raise ChecksumError(f"{changed} changed while {name} ran, so its outs were removed; run again")
            seconds = time.monotonic() - start
            _log(stage, result, seconds)
            timing = {"seconds": time.monotonic() - start, "work": stage._clock}
            write_json(WORK / "timings" / f"{name}.json", timing)
    # Also those of other params or code that a run was stopped with: they can be large.
    for left in stage.checkpoints.parent.glob(f"{name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    say(f"{name}: {result.summary}")


def _share(name: str, processes: int) -> None:
    """Have that many processes run the stage; the first of them writes, logs and holds the locks."""
    log = WORK / "logs" / f"{name}-torchrun.txt"
    code = torchrun.run(f"tasks.{name}", processes, log)
    if code == 0:
        return
    failure: dict[str, Any] = {
        "exit_code": 1,
        "message": f"its processes ended with exit code {code}; their last words are in {log}",
    }
    if FAILURE.exists():
        failure = json.loads(FAILURE.read_text(encoding="utf-8"))
    _fail(name, failure["exit_code"], failure["message"])


def _help(stage: Stage, function: Callable[[Stage], Result]) -> None:
    """Do the part of one that is not the first; what it writes goes nowhere."""
    nowhere = WORK / "processes" / os.environ["RANK"]
    try:
        function(replace(stage, outs={out: nowhere / path.name for out, path in stage.outs.items()}))
    finally:
        shutil.rmtree(nowhere, ignore_errors=True)


def _path(item: str | dict[str, Any]) -> str:
    return item if isinstance(item, str) else next(iter(item))


def _verify(path: Path) -> None:
    if not path.exists():
        raise ChecksumError(f"{path} does not exist; `potstill run` (or `dvc repro`) makes it")
    if path.is_dir():
        verify(path)


def _sums(path: Path) -> Any:
    """A dep's identity: its manifest where it has one (verified already), else its bytes."""
    if path.is_dir():
        return sha256_file(path / MANIFEST) if (path / MANIFEST).exists() else file_sums(path)
    return sha256_file(path)


def _inputs(stage: Stage) -> dict[str, Any]:
    """What the stage's outs follow from: key of params.yaml, module or file -> its value, hash or stamp."""
    try:
        params = load_params(Path("params.yaml"))
        inputs: dict[str, Any] = {
            f"{section}.{key} {IN_PARAMS}": value
            for section in stage.sections
            for key, value in params.section(section).model_dump(mode="json").items()
        }
    except ParamsError as error:
        inputs = {"params.yaml": str(error)}
    inputs |= stage.modules()
    for dep in stage.deps.values():
        inputs |= _stamps(dep)
    return inputs


def _stamps(path: Path) -> dict[str, tuple[int, int]]:
    """File -> size and change time: cheap, and enough to see an edit within one run."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()}


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The inputs that are not what they were, in words; empty where all are."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if "params.yaml" in names:  # which cannot be read now, so none of its keys is known
        names = [name for name in names if not name.endswith(IN_PARAMS)]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


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
            outs={name: _sums(path) for name, path in stage.outs.items() if path.is_dir()},
        )
