"""Counting of a service's traffic in windows, without delaying requests.

A request only puts its answers into a queue. A thread counts them in the bins of the model's profile, exports the
counts as metrics, and writes each complete window: its counts, and a line for each answer without the text.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import CollectorRegistry

from potstill.artifacts import canonical_json
from potstill.config.serving_params import Watch
from potstill.errors import ToolError
from potstill.inference.profile import Answer, Counts, Observation, Profile, confidences, observations
from potstill.inference.runtime import ModelCard, Prediction, Text, Tokens
from potstill.inference.window_store import (
    ANSWERS,
    COUNTS,
    PROFILE,
    TEXTS,
    Store,
    candidate_location,
    open_store,
    text_sha256,
)
from potstill.kinds.definitions.token_classification import Tagging
from potstill.paths import TEST_PROFILE
from potstill.serving.launch import WATCH_FOLDER
from potstill.serving.redaction import Redactor
from potstill.serving.watch_metrics import WatchMetrics

if TYPE_CHECKING:
    from potstill.serving.release import Release

log = logging.getLogger("potstill.watch")

# Seconds between two checks of the queue.
PAUSE = 0.5
# Texts that may wait; further ones are dropped while the thread is delayed.
WAITING = 50_000


class AnsweredText(NamedTuple):
    """An answered text, with its request and its position in it."""

    request: str
    position: int
    observation: Observation


class AnsweredRequest(NamedTuple):
    """An answered request.

    Attributes:
        request: id of the request.
        texts: texts of the request.
        rows: the rows in which the model read them.
        answers: [texts] the answers.
        seconds: how long the model took.
        began: when the model began, by `time.perf_counter`.
    """

    request: str
    texts: Sequence[Text]
    rows: Sequence[Tokens]
    answers: Sequence[Answer]
    seconds: float
    began: float = 0.0

    def answered_texts(self) -> list[AnsweredText]:
        """Split the request into its texts."""
        observed = observations(self.texts, self.rows, self.answers)
        return [AnsweredText(self.request, position, item) for position, item in enumerate(observed)]


@dataclass
class Window:
    """The window that is open now; `opened` is by `time.monotonic`, since the clock may be set."""

    start: float
    opened: float
    counts: Counts
    answers: list[str]
    texts: list[str]


class Watcher:
    """Counts the traffic of a model in one process. `observe` may be called from any thread."""

    def __init__(
        self,
        profile: Profile,
        card: ModelCard,
        settings: Watch,
        registry: CollectorRegistry,
        *,
        bento: str | None,
        store: Store | None,
    ) -> None:
        """Create a watcher; `start` starts it.

        Args:
            profile: profile of the model's test texts.
            card: the model's card.
            settings: section `watch` of params.
            registry: registry of the metrics.
            bento: tag of the Bento; None without one.
            store: where windows are written; None only exports metrics.
        """
        self._profile = profile
        self._card = card
        self._settings = settings
        self._bento = bento
        self._store = store
        self._redact = Redactor(settings.masks)
        self._metrics = WatchMetrics(profile, registry)
        self._random = random.Random()
        self._queue: deque[AnsweredRequest] = deque()
        self._waiting = self._dropped = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._number = 0
        self._has_profile = False
        self._window: Window | None = None

    def observe(self, request: AnsweredRequest) -> None:
        """Queue an answered request for counting."""
        with self._lock:
            if self._waiting + len(request.texts) > WAITING:
                self._dropped += len(request.texts)
                return
            self._waiting += len(request.texts)
            self._queue.append(request)

    def start(self) -> None:
        """Start counting."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Count what waits, write the open window, and stop."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._guarded(self._count)
        self._guarded(self._end_window)

    # --- in the thread ---

    def _run(self) -> None:
        self._guarded(self._write_profile)
        while not self._stop.wait(PAUSE):
            self._guarded(self._count)

    def _write_profile(self) -> None:
        """Write the profile, without which no window can be read, unless that has succeeded before."""
        if self._store is not None and not self._has_profile:
            self._store.write(PROFILE, canonical_json(self._profile.model_dump(mode="json")))
            self._has_profile = True

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do work whose failure is logged and counted; a window that cannot be written is lost."""
        try:
            work()
        except Exception as error:
            self._metrics.failures.inc()
            log.error("watch: %s: %s", type(error).__name__, " ".join(str(error).split()))

    def _count(self) -> None:
        with self._lock:
            requests = self._queue
            dropped = self._dropped
            self._queue = deque()
            self._waiting = self._dropped = 0
        if dropped:
            self._metrics.dropped.inc(dropped)
        texts = [text for request in requests for text in request.answered_texts()]
        while texts:
            window = self._window = self._window or Window(time.time(), time.monotonic(), Counts(self._profile), [], [])
            room = self._settings.window_texts - window.counts.texts
            self._add(window, texts[:room])
            texts = texts[room:]
            if window.counts.texts >= self._settings.window_texts:
                self._guarded(self._end_window)
        if self._window is not None and time.monotonic() - self._window.opened >= self._settings.window_seconds:
            self._end_window()

    def _add(self, window: Window, texts: Sequence[AnsweredText]) -> None:
        observations = [text.observation for text in texts]
        window.counts.add(observations, self._card)
        self._metrics.count(observations)
        if self._store is None:
            return
        now = round(time.time(), 3)
        for text, confidence in zip(texts, confidences(observations).tolist(), strict=True):
            window.answers.append(json.dumps(self._answer_record(text, confidence, now), ensure_ascii=False))
            if self._random.random() < self._settings.capture:
                columns = self._redact.columns(text.observation.text)
                captured = {"request_id": text.request, "position": text.position, **columns}
                window.texts.append(json.dumps(captured, ensure_ascii=False))

    def _answer_record(self, text: AnsweredText, confidence: float, now: float) -> dict[str, Any]:
        """Build the line of an answer, which has no part of the text."""
        record: dict[str, Any] = {"request_id": text.request, "position": text.position, "time": now}
        if self._settings.hash_texts:
            record["text_sha256"] = text_sha256(text.observation.text)
        record["label"] = text_free_answer(text.observation.answer)
        if not math.isnan(confidence):
            record["confidence"] = confidence
        return record

    def _end_window(self) -> None:
        if self._window is None:
            return
        window = self._window
        self._window = None
        end = time.time()
        shifts = {name: window.counts.shift(name) for name in self._profile.features}
        self._metrics.judge(window.counts, shifts)
        if self._store is None:
            return
        # The name sorts by time and is unique to the process.
        stem = f"{datetime.fromtimestamp(end, UTC):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}-{self._number}"
        self._number += 1
        record = {
            "format": 1,
            "profile": self._profile.sum,
            "candidate": self._profile.candidate,
            "bento": self._bento,
            "start": window.start,
            "end": end,
            "psi": {name: psi for name, (psi, _) in shifts.items()},
            "ks": {name: distance for name, (_, distance) in shifts.items() if distance is not None},
            **window.counts.to_json(),
        }
        self._write_profile()
        self._store.write(stem + ANSWERS, "".join(f"{line}\n" for line in window.answers))
        if window.texts:
            self._store.write(stem + TEXTS, "".join(f"{line}\n" for line in window.texts))
        # Written last, so that a window with counts is complete.
        self._store.write(stem + COUNTS, json.dumps(record, allow_nan=False) + "\n")
        self._remove_old(self._store)

    def _remove_old(self, store: Store) -> None:
        """Remove the oldest windows beyond `watch.keep_windows`, and what is as old of incomplete ones."""
        names = [name for name in store.names() if name.endswith((COUNTS, ANSWERS, TEXTS))]
        old = [_stem(name) for name in names if name.endswith(COUNTS)][: -self._settings.keep_windows]
        for name in names:
            if old and _stem(name) <= old[-1]:
                store.remove(name)


def _stem(name: str) -> str:
    """Return the name of a window's file without its two suffixes."""
    return name.rsplit(".", 2)[0]


