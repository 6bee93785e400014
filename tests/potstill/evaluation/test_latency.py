from __future__ import annotations

import gc
import time
from collections.abc import Callable

import pytest

from potstill.evaluation.latency import BATCH, WARM_UP, Call, Speed, measure_side_by_side, measure_throughput

pytestmark = pytest.mark.slow


def _sleeper(seconds: float, sizes: list[int] | None = None) -> Callable[[list[str]], object]:
    def call(texts: list[str]) -> object:
        time.sleep(seconds * len(texts))
        if sizes is not None:
            sizes.append(len(texts))
        return texts

    return call


def measured(call: Call[str]) -> Speed:
    """The speed of one classifier over 20 single texts."""
    return measure_side_by_side({"it": call}, ["a"] * 20, latency_texts=20, throughput_texts=1, rounds=1)["it"]


def test_latency_is_in_milliseconds_of_one_text_after_a_warm_up() -> None:
    sizes: list[int] = []
    speed = measured(_sleeper(0.002, sizes))
    assert 2 <= speed.p50_ms <= speed.p99_ms
    assert speed.p50_ms < 20
    assert sizes[: 20 + WARM_UP] == [1] * (20 + WARM_UP)


def test_the_99th_percentile_sees_the_slow_one() -> None:
    calls = iter([0.0] * (WARM_UP + 19) + [0.03, 0.0, 0.0])
    speed = measured(lambda texts: time.sleep(next(calls)))
    assert speed.p50_ms < 5
    assert speed.p99_ms > 20


def test_throughput_counts_texts_not_batches() -> None:
    sizes: list[int] = []
    rate = measure_throughput(_sleeper(0.0005, sizes), ["a"] * 80)
    assert 200 < rate <= 2000
    assert sizes == [BATCH, BATCH, BATCH, 80 - 2 * BATCH]  # the first one is the warm-up


def test_models_take_turns_and_texts_are_repeated_where_there_are_few() -> None:
    order: list[str] = []

    def named(name: str, seconds: float) -> Callable[[list[str]], object]:
        def call(texts: list[str]) -> object:
            assert set(texts) <= {"x", "y", "z"}
            if order[-1:] != [name]:
                order.append(name)
            return time.sleep(seconds * len(texts))

        return call

    calls = {"slow": named("slow", 0.002), "fast": named("fast", 0.0002)}
    speeds = measure_side_by_side(calls, ["x", "y", "z"], latency_texts=20, throughput_texts=40, rounds=3)
    assert order == ["slow", "fast"] * 3
    assert speeds["slow"].p50_ms > 2 * speeds["fast"].p50_ms
    assert speeds["fast"].texts_per_second > 2 * speeds["slow"].texts_per_second


def test_garbage_collection_rests_while_timing_and_is_back_after_a_failure() -> None:
    states: list[bool] = []

    def call(texts: list[str]) -> object:
        states.append(gc.isenabled())
        if len(states) > WARM_UP + 2:
            raise RuntimeError("broken model")
        return texts

    with pytest.raises(RuntimeError, match="broken model"):
        measured(call)
    assert states[WARM_UP:] == [False] * 3
    assert gc.isenabled()
