"""Shadow traffic: a challenger also answers a share of the requests, and its answers are only compared.

The challenger computes after the champion, in a thread of the lowest priority that rests at least as long as it works.
Each of the champion's requests that began while the challenger was working is compared with an earlier one that did
not. The challenger is dropped if those requests take longer than allowed, by more than chance explains.
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
from potstill.serving.telemetry import create_metric
from potstill.serving.watcher import AnsweredRequest, text_free_answer

if TYPE_CHECKING:
    from potstill.serving.release import Release

log = logging.getLogger("potstill.shadow")

# Requests that may wait for the challenger; it does not answer further ones.
WAITING = 16
# Pairs of the champion's requests that are compared: the newest, and the fewest for a decision.
MAX_PAIRS = 400
MIN_PAIRS = 100
# Sign test: the pairs over the limit have to exceed one half by this many standard deviations.
DEVIATIONS = 3.0
# Past periods of work that are stored, in which a request can have begun.
MAX_PERIODS = 64
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Shadow:
    """A challenger next to the champion. `observe` may be called from any thread."""

    def __init__(
        self, student: Student, share: float, max_slowdown: float, registry: CollectorRegistry, name: str
    ) -> None:
        """Create a shadow; `start` starts it.

        Args:
            student: the challenger.
            share: share of the requests that it also answers.
            max_slowdown: limit of the champion's slowdown, in time per character, above which it is dropped.
            registry: registry of the metrics.
            name: name of the challenger in metrics and log.
        """
        self._student = student
        self._share = share
        self._max_slowdown = max_slowdown
        self._name = name
        self._metrics = _Metrics(registry, name)
        self._random = random.Random()
        self._queue: deque[AnsweredRequest] = deque()
        self._lock = threading.Condition()
        # Seconds per character of requests that ran without the challenger and are not in a pair yet.
        self._unpaired: deque[float] = deque(maxlen=MIN_PAIRS)
        # In each pair, the time with the challenger over the time without it.
        self._ratios: deque[float] = deque(maxlen=MAX_PAIRS)
        self._since_check = 0
        # Start of the present period of work, None at rest; and the past periods.
        self._began: float | None = None
        self._periods: deque[tuple[float, float]] = deque(maxlen=MAX_PERIODS)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._metrics.riding.set(1)
        self._thread.start()

    def close(self) -> None:
        """Stop; waiting requests stay unanswered."""
        with self._lock:
            self._stopped = True
            self._lock.notify()
        self._thread.join()

    def observe(self, request: AnsweredRequest) -> None:
        """Compare a request that the champion has answered, and queue it for the challenger if it is in the share."""
        with self._lock:
            if self._stopped:
                return
            self._compare(request)
            if self._stopped or self._random.random() >= self._share:
                return
            if len(self._queue) >= WAITING:
                self._metrics.skipped.inc()
                return
            self._queue.append(request)
            self._lock.notify()

    def _compare(self, request: AnsweredRequest) -> None:
        """Compare requests that began during the challenger's work with others, and drop it if they are too slow.

        The requests of a pair are close in time, so that a change of the load does not count against the challenger.
        They are distinguished by their start, because a request that is slow for another reason is more likely to
        overlap with the challenger's work before its end. The lock has to be held.
        """
        seconds = request.seconds / max(sum(map(characters, request.texts)), 1)
        if not self._was_working(request.began):
            self._unpaired.append(seconds)
            return
        if not self._unpaired:
            return
        self._ratios.append(seconds / max(self._unpaired.pop(), 1e-12))
        self._since_check += 1
        if self._since_check < MIN_PAIRS:
            return
        self._since_check = 0
        slowdown = median(self._ratios)
        self._metrics.slowdown.set(slowdown)
        pairs = len(self._ratios)
        slow = sum(ratio > self._max_slowdown for ratio in self._ratios)
        if slow > pairs / 2 + DEVIATIONS * math.sqrt(pairs) / 2:
            log.warning(
                "shadow: %s is dropped: next to it the champion takes %.2f times as long "
                "(watch.shadow_max_slowdown is %g)",
                self._name,
                slowdown,
                self._max_slowdown,
            )
            self._drop()

    def _was_working(self, moment: float) -> bool:
        if self._began is not None and self._began <= moment:
            return True
        return any(began <= moment < ended for began, ended in self._periods)

    def _drop(self) -> None:
        self._stopped = True
        self._queue.clear()
        self._metrics.riding.set(0)
        self._lock.notify()

    # --- in the thread ---

    def _run(self) -> None:
        if sys.platform.startswith("linux"):  # where a thread has its own priority
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        while (request := self._next()) is not None:
            begin = time.perf_counter()
            try:
                self._answer(request)
            except Exception as error:
                log.error("shadow: %s failed and is dropped: %s", self._name, " ".join(str(error).split()))
                with self._lock:
                    self._drop()
            with self._lock:
                ended = time.perf_counter()
                self._began = None
                self._periods.append((begin, ended))
                self._lock.wait_for(lambda: self._stopped, timeout=ended - begin)

    def _next(self) -> AnsweredRequest | None:
        with self._lock:
            self._lock.wait_for(lambda: self._stopped or self._queue)
            if self._stopped:
                return None
            self._began = time.perf_counter()
            return self._queue.popleft()

    def _answer(self, request: AnsweredRequest) -> None:
        begin = time.perf_counter()
        answers = answer_all(self._student, request.texts)
        self._metrics.seconds.observe(time.perf_counter() - begin)
        for champion, challenger in zip(request.answers, answers, strict=True):
            self._metrics.texts.inc()
            self._metrics.agreements.inc(_comparable(champion) == _comparable(challenger))
            if (difference := _difference(champion, challenger, self._student.card.labels)) is not None:
                self._metrics.difference.observe(difference)


class _Metrics:
    def __init__(self, registry: CollectorRegistry, name: str) -> None:
        def create(kind: Any, metric: str, description: str, **options: Any) -> Any:
            return create_metric(registry, kind, f"shadow_{metric}", description, "model", **options).labels(name)

        self.riding: Gauge = create(Gauge, "riding", "1 while the challenger answers too, 0 after it was dropped.")
        self.texts: Counter = create(Counter, "texts", "Texts that the challenger answered too.")
        self.agreements: Counter = create(Counter, "agreements", "Texts with the same answer as the champion's.")
        self.skipped: Counter = create(Counter, "skipped", "Requests that were skipped because too many waited.")
        self.difference: Summary = create(
            Summary, "difference", "Difference of the numbers, or of the probabilities of the champion's label."
        )
        self.seconds: Histogram = create(
            Histogram, "seconds", "Seconds of the challenger for a request.", buckets=_SECONDS
        )
        self.slowdown: Gauge = create(
            Gauge, "slowdown", "The champion's time per character while the challenger works, over that without it."
        )


def _comparable(answer: Any) -> Any:
    """Reduce an answer to values that are equal for equal answers; several labels may be in any order."""
    values = text_free_answer(answer)
    return sorted(map(str, values)) if isinstance(values, list) else values


def _difference(champion: Any, challenger: Any, labels: Sequence[Any]) -> float | None:
    if not isinstance(champion, Prediction):
        return None
    if isinstance(champion.label, float):
        return abs(champion.label - float(challenger.label))
    if isinstance(champion.label, list):
        return None
    return abs(max(champion.probabilities) - float(challenger.probabilities[labels.index(champion.label)]))


def start_shadow(release: Release, registry: CollectorRegistry) -> Shadow | None:
    """Start the challenger that the environment names; None if it names none.

    A failure is logged and never raised, because it must not affect the champion.
    """
    watch = release.settings.watch
    folder = os.environ.get(SHADOW_FOLDER)
    if not folder or not watch.shadow:
        return None
    try:
        student = _load_challenger(Path(folder), release)
    except Exception as error:  # any fault of the folder
        log.error("shadow: off, the challenger is left out: %s", " ".join(str(error).split()))
        return None
    shadow = Shadow(student, watch.shadow, watch.shadow_max_slowdown, registry, Path(folder).name)
    shadow.start()
    return shadow


def _load_challenger(folder: Path, release: Release) -> Student:
    """Load a challenger with the champion's task and labels.

    Raises:
        PotstillError: its files do not verify, it is the champion itself, or its task or labels differ.
    """
    student = Student(folder, threads=1)
    if sha256_file(folder / MANIFEST) == release.candidate:
        raise ModelError(f"{folder} holds the champion itself, so there is nothing to compare")
    champion, challenger = ((card.kind, card.pair, set(card.labels)) for card in (release.card, student.card))
    if champion != challenger:
        raise ModelError(f"{folder} answers another question than the champion; name a model of its task and labels")
    return student
