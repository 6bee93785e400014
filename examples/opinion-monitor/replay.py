"""Writes reviews to a Redis stream as if they had come in over the last hours, many of one hour negative."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from redis import Redis

_HOUR = 3600


def draw_reviews(
    negative: Sequence[str], positive: Sequence[str], hours: int, per_hour: int, spike_hour: int, seed: int
) -> Iterator[tuple[float, str]]:
    """Draw reviews, three of ten negative, and eight of ten in one hour.

    Args:
        negative: texts to draw negative reviews from.
        positive: texts to draw the others from.
        hours: number of hours.
        per_hour: reviews of an hour.
        spike_hour: the hour with many negative ones, from 0.
        seed: of the draws.

    Yields:
        Seconds since the first hour began, and the text.
    """
    generator = random.Random(seed)
    for hour in range(hours):
        share = 0.8 if hour == spike_hour else 0.3
        for number in range(per_hour):
            texts = negative if generator.random() < share else positive
            yield _HOUR * (hour + number / per_hour), generator.choice(texts)


def main() -> None:
    """Read the reviews of a file, and write them to the stream."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stream", help="redis://host:port/db/stream")
    parser.add_argument("--data", type=Path, default=Path("data/prepared/test.parquet"), help="columns text and label")
    parser.add_argument("--negative", type=int, default=0, help="number of the negative label")
    parser.add_argument("--hours", type=int, default=48)
    parser.add_argument("--per-hour", type=int, default=60)
    parser.add_argument("--spike-hour", type=int, default=36)
    parser.add_argument("--seconds", type=float, default=0.0, help="how long to write; 0: as fast as possible")
    arguments = parser.parse_args()
    rows = pq.read_table(arguments.data, columns=["text", "label"]).to_pylist()
    negative = [row["text"] for row in rows if row["label"] == arguments.negative]
    positive = [row["text"] for row in rows if row["label"] != arguments.negative]
    server, _, stream = arguments.stream.rpartition("/")
    redis = Redis.from_url(server)
    # The last hour of the replay is the one that has just ended.
    start = time.time() // _HOUR * _HOUR - _HOUR * arguments.hours
    pause = arguments.seconds / (arguments.hours * arguments.per_hour)
    reviews = draw_reviews(negative, positive, arguments.hours, arguments.per_hour, arguments.spike_hour, seed=0)
    for seconds, text in reviews:
        # The id of a record is the time at which it was written, in milliseconds.
        redis.xadd(stream, {"text": text}, id=f"{int(1000 * (start + seconds))}-*")
        time.sleep(pause)
    print(f"{redis.xlen(stream)} reviews of {arguments.hours} hours are in {stream}")


if __name__ == "__main__":
    main()
