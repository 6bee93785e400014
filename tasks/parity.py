"""Whether the champion's Bento answers over HTTP as it was evaluated: the whole test split, many requests at once."""

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
from potstill.progress import say
from potstill.serving.release import SERVING
from tasks.smoke import Golden, ask, compare, golden_texts, served
from tasks.stage import WORK

# What the smoke test allows is a model's tolerance; this is what is left of one model's answers sent as JSON.
TOLERANCE = 1e-5
# Texts of a request: most users send one, some a batch.
SIZES = (1, 1, 1, 2, 3, 5, 8, 21)


@dataclass(frozen=True)
class Parity:
    """What was asked, and the largest difference of an answer from the evaluated one."""

    requests: int
    texts: int
    rows: int
    difference: float
    seconds: float


def parity(params: Params, workspace: Path, tag: str, requests: int = 1000, clients: int = 32) -> Parity:
    """Serve a Bento on a free loopback port and compare its answers to concurrent requests with the evaluated ones.

    Every test row that the limits let in is asked about, the requests are of mixed sizes and lengths, and each answer
    has to be in the place of its text.

    Args:
        params: the whole of params.yaml.
        workspace: holds `data/serving`, `data/evaluation` and `data/prepared`.
        tag: the Bento of the evaluated candidate, `name:version`.
        requests: how many at least.
        clients: how many ask at the same time.

    Raises:
        SmokeError: it did not start, did not answer, or a label or a probability is not the evaluated one.
    """
    card = read_card(workspace / SERVING)
    everything = params.smoke.model_copy(update={"texts": sys.maxsize})
    golden = golden_texts(workspace, card, params.model_copy(update={"smoke": everything}))
    asked = mixed(golden, requests, params.serve.max_texts)
    with served(tag, workspace / WORK / "logs" / "parity.txt", params.smoke.start_seconds) as address:
        begin = time.monotonic()

        def one(rows: Sequence[Golden]) -> float:
            answers = ask(address, card, [row.text for row in rows], params.serve.max_texts)
            return compare(rows, answers, card, TOLERANCE)

        with ThreadPoolExecutor(clients) as pool:
            differences = list(pool.map(one, asked))
        seconds = time.monotonic() - begin
    return Parity(len(asked), sum(map(len, asked)), len(golden), max(differences), seconds)


def mixed(golden: Sequence[Golden], requests: int, at_most: int) -> list[list[Golden]]:
    """Requests of mixed sizes over all rows, each row at least once; the same for the same rows."""
    draw = Random(0)
    found: list[list[Golden]] = []
    waiting: list[Golden] = []
    covered = 0
    while len(found) < requests or covered < len(golden):
        size = min(draw.choice(SIZES), at_most)
        while len(waiting) < size:
            waiting += draw.sample(golden, len(golden))
        found.append(waiting[:size])
        waiting, covered = waiting[size:], covered + size
    return found


def main() -> None:
    """`python -m tasks.parity --bento TAG`: in a workspace whose evaluated candidate is in that Bento."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bento", required=True, metavar="TAG", help="name:version; `potstill status` has it")
    parser.add_argument("--requests", type=int, default=1000, help="how many at least")
    parser.add_argument("--clients", type=int, default=32, help="how many ask at the same time")
    chosen = parser.parse_args()
    environment.prepare()
    try:
        found = parity(load_params(Path("params.yaml")), Path.cwd(), chosen.bento, chosen.requests, chosen.clients)
    except PotstillError as error:
        print(f"parity: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    say(
        f"parity: {found.requests} requests by {chosen.clients} clients about {found.texts} texts ({found.rows} rows): "
        f"every label as evaluated, largest difference {found.difference:.2g} ({found.seconds:.1f} s)"
    )


if __name__ == "__main__":
    main()