def start_watcher(release: Release, registry: CollectorRegistry) -> Watcher | None:
    """Start the watcher of a service; None for a model that was not evaluated.

    Raises:
        ToolError: windows cannot be written to their location.
    """
    profile = release.profile
    watch = release.settings.watch
    if profile is None:
        log.warning("watch: off, since there is no %s", TEST_PROFILE)
        return None
    location = watch_location(watch)
    store = None if location is None else open_store(candidate_location(location, release.candidate))
    watcher = Watcher(profile, release.card, watch, registry, bento=release.tag, store=store)
    watcher.start()
    return watcher


def watch_location(watch: Watch) -> str | None:
    """Return the location where a service writes windows, or None.

    The environment variable decides, and an empty one switches writing off. Without it an absolute `watch.folder` or a
    URL is used. A relative `watch.folder` belongs to a workspace: a Bento with new files would not start again.

    Raises:
        ToolError: the environment names a relative path.
    """
    variable = os.environ.get(WATCH_FOLDER)
    location = watch.folder if variable is None else variable
    if not location or "://" in location or Path(location).is_absolute():
        return location or None
    if variable is None:
        return None
    raise ToolError(f"{WATCH_FOLDER} is {variable!r}; it needs an absolute path, a URL, or nothing")


def text_free_answer(answer: Answer) -> Any:
    """Reduce an answer to values without any part of the text.

    Returns:
        The label, labels or number of a prediction; [type, start, end] of each entity; [start, end] of the answer to a
        question, or None.
    """
    if isinstance(answer, Prediction):
        return answer.label
    if isinstance(answer, Tagging):
        return [[entity.type, entity.start, entity.end] for entity in answer.entities]
    return None if answer.answer is None else [answer.start, answer.end]
