"""The line between requests and the model: rows of all callers, computed by token budget on all cores.

A request's rows wait in one line with everybody's. Each core takes the oldest row and fills its batch with waiting ones
of similar length; answers go back to each caller in the caller's order. A caller that left is skipped, a full line
refuses at once, and what has waited too long is given up: under any load the line, and so the waiting time, is bounded.
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

A = TypeVar("A")
B = TypeVar("B")
# How far behind the oldest row a batch looks for rows of similar length; those passed over stay the oldest.
LOOK_AHEAD = 64
# A batch takes no row shorter than this share of its longest: what is padded costs as much as what is real.
SIMILAR = 0.5
# Tokenized and put together where they arrive: a hand-over to another thread costs as much. More would keep others
# from being heard.
AT_ONCE_CHARACTERS = 4000


class OverloadError(Exception):
    """The line is full, or a request waited longer than it may.

    Attributes:
        retry_after: seconds after which asking again makes sense, at least 1.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Times:
    """Where a request's time went, in seconds: tokenizing, waiting for a core, and the model."""

    tokenize: float
    queue: float
    infer: float


@dataclass(frozen=True)
class Answered(Generic[A]):
    """Answers in the order of the request's texts, the rows in which the model read them, how long they took, and when
    (by `time.perf_counter`) the first row was taken.
    """

    answers: list[A]
    rows: list[Tokens]
    times: Times
    began: float


class Listener(Protocol):
    """Who is told what happens in the line; from several threads."""

    def batch(self, rows: int, tokens: int) -> None:
        """A batch was computed: its rows, and its tokens with the padded ones."""

    def refused(self, why: str) -> None:
        """A request got no answer: `full`, `late` or `left`."""

    def waited(self, seconds: float) -> None:
        """How long a request was in the line."""


@dataclass
class _Job:
    """One request: its texts count in the line until its last row is taken."""

    texts: int
    rows: list[Any]
    found: list[Floats]
    done: asyncio.Future[None]
    arrived: float
    to_take: int
    to_compute: int
    started: float = 0.0
    ended: float = 0.0
    given_up: bool = False


@dataclass(frozen=True, slots=True)
class _Item:
    """One row of a request, and how many tokens it has."""

    job: _Job
    row: int
    length: int


