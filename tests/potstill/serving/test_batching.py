from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.inference.runtime import BATCH_TOKENS, Floats, Prediction, Student
from potstill.serving.batching import INLINE_CHARACTERS, Batcher, OverloadError, TimedAnswers
from tests.potstill.serving.folders import write_serving

TEXTS = [f"text {'word ' * (number % 7)}{number}" for number in range(40)]


@pytest.fixture(params=["int8", "fp32"])
def student(request: pytest.FixtureRequest, tiny_base: Path, tmp_path: Path) -> Student:
    return Student(write_serving(tiny_base, tmp_path / "serving", variant=request.param), threads=2)


class Ear:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.rows = 0

    def batch(self, rows: int, tokens: int) -> None:
        assert tokens >= rows > 0
        self.rows += rows

    def refused(self, why: str) -> None:
        self.reasons.append(why)

    def waited(self, seconds: float) -> None:
        assert seconds >= 0


async def ask(batcher: Batcher, texts: Sequence[str]) -> TimedAnswers[Prediction]:
    return await batcher.answer(len(texts), sum(map(len, texts)), lambda student: student.predict_work(texts))


class Slow:
    """A student whose model waits for a gate, and that remembers its batches."""

    def __init__(self, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.batches = threading.Event(), list[list[int]]()
        run = student.run

        def gated(encodings: Sequence[Any]) -> list[Floats]:
            self.gate.wait(30)
            self.batches.append([len(encoding) for encoding in encodings])
            return run(encodings)

        monkeypatch.setattr(student, "run", gated)


async def busy(batcher: Batcher) -> list[asyncio.Task[Any]]:
    """Two requests that both threads are at, with nobody waiting."""
    asked = []
    for text in TEXTS[:2]:
        asked.append(asyncio.create_task(ask(batcher, [text])))
        await asyncio.sleep(0.01)
        while batcher.waiting:
            await asyncio.sleep(0.01)
    return asked


def within(
    student: Student,
    work: Callable[[Batcher], Awaitable[Any]],
    *,
    waiting: int = 1000,
    seconds: float = 30,
    ear: Ear | None = None,
) -> Any:
    batcher = Batcher(student, waiting, seconds, ear or Ear())
    batcher.start()
    return asyncio.run(work(batcher))


def test_each_caller_gets_the_answers_to_its_own_texts_in_its_order(student: Student) -> None:
    groups = [TEXTS[start : start + 1 + start % 5] for start in range(30)]

    async def work(batcher: Batcher) -> list[Any]:
        return await asyncio.gather(*(ask(batcher, group) for group in groups))

    for group, answered in zip(groups, within(student, work), strict=True):
        expected = [prediction for text in group for prediction in student.predict([text])]
        assert [found.label for found in answered.answers] == [prediction.label for prediction in expected]
        for found, prediction in zip(answered.answers, expected, strict=True):
            np.testing.assert_allclose(found.probabilities, prediction.probabilities, atol=1e-5)
        assert min(answered.times.tokenize, answered.times.queue, answered.times.infer) >= 0


def test_batches_stay_under_the_budget_and_hold_similar_lengths(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(student, monkeypatch)

    async def work(batcher: Batcher) -> None:
        asked = [asyncio.create_task(ask(batcher, [text])) for text in TEXTS]
        await asyncio.sleep(0.1)
        slow.gate.set()
        await asyncio.gather(*asked)

    within(student, work)
    assert sum(map(len, slow.batches)) == len(TEXTS)
    if student.card.variant == "int8":
        assert {len(batch) for batch in slow.batches} == {1}
    else:
        assert max(len(batch) for batch in slow.batches) > 1
        assert all(len(batch) == 1 or len(batch) * max(batch) <= BATCH_TOKENS for batch in slow.batches)
        assert all(min(batch) >= 0.5 * batch[0] for batch in slow.batches)


def test_a_full_line_refuses_at_once_and_takes_again_when_it_is_short(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, ear = Slow(student, monkeypatch), Ear()

    async def work(batcher: Batcher) -> None:
        asked = await busy(batcher)
        asked.append(asyncio.create_task(ask(batcher, TEXTS[2:5])))
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadError, match="3 texts are waiting") as refused:
            await ask(batcher, TEXTS[:4])
        assert refused.value.retry_after >= 1
        assert ear.reasons == ["full"]
        slow.gate.set()
        await asyncio.gather(*asked)
        assert batcher.waiting == 0
        assert len((await ask(batcher, TEXTS[:4])).answers) == 4

    within(student, work, waiting=5, ear=ear)


def test_who_waited_too_long_is_told_and_not_computed(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, ear = Slow(student, monkeypatch), Ear()

    async def work(batcher: Batcher) -> None:
        computing = await busy(batcher)
        late = asyncio.create_task(ask(batcher, TEXTS[2:5]))
        await asyncio.sleep(0.3)
        slow.gate.set()
        with pytest.raises(OverloadError, match=r"waited longer than 0\.2 s"):
            await late
        await asyncio.gather(*computing)
        assert ear.reasons == ["late"]
        while batcher.waiting:  # it is told at its first row, and counted until its last is out of the line
            await asyncio.sleep(0.01)

    within(student, work, seconds=0.2, ear=ear)
    assert sum(map(len, slow.batches)) == 2


def test_a_caller_that_left_is_not_computed(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, ear = Slow(student, monkeypatch), Ear()

    async def work(batcher: Batcher) -> None:
        computing = await busy(batcher)
        gone = asyncio.create_task(ask(batcher, TEXTS[2:30]))
        await asyncio.sleep(0.05)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        slow.gate.set()
        await asyncio.gather(*computing)
        await ask(batcher, TEXTS[:1])
        assert (ear.reasons, batcher.waiting) == (["left"], 0)

    within(student, work, ear=ear)
    assert sum(map(len, slow.batches)) == 3


def test_an_error_of_the_model_reaches_its_callers_and_the_threads_live_on(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, broken = student.run, [True]

    def fails(encodings: Sequence[Any]) -> list[Floats]:
        if broken[0]:
            raise RuntimeError("out of order")
        return run(encodings)

    monkeypatch.setattr(student, "run", fails)

    async def work(batcher: Batcher) -> None:
        for _ in range(4):
            with pytest.raises(RuntimeError, match="out of order"):
                await ask(batcher, TEXTS[:3])
        broken[0] = False
        deadline = time.monotonic() + 5
        while batcher.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert len((await ask(batcher, TEXTS[:3])).answers) == 3

    within(student, work)


def test_long_texts_are_tokenized_beside_the_loop_and_count_in_the_line(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, ear, long = threading.Event(), Ear(), ["word " * INLINE_CHARACTERS]
    predicting, tokenized = student.predicting, list[str]()

    def gated(texts: Sequence[Any]) -> Any:
        tokenized.append(threading.current_thread().name)
        assert gate.wait(30)
        return predicting(texts)

    async def work(batcher: Batcher) -> None:
        monkeypatch.setattr(student, "predicting", gated)
        first, second = (asyncio.create_task(ask(batcher, long)) for _ in range(2))
        await asyncio.sleep(0.3)
        assert batcher.waiting == 2
        with pytest.raises(OverloadError, match="2 texts are waiting"):
            await ask(batcher, long)
        gate.set()
        for late in (first, second):  # the second was not even tokenized
            with pytest.raises(OverloadError, match="waited longer"):
                await late
        assert (ear.reasons, batcher.waiting, len(tokenized)) == (["full", "late", "late"], 0, 1)
        assert (await ask(batcher, long)).answers[0].truncated
        assert {name.split("_")[0] for name in tokenized} == {"tokenize"}

    within(student, work, waiting=2, seconds=0.2, ear=ear)
