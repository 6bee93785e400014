"""Counts what a service answers, window by window, beside the requests and not in their way.

A request only leaves its answers in a queue. A thread counts them in the bins of the model's profile, exports the
counts, and writes each window that is full: its counts, and a line an answer without its text.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client import CollectorRegistry

from potstill.artifacts import canonical_json
from potstill.config.serving_params import Watch
from potstill.errors import ToolError
from potstill.inference.profile import Answer, Counts, Profile, Seen, confidences
from potstill.inference.runtime import ModelCard, Prediction, Tagging, Text, Tokens
from potstill.inference.window_store import ANSWERS, COUNTS, PROFILE, TEXTS, Store, below, open_store, text_sum
from potstill.paths import TEST_PROFILE
from potstill.serving.exported import Exported
from potstill.serving.launch import WATCH_FOLDER
from potstill.serving.redaction import Redactor

if TYPE_CHECKING:
    from potstill.serving.release import Release

log = logging.getLogger("potstill.watch")

# Seconds between two looks at the queue.
PAUSE = 0.5
# Texts that may wait: what a thread that is held up for long leaves uncounted rather than held.
WAITING = 50_000


class Named(NamedTuple):
    """An answered text and where it was asked."""

    request: str
    position: int
    seen: Seen


class Item(NamedTuple):
    """One answered request: its id, its texts, the rows in which the model read them, its answers, the seconds that the
    model took, and when (by `time.perf_counter`) it began.
    """

    request: str
    texts: Sequence[Text]
    rows: Sequence[Tokens]
    answers: Sequence[Answer]
    seconds: float
    began: float = 0.0

    def seen(self) -> list[Named]:
        """[texts] each with its tokens; one read in windows has a row for each."""
        rows, found = iter(self.rows), []
        for position, (text, answer) in enumerate(zip(self.texts, self.answers, strict=True)):
            own = islice(rows, 1 if isinstance(answer, Prediction) else answer.windows)
            ids = list(chain.from_iterable(row.ids for row in own))
            found.append(Named(self.request, position, Seen(text, ids, answer)))
        return found


@dataclass
class Window:
    """What is counted now."""

    start: float
    counts: Counts
    answers: list[str]
    texts: list[str]


class Watcher:
    """Windows of counts of one model in one process. `saw` may be called from any thread."""

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
        """Nothing is counted before `start`.

        Args:
            profile: of the model's test texts.
            card: the model's.
            settings: `watch` of params.
            registry: takes the metrics.
            bento: tag of the Bento that answers, if it is one.
            store: where windows are written; None exports counts only.
        """
        self._profile, self._card, self._settings, self._bento, self._store = profile, card, settings, bento, store
        self._redact, self._exported = Redactor(settings.masks), Exported(profile, registry)
        self._random = random.Random()
        self._queue: deque[Item] = deque()
        self._waiting = self._dropped = 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._number = 0
        self._window: Window | None = None

    def saw(self, item: Item) -> None:
        """Leave the answers of a request to be counted."""
        with self._lock:
            if self._waiting + len(item.texts) > WAITING:
                self._dropped += len(item.texts)
                return
            self._waiting += len(item.texts)
            self._queue.append(item)

    def start(self) -> None:
        """Begin to count."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Count what waits, write the window that is open, and end."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._guarded(self._count)
        self._guarded(self._end_window)

    # --- in the thread ---

    def _run(self) -> None:
        if self._store is not None:
            self._guarded(self._keep_profile)
        while not self._stop.wait(PAUSE):
            self._guarded(self._count)

    def _guarded(self, work: Callable[[], None]) -> None:
        """A window that cannot be written is lost, is said and is counted; answers go on."""
        try:
            work()
        except Exception as error:
            self._exported.failures.inc()
            log.error("watch: %s: %s", type(error).__name__, " ".join(str(error).split()))

    def _keep_profile(self) -> None:
        assert self._store is not None
        self._store.write(PROFILE, canonical_json(self._profile.model_dump(mode="json")))

    def _count(self) -> None:
        with self._lock:
            items, self._queue = self._queue, deque()
            dropped, self._waiting, self._dropped = self._dropped, 0, 0
        if dropped:
            self._exported.dropped.inc(dropped)
        rows = [named for item in items for named in item.seen()]
        while rows:
            window = self._open_window()
            room = self._settings.window_texts - window.counts.texts
            self._add(window, rows[:room])
            rows = rows[room:]
            if window.counts.texts >= self._settings.window_texts:
                self._guarded(self._end_window)
        if self._window is not None and time.time() - self._window.start >= self._settings.window_seconds:
            self._end_window()

    def _open_window(self) -> Window:
        if self._window is None:
            self._window = Window(time.time(), Counts(self._profile), [], [])
        return self._window

    def _add(self, window: Window, rows: Sequence[Named]) -> None:
        seen = [row.seen for row in rows]
        window.counts.add(seen, self._card)
        self._exported.count(seen)
        if self._store is None:
            return
        now = round(time.time(), 3)
        for row, sure in zip(rows, confidences(seen).tolist(), strict=True):
            window.answers.append(json.dumps(self._answer(row, sure, now), ensure_ascii=False))
            if self._random.random() < self._settings.capture:
                kept = {"request_id": row.request, "position": row.position, **self._redact.columns(row.seen.text)}
                window.texts.append(json.dumps(kept, ensure_ascii=False))

    def _answer(self, row: Named, confidence: float, now: float) -> dict[str, Any]:
        """A line of the answers: no text, nor a part of it."""
        about: dict[str, Any] = {"request_id": row.request, "position": row.position, "time": now}
        if self._settings.hash_texts:
            about["text_sha256"] = text_sum(row.seen.text)
        about["label"] = said(row.seen.answer)
        return about | ({} if confidence != confidence else {"confidence": confidence})  # a NaN is none

    def _end_window(self) -> None:
        window, self._window = self._window, None
        if window is None:
            return
        end, shifts = time.time(), {name: window.counts.shift(name) for name in self._profile.features}
        self._exported.judge(window.counts, shifts)
        if self._store is None:
            return
        # In the order of time, and of its own for each process.
        stem = f"{datetime.fromtimestamp(end, UTC):%Y%m%dT%H%M%S.%fZ}-{os.getpid()}-{self._number}"
        self._number += 1
        about = {
            "format": 1,
            "profile": self._profile.sum,
            "candidate": self._profile.candidate,
            "bento": self._bento,
            "start": window.start,
            "end": end,
            "psi": {name: index for name, (index, _) in shifts.items()},
            "ks": {name: distance for name, (_, distance) in shifts.items() if distance is not None},
            **window.counts.to_json(),
        }
        self._store.write(stem + ANSWERS, "".join(f"{line}\n" for line in window.answers))
        if window.texts:
            self._store.write(stem + TEXTS, "".join(f"{line}\n" for line in window.texts))
        # Last: a window that has counts is whole.
        self._store.write(stem + COUNTS, json.dumps(about, allow_nan=False) + "\n")
        self._forget(self._store)

    def _forget(self, store: Store) -> None:
        """Remove the files of the oldest windows beyond `watch.keep_windows`."""
        names = store.names()
        stems = sorted(name.removesuffix(COUNTS) for name in names if name.endswith(COUNTS))
        old = set(stems[: max(len(stems) - self._settings.keep_windows, 0)])
        for name in names:
            if any(name.endswith(end) and name.removesuffix(end) in old for end in (COUNTS, ANSWERS, TEXTS)):
                store.remove(name)


