"""The queue between requests and the model: rows of all callers are batched by a token budget on all cores.

The rows of all requests wait in one queue. Each core takes the oldest row and fills its batch with waiting rows of
similar length. Each caller gets its answers in its own order. Rows of a caller that has disconnected are skipped, a
full queue refuses at once, and a request that has waited too long fails. Under any load the queue, and with it the
waiting time, is bounded.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from potstill.inference.runtime import Floats, Student, Tokens, Work

Answer = TypeVar("Answer")
Result = TypeVar("Result")
# Rows after the oldest one among which a batch looks for similar lengths; rows that are passed over stay the oldest.
LOOK_AHEAD = 64
# A batch takes no row shorter than this share of its longest one: padding costs as much as real tokens.
MIN_LENGTH_SHARE = 0.5
# Requests of at most this size are tokenized and finished in the event loop, since handing them to a thread costs as
# much. Larger ones would block the loop.
INLINE_CHARACTERS = 4000


class OverloadError(Exception):
    """The queue is full, or a request has waited too long.

    Attributes:
        retry_after: seconds after which the caller should try again, at least 1.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Times:
    """The seconds that a request spent on tokenizing, waiting for a core, and the model."""

    tokenize: float
    queue: float
    infer: float


@dataclass(frozen=True)
class TimedAnswers(Generic[Answer]):
    """The answers to a request, with their rows and times.

    Attributes:
        answers: answers in the order of the request's texts.
        rows: the rows in which the model read the texts.
        times: how long the steps took.
        began: when the model began with the first row, by `time.perf_counter`.
    """

    answers: list[Answer]
    rows: list[Tokens]
    times: Times
    began: float


class Listener(Protocol):
    """A listener to the events of the queue; it is called from several threads."""

    def batch(self, rows: int, tokens: int) -> None:
        """A batch was computed, with its number of rows and of tokens, padding included."""

    def refused(self, reason: str) -> None:
        """A request got no answer: the queue was `full`, it was `late`, or its caller had `left`."""

    def waited(self, seconds: float) -> None:
        """A request has waited in the queue for some seconds."""


@dataclass
class _Job:
    """A request; its texts count as waiting until its last row is taken."""

    texts: int
    rows: list[Any]
    logits: list[Floats]
    done: asyncio.Future[None]
    arrived: float
    to_take: int
    to_compute: int
    started: float = 0.0
    ended: float = 0.0
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class _QueuedRow:
    """A row of a request, and its number of tokens."""

    job: _Job
    row: int
    length: int


