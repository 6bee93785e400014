"""The results of benchmarks/methods.py as a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from results import spread

from potstill.scores.statistics import Comparison, bootstrap

REPLICATES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Budget:
    """What all compared runs have in common.

    Attributes:
        setting: how deep the student is.
        rows: training rows of each run.
        batch_tokens: size of a batch in padded tokens.
    """

    setting: str
    rows: int
    batch_tokens: int


@dataclass(frozen=True)
class Run(Budget):
    """The result of one training.

    Attributes:
        method: what was changed.
        seed: of the training, and of the draw of the rows.
        steps: optimizer steps of the student.
        agreement: share of dev on which student and teacher give the same answer.
        kl: mean KL(teacher || student) on dev, in nats.
        right: for each row of dev 1 if the answer is right, else 0.
        seconds: of everything that the method trains.
        cpu_seconds: the same as CPU time.
        parameters: of the student.
        date: of the run.
        machine: it ran on.
        versions: of the packages that compute.
    """

    method: str
    seed: int
    steps: int
    agreement: float
    kl: float
    right: str
    seconds: float
    cpu_seconds: float
    parameters: int
    date: str
    machine: str
    versions: str

    @property
    def budget(self) -> Budget:
        """The budget of the run."""
        return Budget(self.setting, self.rows, self.batch_tokens)

    @property
    def accuracy(self) -> float:
        """Share of dev that is answered right."""
        return self.right.count("1") / len(self.right)

    @property
    def hits(self) -> npt.NDArray[np.int64]:
        """[rows] 1 for a right answer, 0 for a wrong one."""
        return np.array(list(self.right), dtype=np.int64)


def section(runs: Sequence[Run], methods: Sequence[str], layers: Sequence[int]) -> str:
    """Caption and table of one setting; a method without a seed in common with the default is left out."""
    by_seed = {method: {run.seed: run for run in runs if run.method == method} for method in methods}
    default = by_seed["default"]
    if not default:
        return "No run of the default yet."
    lines = [_caption(list(default.values()), layers), "", *_HEAD, _default_line(list(default.values()))]
    for method in methods[1:]:
        pairs = [(run, default[seed]) for seed, run in by_seed[method].items() if seed in default]
        if pairs:
            lines.append(_line(method, pairs, len(default)))
    return "\n".join(lines)


_HEAD = (
    "| method | dev accuracy, % | difference, points (95% interval) | verdict | KL to the teacher | CPU time |",
    "|---|---|---|---|---|---|",
)


def _caption(default: Sequence[Run], layers: Sequence[int]) -> str:
    last = default[-1]
    seconds = statistics.median(run.cpu_seconds for run in default)
    return (
        f"Layers {list(layers)} of the teacher's 6. {last.machine}, one thread, {last.date}; {last.versions}. Each run "
        f"is one epoch over {last.rows:,} rows in batches of {last.batch_tokens} tokens ({last.steps} steps); the "
        f"default takes {seconds:.0f} s of CPU time. Seeds {', '.join(str(run.seed) for run in default)}; "
        f"{len(last.right)} rows of dev."
    )


def _default_line(runs: Sequence[Run]) -> str:
    return f"| `default` | {_accuracy(runs)} | | | {_kl(runs)} | 1.0× |"


def _line(method: str, pairs: Sequence[tuple[Run, Run]], seeds: int) -> str:
    runs = [run for run, _ in pairs]
    gain = compare(pairs)
    name = f"`{method}`" if len(pairs) == seeds else f"`{method}` (seeds {', '.join(str(run.seed) for run in runs)})"
    interval = f"{_points(gain.difference, '+')} ({_points(gain.low)} to {_points(gain.high)})"
    ratio = spread([run.cpu_seconds / default.cpu_seconds for run, default in pairs])
    return f"| {name} | {_accuracy(runs)} | {interval} | {gain.outcome} | {_kl(runs)} | {ratio} |"


def compare(pairs: Sequence[tuple[Run, Run]]) -> Comparison:
    """Compare a method with the default on the same rows of dev and the same seeds."""
    gains = np.array([run.hits - default.hits for run, default in pairs])
    return bootstrap(gains, replicates=REPLICATES, confidence=CONFIDENCE, seed=0)


def _points(share: float, sign: str = "") -> str:
    return f"{100 * share:{sign}.1f}".replace("-", "−")


def _accuracy(runs: Sequence[Run]) -> str:
    return f"{100 * statistics.mean(run.accuracy for run in runs):.1f}"


def _kl(runs: Sequence[Run]) -> str:
    return f"{statistics.mean(run.kl for run in runs):.3f}"
