"""A challenger that rides along: it answers a share of the requests too, and nobody sees what it says.

It computes behind the champion, in one thread of the lowest priority that rests at least as long as it works. Requests
that began while it was at work are compared, each with one before that did not; where they take longer than they may,
and than chance explains, it is dropped.
"""

from __future__ import annotations

import logging
import math
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from potstill.artifacts import MANIFEST, sha256_file
from potstill.errors import ModelError
from potstill.inference.profile import answer_all
from potstill.inference.runtime import Prediction, Student, characters
from potstill.serving.launch import SHADOW_FOLDER
from potstill.serving.watcher import Item, said

if TYPE_CHECKING:
    from potstill.serving.release import Release

log = logging.getLogger("potstill.shadow")

# Requests that may wait for the challenger; further ones are not asked about.
WAITING = 16
# Pairs of champion's requests, one that began while it was at work and one that did not, that are compared; and the
# fewest that are.
COMPARED, FEWEST = 400, 100
# By how many standard deviations of chance more than half of the pairs have to be over the limit (sign test).
DEVIATIONS = 3.0
# Its last times at work that are remembered: those that a request can have begun in.
WORKS = 64
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Shadow:
    """A challenger beside a champion. `saw` may be called from any thread."""

    def __init__(
        self, student: Student, share: float, max_slowdown: float, registry: CollectorRegistry, name: str
    ) -> None:
        """Nothing is computed before `start`.

        Args:
            student: the challenger.
            share: of the requests that it answers too.
            max_slowdown: of the champion's time for a character, above which it is dropped.
            registry: takes the metrics.
            name: of the challenger, in them and in the log.
        """
        self._student, self._share, self._max_slowdown, self._name = student, share, max_slowdown, name
        self._metrics = _Metrics(registry, name)
        self._random = random.Random()
        self._queue: deque[Item] = deque()
        self._lock = threading.Condition()
        # Seconds for a character of requests that have no partner yet; how many times as long the others of pairs took.
        self._alone: deque[float] = deque(maxlen=FEWEST)
        self._ratios: deque[float] = deque(maxlen=COMPARED)
        self._since_check = 0
        # When it began to work, None at rest; and from when to when it did before.
        self._began: float | None = None
        self._worked: deque[tuple[float, float]] = deque(maxlen=WORKS)
        self._over = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    @property
    def riding(self) -> bool:
        """Whether it still answers."""
        return not self._over

    def start(self) -> None:
        """Begin."""
        self._metrics.riding.set(1)
        self._thread.start()

    def close(self) -> None:
        """End, with what waits unanswered."""
        with self._lock:
            self._over = True
            self._lock.notify()
        self._thread.join()

    def saw(self, item: Item) -> None:
        """A request that the champion has answered."""
        with self._lock:
            if self._over:
                return
            self._compare(item)
            if self._over or self._random.random() >= self._share:
                return
            if len(self._queue) >= WAITING:
                self._metrics.skipped.inc()
                return
            self._queue.append(item)
            self._lock.notify()

    def _compare(self, item: Item) -> None:
        """Whether requests that began while the challenger was at work took longer than others; with the lock held.

        In pairs that are close in time, so that a change of the load is none of its doing; and told apart by their
        beginning, because a request that takes long for another reason is more likely to meet it before its end.
        """
        seconds = item.seconds / max(sum(map(characters, item.texts)), 1)
        if not self._at_work(item.began):
            self._alone.append(seconds)
            return
        if not self._alone:
            return
        self._ratios.append(seconds / max(self._alone.pop(), 1e-12))
        self._since_check += 1
        if self._since_check < FEWEST:
            return
        self._since_check = 0
        slowdown = median(self._ratios)
        self._metrics.slowdown.set(slowdown)
        pairs, over = len(self._ratios), sum(ratio > self._max_slowdown for ratio in self._ratios)
        if over > pairs / 2 + DEVIATIONS * math.sqrt(pairs) / 2:
            log.warning(
                "shadow: %s is dropped: beside it the champion takes %.2f times as long "
                "(watch.shadow_max_slowdown is %g)",
                self._name,
                slowdown,
                self._max_slowdown,
            )
            self._drop()

    def _at_work(self, moment: float) -> bool:
        if self._began is not None and self._began <= moment:
            return True
        return any(began <= moment < ended for began, ended in self._worked)

    def _drop(self) -> None:
        self._over = True
        self._queue.clear()
        self._metrics.riding.set(0)
        self._lock.notify()

    # --- in the thread ---

    def _run(self) -> None:
        if sys.platform.startswith("linux"):  # where a thread has a priority of its own
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        while (item := self._next()) is not None:
            begin = time.perf_counter()
            try:
                self._answer(item)
            except Exception as error:
                log.error("shadow: %s failed and is dropped: %s", self._name, " ".join(str(error).split()))
                with self._lock:
                    self._drop()
            with self._lock:
                ended = time.perf_counter()
                self._began = None
                self._worked.append((begin, ended))
                self._lock.wait_for(lambda: self._over, timeout=ended - begin)

    def _next(self) -> Item | None:
        with self._lock:
            self._lock.wait_for(lambda: self._over or self._queue)
            if self._over:
                return None
            self._began = time.perf_counter()
            return self._queue.popleft()

    def _answer(self, item: Item) -> None:
        begin = time.perf_counter()
        answers = answer_all(self._student, item.texts)
        self._metrics.seconds.observe(time.perf_counter() - begin)
        for theirs, ours in zip(item.answers, answers, strict=True):
            self._metrics.texts.inc()
            self._metrics.agreements.inc(_same(said(theirs)) == _same(said(ours)))
            if (difference := _difference(theirs, ours, self._student.card.labels)) is not None:
                self._metrics.difference.observe(difference)


