"""Kill -9 of a process that answers a stream, at random moments.

Every record has to have one answer at the end, and every one that cannot be answered has to be put aside once.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.conftest import REPOSITORY, generate_rows
from tests.redis_server import RedisServer

# Of these records one in BAD has no text.
BAD = 50


def add_records(server: RedisServer, count: int) -> list[bytes]:
    """Write records to the stream; return their ids."""
    pipeline = server.client.pipeline()
    for number, (text, _) in enumerate(generate_rows(count, seed=9)):
        fields = {"number": number} if number % BAD == 0 else {"number": number, "text": text}
        pipeline.xadd("reviews", fields)
    ids: list[bytes] = pipeline.execute()
    return ids


def start(server: RedisServer, serving: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.potstill.prediction.predicting_stream", str(serving), server.url]
    return subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def written(server: RedisServer) -> int:
    return int(server.client.xlen("answers")) + int(server.client.xlen("answers:rejected"))


def kill_often(server: RedisServer, serving: Path, kills: int, per_kill: int, seed: int) -> list[int]:
    """Answer `per_kill` records for each kill, and the rest at the end.

    Returns:
        The number of records that were read and not answered at each kill.
    """
    generator = random.Random(seed)
    ids = add_records(server, per_kill * (kills + 1))
    pending = []
    for _ in range(kills):
        process = start(server, serving)
        target = written(server) + generator.randrange(1, per_kill)
        while written(server) < target:
            assert process.poll() is None
            time.sleep(0.0005)
        time.sleep(generator.uniform(0, 0.02))
        process.kill()
        process.wait()
        pending.append(server.client.xpending("reviews", "potstill")["pending"])
    process = start(server, serving)
    while written(server) < len(ids):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 0
    check_answers(server, ids)
    return pending


def check_answers(server: RedisServer, ids: list[bytes]) -> None:
    """Check that each record has one answer, or was put aside once."""
    answered = Counter(fields[b"model_record"] for _, fields in server.client.xrange("answers"))
    rejected = Counter(fields[b"record"] for _, fields in server.client.xrange("answers:rejected"))
    assert answered + rejected == Counter(ids)
    assert set(rejected) == set(ids[::BAD])
    assert server.client.xpending("reviews", "potstill")["pending"] == 0
