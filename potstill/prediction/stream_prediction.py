"""Predicts a stream: reads records, answers them, and goes on until it is asked to stop."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence

from potstill.config.predict_params import Predict
from potstill.inference.profile import Counts, Observation
from potstill.inference.runtime import Student
from potstill.prediction.alerting import Alerting
from potstill.prediction.answer_columns import AnswerColumns
from potstill.prediction.arrival_metrics import StreamMetrics
from potstill.prediction.file_prediction import ChosenModel
from potstill.prediction.record_scoring import RecordScorer, ScoredRecord
from potstill.prediction.redis_streams import RecordStreams, is_away, reason
from potstill.prediction.row_batches import Selection
from potstill.prediction.window_scoring import facts_of
from potstill.prediction.window_tally import WindowTally
from potstill.progress import LINE_SECONDS, say

# Seconds before the first of the attempts to reach a server that is away, and the longest pause between two.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
# Seconds between two looks at a stream of answers that is full.
_FULL_PAUSE = 1.0


class StreamPrediction:
    """Answers the records of a stream.

    Args:
        streams: the opened streams.
        model: the model.
        texts: the field of the text, or the two of a pair.
        fields: the fields that are passed on; None: all.
        settings: the section `predict`.
        metrics: where it counts.
        alerting: what is told of the answers; windows are of the times at which records were written.

    Attributes:
        tally: the sums over what this process has answered.
    """

    def __init__(
        self,
        streams: RecordStreams,
        model: ChosenModel,
        texts: tuple[str, ...],
        fields: tuple[str, ...] | None,
        settings: Predict,
        metrics: StreamMetrics,
        alerting: Alerting,
    ) -> None:
        self._streams = streams
        self._metrics = metrics
        self._alerting = alerting
        self._profile = model.profile
        self._columns = AnswerColumns(model.card, model.name, model.abstain_below, settings.prefix)
        student = Student(model.serving, settings.threads)
        selection = Selection(texts, fields, settings.max_characters)
        self._scorer = RecordScorer(student, self._columns, selection, str(streams.source))
        self._batch: list[ScoredRecord] = []
        self._is_full = False
        self._said_records = 0
        self._said_time = time.monotonic()
        self.tally = WindowTally(model.profile)

    def run(self, stop: threading.Event) -> None:
        """Answer records until `stop` is set. The batch that was begun is answered first.

        While the server is away it tries again, after longer and longer pauses.

        Raises:
            StreamError: the streams can no longer be used.
        """
        server = self._streams.source.shown
        pause = 0.0
        while not stop.is_set():
            try:
                self._step(stop)
            except Exception as error:
                if not is_away(error):
                    raise
                self._metrics.failures.inc()
                pause = min(2 * pause, _LONGEST_PAUSE) or _FIRST_PAUSE
                say(f"stream: {server} is away ({reason(error)}); trying again in {pause:g} s")
                stop.wait(pause)
            else:
                if pause:
                    say(f"stream: {server} is back")
                pause = 0.0

    def _step(self, stop: threading.Event) -> None:
        """Answer a batch: a new one, or the one that could not be written before."""
        if not self._batch:
            room = self._streams.room()
            self._say_if_full(room)
            if not room:
                stop.wait(_FULL_PAUSE)
                return
            self._batch = self._scorer.score(self._streams.read(room))
        if self._batch:
            written = self._streams.write([scored.reply for scored in self._batch])
            self._count(written)
            self._batch = []
        self._alerting.judge()
        self._say_rate()

    def _count(self, written: Sequence[bool]) -> None:
        """Count a batch whose replies were written, as far as no other process had answered."""
        records = [scored for scored, is_new in zip(self._batch, written, strict=True) if is_new]
        observed = [scored.observation for scored in records if scored.observation is not None]
        rejected = len(records) - len(observed)
        self.tally.add({**facts_of(observed, self._columns, self._profile), "rejected": rejected})
        outcomes = {"answered": len(observed), "rejected": rejected, "late": len(written) - len(records)}
        for outcome, count in outcomes.items():
            self._metrics.records.labels(outcome).inc(count)
        now = time.time()
        self._count_windows(records, now)
        for scored in records:
            self._metrics.seconds.observe(now - scored.reply.written(now))

    def _count_windows(self, records: Sequence[ScoredRecord], now: float) -> None:
        """Count answers in the windows in which their records were written."""
        windows: defaultdict[int, list[Observation]] = defaultdict(list)
        for reply, observation in records:
            if observation is not None:
                windows[self._alerting.start_of(reply.written(now))].append(observation)
        for start, observed in windows.items():
            counts = Counts(self._profile)
            counts.add(observed, self._columns.card)
            self._alerting.count(start, counts)

    def _say_if_full(self, room: int) -> None:
        if self._is_full != (not room):
            self._is_full = not room
            say(f"stream: {self._streams.target} {'is full; waiting for room' if self._is_full else 'has room again'}")

    def _say_rate(self) -> None:
        """Set the metrics of what waits, and print a line where there is news, both now and then."""
        seconds = time.monotonic() - self._said_time
        if seconds < LINE_SECONDS:
            return
        lag = self._streams.lag()
        for state, count in lag._asdict().items():
            self._metrics.waiting.labels(state).set(float("nan") if count is None else count)
        records = self.tally.sums["rows"] + self.tally.sums["rejected"]
        if records > self._said_records:
            unread = "unknown" if lag.unread is None else f"{lag.unread:,}"
            rate = (records - self._said_records) / seconds
            say(
                f"stream: {self.tally.sums['rows']:,} answered, {self.tally.sums['rejected']:,} rejected, "
                f"{rate:,.0f} records/s, {unread} unread"
            )
        self._said_records = records
        self._said_time = time.monotonic()