class _Metrics:
    def __init__(self, registry: CollectorRegistry, name: str) -> None:
        def labelled(kind: Any, words: str, what: str, **more: Any) -> Any:
            return kind(f"potstill_shadow_{what}", words, ["model"], registry=registry, **more).labels(name)

        self.riding: Gauge = labelled(Gauge, "1 while the challenger answers too, 0 once it was dropped.", "riding")
        self.texts: Counter = labelled(Counter, "Texts that the challenger answered too.", "texts")
        self.agreements: Counter = labelled(Counter, "Of them, those with the champion's answer.", "agreements")
        self.skipped: Counter = labelled(Counter, "Requests it was not asked about: too many waited.", "skipped")
        self.difference: Summary = labelled(
            Summary, "Between the two numbers, or their probabilities of the champion's label.", "difference"
        )
        self.seconds: Histogram = labelled(Histogram, "What it takes for a request.", "seconds", buckets=_SECONDS)
        self.slowdown: Gauge = labelled(
            Gauge, "Champion's time for a character beside the challenger at work, over that alone.", "slowdown"
        )


def _same(answer: Any) -> Any:
    """Several labels in any order."""
    return sorted(map(str, answer)) if isinstance(answer, list) else answer


def _difference(champion: Any, challenger: Any, labels: Sequence[Any]) -> float | None:
    if not isinstance(champion, Prediction):
        return None
    if isinstance(champion.label, float):
        return abs(champion.label - float(challenger.label))
    if isinstance(champion.label, list):
        return None
    return abs(max(champion.probabilities) - float(challenger.probabilities[labels.index(champion.label)]))


def shadow_of(release: Release, registry: CollectorRegistry) -> Shadow | None:
    """The challenger that the environment names, riding along; None where there is none.

    Whatever keeps it from riding is said in the log and never raised: it must not decide about the champion.
    """
    watch, named = release.settings.watch, os.environ.get(SHADOW_FOLDER)
    if not named or not watch.shadow:
        return None
    try:
        student = _challenger(Path(named), release)
    except Exception as error:  # whatever is wrong with the folder
        log.error("shadow: off, the challenger is left out: %s", " ".join(str(error).split()))
        return None
    shadow = Shadow(student, watch.shadow, watch.shadow_max_slowdown, registry, Path(named).name)
    shadow.start()
    return shadow


def _challenger(folder: Path, release: Release) -> Student:
    """Load a challenger that answers the champion's question.

    Raises:
        PotstillError: its files are not whole, it is the champion itself, or its task or labels are others.
    """
    student = Student(folder, threads=1)
    if sha256_file(folder / MANIFEST) == release.candidate:
        raise ModelError(f"{folder} holds the champion itself, so there is nothing to compare")
    ours, theirs = release.card, student.card
    if (ours.kind, ours.pair, set(ours.labels)) != (theirs.kind, theirs.pair, set(theirs.labels)):
        raise ModelError(f"{folder} answers another question than the champion; name a model of its task and labels")
    return student
