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


class RecordingListener:
    """A listener that records its events."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.rows = 0

    def batch(self, rows: int, tokens: int) -> None:
        assert tokens >= rows > 0
        self.rows += rows

    def refused(self, reason: str) -> None:
        self.reasons.append(reason)

    def waited(self, seconds: float) -> None:
        assert seconds >= 0


async def ask(batcher: Batcher, texts: Sequence[str]) -> TimedAnswers[Prediction]:
    return await batcher.answer(len(texts), sum(map(len, texts)), lambda student: student.predict_work(texts))


class GatedStudent:
    """A student whose model waits for a gate and records its batches."""

    def __init__(self, student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.batches: list[list[int]] = []
        run = student.run

        def gated(encodings: Sequence[Any]) -> list[Floats]:
            self.gate.wait(30)
            self.batches.append([len(encoding.ids) for encoding in encodings])
            return run(encodings)

        monkeypatch.setattr(student, "run", gated)


async def occupy_threads(batcher: Batcher) -> list[asyncio.Task[Any]]:
    """Give each of the two threads a request, so that no text waits."""
    tasks = []
    for text in TEXTS[:2]:
        tasks.append(asyncio.create_task(ask(batcher, [text])))
        await asyncio.sleep(0.01)
        while batcher.waiting:
            await asyncio.sleep(0.01)
    return tasks


def run_with_batcher(
    student: Student,
    work: Callable[[Batcher], Awaitable[Any]],
    *,
    waiting: int = 1000,
    seconds: float = 30,
    listener: RecordingListener | None = None,
) -> Any:
    batcher = Batcher(student, waiting, seconds, listener or RecordingListener())
    batcher.start()
    return asyncio.run(work(batcher))


def test_each_caller_gets_its_answers_in_order(student: Student) -> None:
    groups = [TEXTS[start : start + 1 + start % 5] for start in range(30)]

    async def work(batcher: Batcher) -> list[Any]:
        return await asyncio.gather(*(ask(batcher, group) for group in groups))

    for group, result in zip(groups, run_with_batcher(student, work), strict=True):
        expected = [prediction for text in group for prediction in student.predict([text])]
        assert [answer.label for answer in result.answers] == [prediction.label for prediction in expected]
        for answer, prediction in zip(result.answers, expected, strict=True):
            np.testing.assert_allclose(answer.probabilities, prediction.probabilities, atol=1e-5)
        assert min(result.times.tokenize, result.times.queue, result.times.infer) >= 0


def test_batches_stay_under_the_budget_and_hold_similar_lengths(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated_student = GatedStudent(student, monkeypatch)

    async def work(batcher: Batcher) -> None:
        tasks = [asyncio.create_task(ask(batcher, [text])) for text in TEXTS]
        await asyncio.sleep(0.1)
        gated_student.gate.set()
        await asyncio.gather(*tasks)

    run_with_batcher(student, work)
    assert sum(map(len, gated_student.batches)) == len(TEXTS)
    if student.card.variant == "int8":
        assert {len(batch) for batch in gated_student.batches} == {1}
    else:
        assert max(len(batch) for batch in gated_student.batches) > 1
        assert all(len(batch) == 1 or len(batch) * max(batch) <= BATCH_TOKENS for batch in gated_student.batches)
        assert all(min(batch) >= 0.5 * batch[0] for batch in gated_student.batches)


def test_a_full_queue_refuses_at_once_and_accepts_again_later(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated_student = GatedStudent(student, monkeypatch)
    listener = RecordingListener()

    async def work(batcher: Batcher) -> None:
        tasks = await occupy_threads(batcher)
        tasks.append(asyncio.create_task(ask(batcher, TEXTS[2:5])))
        await asyncio.sleep(0.01)
        with pytest.raises(OverloadError, match="3 texts are waiting") as refused:
            await ask(batcher, TEXTS[:4])
        assert refused.value.retry_after >= 1
        assert listener.reasons == ["full"]
        gated_student.gate.set()
        await asyncio.gather(*tasks)
        assert batcher.waiting == 0
        assert len((await ask(batcher, TEXTS[:4])).answers) == 4

    run_with_batcher(student, work, waiting=5, listener=listener)


def test_a_request_that_waited_too_long_fails_and_is_not_computed(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated_student = GatedStudent(student, monkeypatch)
    listener = RecordingListener()

    async def work(batcher: Batcher) -> None:
        computing = await occupy_threads(batcher)
        late = asyncio.create_task(ask(batcher, TEXTS[2:5]))
        await asyncio.sleep(0.3)
        gated_student.gate.set()
        with pytest.raises(OverloadError, match=r"waited longer than 0\.2 s"):
            await late
        await asyncio.gather(*computing)
        assert listener.reasons == ["late"]
        while batcher.waiting:  # it fails at its first row, but counts as waiting until its last row is taken
            await asyncio.sleep(0.01)

    run_with_batcher(student, work, seconds=0.2, listener=listener)
    assert sum(map(len, gated_student.batches)) == 2


def test_a_request_whose_caller_left_is_not_computed(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    gated_student = GatedStudent(student, monkeypatch)
    listener = RecordingListener()

    async def work(batcher: Batcher) -> None:
        computing = await occupy_threads(batcher)
        abandoned = asyncio.create_task(ask(batcher, TEXTS[2:30]))
        await asyncio.sleep(0.05)
        abandoned.cancel()
        with pytest.raises(asyncio.CancelledError):
            await abandoned
        gated_student.gate.set()
        await asyncio.gather(*computing)
        await ask(batcher, TEXTS[:1])
        assert (listener.reasons, batcher.waiting) == (["left"], 0)

    run_with_batcher(student, work, listener=listener)
    assert sum(map(len, gated_student.batches)) == 3


def test_an_error_of_the_model_reaches_its_callers_and_the_threads_continue(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = student.run
    is_broken = [True]

    def fails(encodings: Sequence[Any]) -> list[Floats]:
        if is_broken[0]:
            raise RuntimeError("out of order")
        return run(encodings)

    monkeypatch.setattr(student, "run", fails)

    async def work(batcher: Batcher) -> None:
        for _ in range(4):
            with pytest.raises(RuntimeError, match="out of order"):
                await ask(batcher, TEXTS[:3])
        is_broken[0] = False
        deadline = time.monotonic() + 5
        while batcher.waiting and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert len((await ask(batcher, TEXTS[:3])).answers) == 3

    run_with_batcher(student, work)


def test_long_texts_are_tokenized_in_a_thread_and_count_as_waiting(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    listener = RecordingListener()
    long = ["word " * INLINE_CHARACTERS]
    predict_work = student.predict_work
    tokenizing_threads: list[str] = []

    def gated(texts: Sequence[Any]) -> Any:
        tokenizing_threads.append(threading.current_thread().name)
        assert gate.wait(30)
        return predict_work(texts)

    async def work(batcher: Batcher) -> None:
        monkeypatch.setattr(student, "predict_work", gated)
        first, second = (asyncio.create_task(ask(batcher, long)) for _ in range(2))
        await asyncio.sleep(0.3)
        assert batcher.waiting == 2
        with pytest.raises(OverloadError, match="2 texts are waiting"):
            await ask(batcher, long)
        gate.set()
        for late in (first, second):  # the second was not even tokenized
            with pytest.raises(OverloadError, match="waited longer"):
                await late
        assert (listener.reasons, batcher.waiting, len(tokenizing_threads)) == (["full", "late", "late"], 0, 1)
        assert (await ask(batcher, long)).answers[0].truncated
        assert {name.split("_")[0] for name in tokenizing_threads} == {"tokenize"}

    run_with_batcher(student, work, waiting=2, seconds=0.2, listener=listener)
