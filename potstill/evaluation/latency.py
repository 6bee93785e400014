"""Speed of classifiers, measured so that several can be compared on a noisy machine."""

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
# The function under test: a list of texts in, anything out.
Call = Callable[[list[T]], object]

WARM_UP = 5
# Texts of a call where throughput is measured.
BATCH = 32


@dataclass(frozen=True)
class Speed:
    """Milliseconds for one text (median, 99th percentile) and texts per second in batches of `BATCH`."""

    p50_ms: float
    p99_ms: float
    texts_per_second: float


def measure_throughput(call: Call[T], texts: Sequence[T]) -> float:
    """Measure texts per second in batches of `BATCH`, after a warm-up with the first batch."""
    batches = [list(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    call(batches[0])
    with _no_garbage_collection():
        start = time.perf_counter()
        for batch in batches:
            call(batch)
        return len(texts) / (time.perf_counter() - start)


def measure_side_by_side(
    calls: Mapping[str, Call[T]], texts: Sequence[T], *, latency_texts: int, throughput_texts: int, rounds: int
) -> dict[str, Speed]:
    """Measure the speed of several classifiers under the same conditions.

    They take turns, `rounds` times, so that other load or a changing clock affects all of them alike. Latencies are
    pooled over the rounds; throughput is the median of the rounds. Compare the numbers with each other only: on another
    day the same machine gives other absolute numbers.

    Args:
        calls: name -> function under test.
        texts: taken in order, and repeated where there are too few.
        latency_texts: single texts for each classifier over all rounds.
        throughput_texts: texts in batches for each classifier over all rounds.
        rounds: how many turns each classifier takes.
    """
    single = _shares(texts, latency_texts, rounds)
    batched = _shares(texts, throughput_texts, rounds)
    times: dict[str, list[float]] = {name: [] for name in calls}
    rates: dict[str, list[float]] = {name: [] for name in calls}
    with _no_garbage_collection():
        for turn in range(rounds):
            for name, call in calls.items():
                times[name] += _latencies(call, single[turn])
                rates[name].append(measure_throughput(call, batched[turn]))
    return {
        name: Speed(
            float(np.quantile(times[name], 0.5)), float(np.quantile(times[name], 0.99)), float(np.median(rates[name]))
        )
        for name in calls
    }


def _latencies(call: Call[T], texts: Sequence[T]) -> list[float]:
    for text in texts[:WARM_UP]:
        call([text])
    times = []
    with _no_garbage_collection():
        for text in texts:
            start = time.perf_counter()
            call([text])
            times.append(1000 * (time.perf_counter() - start))
    return times


def _shares(texts: Sequence[T], count: int, rounds: int) -> list[list[T]]:
    """Return `rounds` lists of about count / rounds texts each, at least one."""
    size = max(-(-count // rounds), 1)
    supply = cycle(texts)
    return [list(islice(supply, size)) for _ in range(rounds)]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switch garbage collection off for the block: a full collection takes longer than a text."""
    if not gc.isenabled():
        yield
        return
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