@dataclass
class Batcher:
    """A student with one bounded queue and one thread a core.

    Attributes:
        student: the model.
        max_waiting: number of texts that may wait; a request that would exceed it is refused.
        max_seconds: how long a request may wait before its first row is computed.
        listener: receives the events.
        waiting: number of waiting texts.
    """

    student: Student
    max_waiting: int
    max_seconds: float
    listener: Listener
    waiting: int = 0
    _queue: deque[_QueuedRow] = field(default_factory=deque)
    _ready: threading.Condition = field(default_factory=threading.Condition)
    _threads: list[threading.Thread] = field(default_factory=list)
    _tokenizing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "tokenize"))

    def start(self) -> None:
        """Start the threads, which end with the process."""
        for number in range(self.student.threads):
            thread = threading.Thread(target=self._work, name=f"student-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    async def answer(
        self, texts: int, characters: int, prepare: Callable[[Student], Work[Answer]]
    ) -> TimedAnswers[Answer]:
        """Answer a request.

        Args:
            texts: number of texts.
            characters: number of characters of all texts.
            prepare: prepares their work, as `Student.predict_work` does.

        Raises:
            OverloadError: the queue is full, or the request waited too long.
            TypeError: raised by `prepare`.
        """
        arrived = time.perf_counter()
        self._reserve(texts)
        try:
            work, tokenizing = await self._prepare(characters, arrived, prepare)
        except BaseException:
            self._release(texts)
            raise
        rows = list(work.rows)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        empty: Floats = np.empty(0, dtype=np.float32)
        job = _Job(texts, rows, [empty] * len(rows), done, arrived, len(rows), len(rows))
        self._put(job)
        try:
            await done
        except asyncio.CancelledError:
            job.given_up = True
            self.listener.refused("left")
            raise
        answers = await self._run(characters, lambda: work.finish(job.logits))
        times = Times(tokenizing, job.started - arrived - tokenizing, job.ended - job.started)
        self.listener.waited(times.queue)
        return TimedAnswers(answers, rows, times, job.started)

    def _reserve(self, texts: int) -> None:
        """Count a request's texts as waiting, before work is spent on them."""
        with self._ready:
            waiting = self.waiting
            is_full = waiting + texts > self.max_waiting
            if not is_full:
                self.waiting += texts
        if is_full:
            self.listener.refused("full")
            raise OverloadError(
                f"{waiting} texts are waiting, of at most {self.max_waiting}; try again later", self._retry_seconds()
            )

    def _release(self, texts: int) -> None:
        with self._ready:
            self.waiting -= texts

    async def _prepare(
        self, characters: int, arrived: float, prepare: Callable[[Student], Work[Answer]]
    ) -> tuple[Work[Answer], float]:
        """Prepare the work of a request, and measure the seconds for it."""

        def timed() -> tuple[Work[Answer], float]:
            start = time.perf_counter()
            if start - arrived > self.max_seconds:
                raise self._late()
            return prepare(self.student), time.perf_counter() - start

        return await self._run(characters, timed)

    async def _run(self, characters: int, work: Callable[[], Result]) -> Result:
        """Do work in the event loop, or in a thread if it would block the loop."""
        if characters <= INLINE_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, work)

    def _put(self, job: _Job) -> None:
        # Longest first, because a batch takes no row longer than its first one.
        lengths = [len(row.ids) for row in job.rows]
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        with self._ready:
            self._queue.extend(_QueuedRow(job, row, lengths[row]) for row in order)
            self._ready.notify(min(len(order), len(self._threads)))

    def _late(self) -> OverloadError:
        self.listener.refused("late")
        return OverloadError(
            f"waited longer than {self.max_seconds:g} s for a free core; try again later", self._retry_seconds()
        )

    def _retry_seconds(self) -> int:
        return max(math.ceil(self.max_seconds), 1)

    # --- in the threads -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._queue:
                    self._ready.wait()
                batch = self._take()
            if batch:
                self._compute(batch)

    def _take(self) -> list[_QueuedRow]:
        """Take the oldest row whose caller still waits, and rows of similar length that fit into the same call."""
        batch: list[_QueuedRow] = []
        now = time.perf_counter()
        while self._queue and not batch:
            row = self._pop(0)
            if self._is_awaited(row, now):
                batch.append(row)
        position = 0
        while batch and self.student.fits(len(batch) + 1, batch[0].length):
            if position >= min(len(self._queue), LOOK_AHEAD):
                break
            if MIN_LENGTH_SHARE * batch[0].length <= self._queue[position].length <= batch[0].length:
                row = self._pop(position)
                if self._is_awaited(row, now):
                    batch.append(row)
            else:
                position += 1
        return batch

    def _pop(self, position: int) -> _QueuedRow:
        row = self._queue[position]
        del self._queue[position]
        row.job.to_take -= 1
        if not row.job.to_take:
            self.waiting -= row.job.texts
        return row

    def _is_awaited(self, row: _QueuedRow, now: float) -> bool:
        job = row.job
        if job.given_up:
            return False
        if not job.started:
            if now - job.arrived > self.max_seconds:
                job.given_up = True
                self._settle(job, self._late())
                return False
            job.started = now
        return True

    def _compute(self, batch: list[_QueuedRow]) -> None:
        try:
            logits = self.student.run([queued.job.rows[queued.row] for queued in batch])
        except Exception as error:  # it goes to the callers; the thread continues
            for job in {id(queued.job): queued.job for queued in batch}.values():
                job.given_up = True
                self._settle(job, error)
            return
        self.listener.batch(len(batch), len(batch) * batch[0].length)
        finished = []
        with self._ready:
            for queued, values in zip(batch, logits, strict=True):
                queued.job.logits[queued.row] = values
                queued.job.to_compute -= 1
                if not queued.job.to_compute:
                    finished.append(queued.job)
        for job in finished:
            job.ended = time.perf_counter()
            self._settle(job, None)

    @staticmethod
    def _settle(job: _Job, error: Exception | None) -> None:
        def settle() -> None:
            if job.done.done():  # the caller has left
                return
            if error is None:
                job.done.set_result(None)
            else:
                job.done.set_exception(error)

        with suppress(RuntimeError):  # the server has stopped
            job.done.get_loop().call_soon_threadsafe(settle)
