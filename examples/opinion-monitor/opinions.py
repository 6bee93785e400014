"""Prints the share of negative answers of each hour, from the stream of the answers."""

from __future__ import annotations

import argparse
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from redis import Redis

_HOUR_MILLISECONDS = 3_600_000


def main() -> None:
    """Count the answers of each hour, and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stream", help="redis://host:port/db/stream, the --to of potstill predict")
    parser.add_argument("--label", default="negative")
    arguments = parser.parse_args()
    server, _, stream = arguments.stream.rpartition("/")
    answers: Counter[int] = Counter()
    labelled: Counter[int] = Counter()
    entries: Any = Redis.from_url(server, decode_responses=True).xrange(stream)
    for _, fields in entries:
        hour = int(fields["model_record"].partition("-")[0]) // _HOUR_MILLISECONDS
        answers[hour] += 1
        labelled[hour] += fields["model_label"] == arguments.label
    for hour, count in sorted(answers.items()):
        share = labelled[hour] / count
        start = datetime.fromtimestamp(hour * _HOUR_MILLISECONDS / 1000, UTC)
        print(f"{start:%Y-%m-%d %H:%M}  {count:4} answers  {share:4.0%} {arguments.label}  {'#' * round(40 * share)}")


if __name__ == "__main__":
    main()