@dataclass(frozen=True)
class Batcher:
    """A student behind one bounded line, computed by one thread a core.

    Args:
        student: what answers.
        max_waiting: texts that may wait; a request that would exceed it is refused.
        max_seconds: how long a request may wait before its first row is computed.
        listener: who is told.
    """

    student: Student
    max_waiting: int
    max_seconds: float
    listener: Listener
    _line: deque[_Item] = field(default_factory=deque)
    _ready: threading.Condition = field(default_factory=threading.Condition)
    _threads: list[threading.Thread] = field(default_factory=list)
    _tokenizing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "tokenize"))
    # Texts in line; an object, because threads count it.
    _count: list[int] = field(default_factory=lambda: [0])

    @property
    def waiting(self) -> int:
        """Texts in line."""
        return self._count[0]

    def start(self) -> None:
        """Start the threads. They end with the process."""
        for number in range(self.student.threads):
            thread = threading.Thread(target=self._work, name=f"student-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    async def answer(self, texts: int, characters: int, prepare: Callable[[Student], Work[A]]) -> Answered[A]:
        """Answers to a request.

        Args:
            texts: how many it asks about.
            characters: of all of them together.
            prepare: makes the work of them, as `Student.predicting` does.

        Raises:
            OverloadError: the line is full, or the request waited too long.
            TypeError: as `prepare` raises it.
        """
        arrived = time.perf_counter()
        self._enter(texts)
        try:
            work, tokenizing = await self._prepared(characters, arrived, prepare)
        except BaseException:
            self._leave(texts)
            raise
        loop, rows = asyncio.get_running_loop(), list(work.rows)
        nothing: Floats = np.empty(0, dtype=np.float32)
        job = _Job(texts, rows, [nothing] * len(rows), loop.create_future(), arrived, len(rows), len(rows))
        self._put(job)
        try:
            await job.done
        except asyncio.CancelledError:
            job.given_up = True
            self.listener.refused("left")
            raise
        answers = await self._beside(characters, lambda: work.finish(job.found))
        times = Times(tokenizing, job.started - arrived - tokenizing, job.ended - job.started)
        self.listener.waited(times.queue)
        return Answered(answers, rows, times, job.started)

    def _enter(self, texts: int) -> None:
        """Count a request's texts, before work is spent on them."""
        with self._ready:
            if full := self.waiting + texts > self.max_waiting:
                waiting = self.waiting
            else:
                self._count[0] += texts
        if full:
            self.listener.refused("full")
            raise OverloadError(
                f"{waiting} texts are waiting, of at most {self.max_waiting}; ask again later", self._retry()
            )

    def _leave(self, texts: int) -> None:
        with self._ready:
            self._count[0] -= texts

    async def _prepared(
        self, characters: int, arrived: float, prepare: Callable[[Student], Work[A]]
    ) -> tuple[Work[A], float]:
        """The work of a request, and the seconds that took."""

        def timed() -> tuple[Work[A], float]:
            start = time.perf_counter()
            if start - arrived > self.max_seconds:
                raise self._late()
            return prepare(self.student), time.perf_counter() - start

        return await self._beside(characters, timed)

    async def _beside(self, characters: int, work: Callable[[], B]) -> B:
        """What would keep others from being heard is done in a thread."""
        if characters <= AT_ONCE_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, work)

    def _put(self, job: _Job) -> None:
        # Longest first: a batch is filled with what is behind its first row.
        lengths = [len(row.ids) for row in job.rows]
        order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        with self._ready:
            self._line.extend(_Item(job, row, lengths[row]) for row in order)
            self._ready.notify(min(len(order), len(self._threads)))

    def _late(self) -> OverloadError:
        self.listener.refused("late")
        return OverloadError(
            f"waited longer than {self.max_seconds:g} s for a free core; ask again later", self._retry()
        )

    def _retry(self) -> int:
        return max(math.ceil(self.max_seconds), 1)

    # --- the threads --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._line:
                    self._ready.wait()
                batch = self._take()
            if batch:
                self._compute(batch)

    def _take(self) -> list[_Item]:
        """The oldest row that is still wanted, and waiting ones of similar length as long as they fit into a call."""
        batch: list[_Item] = []
        now = time.perf_counter()
        while self._line and not batch:
            item = self._pop(0)
            if self._wanted(item, now):
                batch.append(item)
        position = 0
        while batch and self.student.fits(len(batch) + 1, batch[0].length):
            if position >= min(len(self._line), LOOK_AHEAD):
                break
            if SIMILAR * batch[0].length <= self._line[position].length <= batch[0].length:
                item = self._pop(position)
                if self._wanted(item, now):
                    batch.append(item)
            else:
                position += 1
        return batch

    def _pop(self, position: int) -> _Item:
        item = self._line[position]
        del self._line[position]
        item.job.to_take -= 1
        if not item.job.to_take:
            self._count[0] -= item.job.texts
        return item

    def _wanted(self, item: _Item, now: float) -> bool:
        job = item.job
        if job.given_up:
            return False
        if not job.started:
            if now - job.arrived > self.max_seconds:
                job.given_up = True
                self._tell(job, self._late())
                return False
            job.started = now
        return True

    def _compute(self, batch: list[_Item]) -> None:
        try:
            logits = self.student.run([item.job.rows[item.row] for item in batch])
        except Exception as error:  # told to the callers; the thread lives on
            for job in {id(item.job): item.job for item in batch}.values():
                job.given_up = True
                self._tell(job, error)
            return
        self.listener.batch(len(batch), len(batch) * batch[0].length)
        finished = []
        with self._ready:
            for item, values in zip(batch, logits, strict=True):
                item.job.found[item.row] = values
                item.job.to_compute -= 1
                if not item.job.to_compute:
                    finished.append(item.job)
        for job in finished:
            job.ended = time.perf_counter()
            self._tell(job, None)

    @staticmethod
    def _tell(job: _Job, error: Exception | None) -> None:
        def settle() -> None:
            if job.done.done():  # the caller left
                return
            if error is None:
                job.done.set_result(None)
            else:
                job.done.set_exception(error)

        with suppress(RuntimeError):  # the server has stopped
            job.done.get_loop().call_soon_threadsafe(settle)
