"""How fast a classifier answers, measured so that two of them can be compared on a noisy machine."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

import numpy as np

T = TypeVar("T")
# What is timed: a list of texts in, anything out.
Call = Callable[[list[T]], object]

WARM_UP = 5
# Texts a call answers at once where throughput is measured.
BATCH = 32


@dataclass(frozen=True)
class Speed:
    """Milliseconds for one text (median, 99th percentile) and texts per second in batches of `BATCH`."""

    p50_ms: float
    p99_ms: float
    texts_per_second: float


def measure_throughput(call: Call[T], texts: Sequence[T]) -> float:
    """Texts per second in batches of `BATCH`; warmed up with the first batch."""
    batches = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    call(batches[0])
    with _quiet():
        start = time.perf_counter()
        for batch in batches:
            call(batch)
        return len(texts) / (time.perf_counter() - start)


def measure_side_by_side(
    calls: Mapping[str, Call[T]], texts: Sequence[T], *, latency_texts: int, throughput_texts: int, rounds: int
) -> dict[str, Speed]:
    """Speed of several classifiers under the same conditions.

    Another load or a changing clock hits all of them alike, since they take turns: `rounds` times each one answers its
    share of the texts. Latencies are pooled over the rounds, throughput is the median of the rounds. Meant to be
    compared with each other; on another day the same machine gives other absolute numbers.

    Args:
        calls: name -> function under test.
        texts: drawn from in order, repeated where there are too few.
        latency_texts: single texts a classifier answers over all rounds.
        throughput_texts: texts it answers in batches over all rounds.
        rounds: turns.
    """
    single = _shares(texts, latency_texts, rounds)
    batched = _shares(texts, throughput_texts, rounds)
    times: dict[str, list[float]] = {name: [] for name in calls}
    rates: dict[str, list[float]] = {name: [] for name in calls}
    with _quiet():
        for turn in range(rounds):
            for name, call in calls.items():
                times[name] += _single(call, single[turn])
                rates[name].append(measure_throughput(call, batched[turn]))
    return {
        name: Speed(
            float(np.quantile(times[name], 0.5)), float(np.quantile(times[name], 0.99)), float(np.median(rates[name]))
        )
        for name in calls
    }


def _single(call: Call[T], texts: Sequence[T]) -> list[float]:
    for text in texts[:WARM_UP]:
        call([text])
    times = []
    with _quiet():
        for text in texts:
            start = time.perf_counter()
            call([text])
            times.append(1000 * (time.perf_counter() - start))
    return times


def _shares(texts: Sequence[T], count: int, rounds: int) -> list[list[T]]:
    """`rounds` lists of about count / rounds texts each, at least one."""
    size = max(-(-count // rounds), 1)
    supply = cycle(texts)
    return [list(islice(supply, size)) for _ in range(rounds)]


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection within: a full one takes longer than a text and would land on whoever runs then."""
    if not gc.isenabled():
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
