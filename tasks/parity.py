"""parity: checks that the champion's Bento answers the whole test split over HTTP as it was evaluated."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from potstill import environment
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import PotstillError
from potstill.inference.runtime import read_card
from potstill.paths import LOGS, PARAMS, SERVING
from potstill.progress import say
from tasks.smoke import Golden, ask, compare, golden_texts, served

# Tighter than smoke.tolerance: all that may differ here is the rounding of answers in JSON.
TOLERANCE = 1e-5
# Texts of a request: most users send one, some a batch.
SIZES = (1, 1, 1, 2, 3, 5, 8, 21)


@dataclass(frozen=True)
class ServedParity:
    """The requests that were sent, and the largest difference of an answer from the evaluated one."""

    requests: int
    texts: int
    rows: int
    difference: float
    seconds: float


def parity(params: Params, workspace: Path, tag: str, requests: int = 1000, clients: int = 32) -> ServedParity:
    """Serve a Bento on a free loopback port, and compare its answers to concurrent requests with the evaluated ones.

    Every test row within the service's limits is asked about, in requests of mixed sizes and lengths. Each answer has
    to be at the position of its text.

    Args:
        params: the whole of params.yaml.
        workspace: holds `data/serving`, `data/evaluation` and `data/prepared`.
        tag: the Bento of the evaluated candidate, `name:version`.
        requests: how many requests at least.
        clients: how many clients send requests at the same time.

    Raises:
        SmokeError: it did not start, did not answer, or a label or a probability is not the evaluated one.
    """
    card = read_card(workspace / SERVING)
    all_texts = params.smoke.model_copy(update={"texts": sys.maxsize})
    golden = golden_texts(workspace, card, params.model_copy(update={"smoke": all_texts}))
    batches = mixed_batches(golden, requests, params.serve.max_texts)
    with served(tag, workspace / LOGS / "parity.txt", params.smoke.start_seconds) as address:
        begin = time.monotonic()

        def largest_difference(rows: Sequence[Golden]) -> float:
            texts = [row.text for row in rows]
            answers = ask(address, card, texts, params.serve.max_texts, params.serve.max_body_bytes)
            return compare(rows, answers, card, TOLERANCE)

        with ThreadPoolExecutor(clients) as pool:
            differences = list(pool.map(largest_difference, batches))
        seconds = time.monotonic() - begin
    return ServedParity(len(batches), sum(map(len, batches)), len(golden), max(differences), seconds)


def mixed_batches(golden: Sequence[Golden], requests: int, max_texts: int) -> list[list[Golden]]:
    """Draw requests of mixed sizes over all rows, each row at least once; the same requests for the same rows."""
    random = Random(0)
    batches: list[list[Golden]] = []
    queue: list[Golden] = []
    drawn = 0
    while len(batches) < requests or drawn < len(golden):
        size = min(random.choice(SIZES), max_texts)
        while len(queue) < size:
            queue += random.sample(golden, len(golden))
        batches.append(queue[:size])
        queue = queue[size:]
        drawn += size
    return batches


def main() -> None:
    """`python -m tasks.parity --bento TAG`: run in a workspace whose evaluated candidate is in that Bento."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bento", required=True, metavar="TAG", help="name:version; `potstill status` has it")
    parser.add_argument("--requests", type=int, default=1000, help="how many requests at least")
    parser.add_argument("--clients", type=int, default=32, help="how many clients at the same time")
    options = parser.parse_args()
    environment.prepare()
    try:
        params = load_params(PARAMS)
        result = parity(params, Path.cwd(), options.bento, options.requests, options.clients)
    except PotstillError as error:
        print(f"parity: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    say(
        f"parity: {result.requests} requests by {options.clients} clients about {result.texts} texts "
        f"({result.rows} rows): every label as evaluated, largest difference {result.difference:.2g} "
        f"({result.seconds:.1f} s)"
    )


if __name__ == "__main__":
    main()