def watcher_of(release: Release, registry: CollectorRegistry) -> Watcher | None:
    """The watcher of a service, started; None where its model was not evaluated.

    Raises:
        ToolError: it cannot write where it should.
    """
    profile, watch = release.profile, release.settings.watch
    if profile is None:
        log.warning("watch: off, since there is no %s", TEST_PROFILE)
        return None
    place = watch_place(watch)
    store = None if place is None else open_store(below(place, release.candidate))
    watcher = Watcher(profile, release.card, watch, registry, bento=release.tag, store=store)
    watcher.start()
    return watcher


def watch_place(watch: Watch) -> str | None:
    """Where a service writes: what the environment says, nowhere if that is empty; else an absolute `watch.folder`.

    A relative one is of a workspace: in a Bento nothing may be written, or it would not start again.

    Raises:
        ToolError: the environment names a relative path.
    """
    named = os.environ.get(WATCH_FOLDER)
    place = watch.folder if named is None else named
    if not place or "://" in place or Path(place).is_absolute():
        return place or None
    if named is None:
        return None
    raise ToolError(f"{WATCH_FOLDER} is {named!r}; it needs an absolute path, a URL, or nothing")


def said(answer: Answer) -> Any:
    """What an answer says, without a word of the text.

    The label, or those of several; the number; each entity as [type, start, end]; of a question's answer [start, end],
    None where there is none.
    """
    if isinstance(answer, Prediction):
        return answer.label
    if isinstance(answer, Tagging):
        return [[entity.type, entity.start, entity.end] for entity in answer.entities]
    return None if answer.answer is None else [answer.start, answer.end]
