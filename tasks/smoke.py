"""Start the built Bento and see that it answers as the model was evaluated: the last step before it is registered."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from potstill import environment
from potstill.config import Params
from potstill.errors import SmokeError
from potstill.evaluation.naming import SHIPPED
from potstill.processes import free_port, start, stop
from potstill.serving.launch import serve_command
from potstill.serving.openapi import typed_endpoint
from potstill.serving.release import SERVING
from potstill.serving.runtime import ModelCard, probabilities, read_card
from tasks.stage import WORK

HOST = "127.0.0.1"
REQUEST_SECONDS = 60.0
# Tasks whose answers are places in a text.
MARKED = ("token_classification", "question_answering")
# The key of a number among labels.
SCORE = "score"


@dataclass(frozen=True)
class Golden:
    """A test text (or pair) and the probabilities its evaluation gave, in the order of the card's labels.

    Of a model of numbers there is one in place of the probabilities: the number. Where answers are places in a text,
    `served` is what the evaluated model answered.
    """

    id: str
    text: str | tuple[str, str]
    probabilities: list[float]
    served: Any = None


@dataclass(frozen=True)
class SmokeResult:
    """What the Bento's first run showed: seconds until ready, texts sent, the largest difference of an answer."""

    seconds: float
    texts: int
    difference: float


def smoke(params: Params, workspace: Path, tag: str) -> SmokeResult:
    """Serve a Bento on a free loopback port, compare its answers with the evaluated ones, and stop it.

    Args:
        params: the whole of params.yaml.
        workspace: holds `data/serving`, `data/evaluation` and `data/prepared`.
        tag: the Bento, `name:version`.

    Raises:
        SmokeError: it did not start, or an answer is not the evaluated one.
    """
    card = read_card(workspace / SERVING)
    golden = golden_texts(workspace, card, params)
    log = workspace / WORK / "logs" / "smoke.txt"
    begin = time.monotonic()
    with served(tag, log, params.smoke.start_seconds) as address:
        seconds = time.monotonic() - begin
        answers = _ask(address, card, [row.text for row in golden], params.serve.max_texts)
    difference = compare(golden, answers, card, params.smoke.tolerance)
    return SmokeResult(seconds, len(golden), difference)


def golden_texts(workspace: Path, card: ModelCard, params: Params) -> list[Golden]:
    """The first test texts by id (a hash, so any) that the service's limits let in, with their evaluated answers."""
    column = "served" if card.kind in MARKED else SHIPPED[card.variant]
    evaluated = pq.read_table(workspace / "data/evaluation/predictions.parquet", columns=["id", column])
    rows = pq.read_table(workspace / "data/prepared/test.parquet").sort_by("id")
    length = pc.utf8_length(rows["text"])
    if card.pair:
        length = pc.add(length, pc.utf8_length(rows["text_pair"]))
    rows = rows.append_column("answer", pc.index_in(rows["id"], value_set=evaluated["id"]))
    fitting = pc.and_(pc.less_equal(length, params.serve.max_characters), pc.is_valid(rows["answer"]))
    chosen = rows.filter(fitting).slice(0, params.smoke.texts).to_pylist()
    if not chosen:
        raise SmokeError(
            "no test text of data/prepared has an evaluated answer and fits serve.max_characters; run evaluate again"
        )
    return [
        Golden(
            row["id"],
            (row["text"], row["text_pair"]) if card.pair else row["text"],
            [] if card.kind in MARKED else _expected(evaluated[column][row["answer"]].as_py(), card),
            evaluated[column][row["answer"]].as_py() if card.kind in MARKED else None,
        )
        for row in chosen
    ]


def _expected(logits: Sequence[float], card: ModelCard) -> list[float]:
    if card.kind == "regression":
        return list(logits)
    found: list[float] = probabilities(np.array([logits]), card)[0].tolist()
    return found


def compare(golden: Sequence[Golden], answers: Sequence[dict[str, Any]], card: ModelCard, tolerance: float) -> float:
    """The largest difference of a probability, or of a number.

    Raises:
        SmokeError: it is over the tolerance, or a label is another one, beyond a tie within the tolerance.
    """
    if len(answers) != len(golden):
        raise SmokeError(f"the Bento answered {len(answers)} of {len(golden)} texts; it is not promoted")
    if card.kind in MARKED:
        return max(_compare_places(row, answer, tolerance) for row, answer in zip(golden, answers, strict=True))
    largest = 0.0
    for row, answer in zip(golden, answers, strict=True):
        expected = {str(label): value for label, value in zip(card.labels, row.probabilities, strict=True)}
        found = {SCORE: answer["score"]} if card.kind == "regression" else answer["probabilities"]
        for label, value in expected.items():
            # Of a number: of its size where that is above 1.
            scale = max(1.0, abs(value)) if card.kind == "regression" else 1.0
            difference = abs(found.get(label, math.nan) - value) / scale
            if not difference <= tolerance:  # a NaN fails too
                raise SmokeError(
                    f"the Bento gives test text {row.id} {found.get(label)} for {label!r} where the evaluation gave "
                    f"{value:.6f}, over smoke.tolerance ({tolerance}); it is not promoted"
                )
            largest = max(largest, difference)
        if card.kind != "regression":
            _compare_labels(row, expected, answer, card, tolerance)
    return largest


def _compare_places(row: Golden, answer: dict[str, Any], tolerance: float) -> float:
    """The largest difference of a score; an entity or answer that is another one is refused."""
    found = answer["entities"] if isinstance(row.served, list) else [answer]
    wanted = row.served if isinstance(row.served, list) else [row.served]
    said, evaluated = ([{k: v for k, v in one.items() if k != "score"} for one in side] for side in (found, wanted))
    if said != evaluated:
        raise SmokeError(
            f"the Bento answers test text {row.id} with {said!r:.200} where the evaluation said {evaluated!r:.200}; "
            "it is not promoted"
        )
    largest = max((abs(a["score"] - b["score"]) for a, b in zip(found, wanted, strict=True)), default=0.0)
    if not largest <= tolerance:  # a NaN fails too
        raise SmokeError(
            f"the Bento's score of test text {row.id} is {largest:.2g} from the evaluated one, over smoke.tolerance "
            f"({tolerance}); it is not promoted"
        )
    return largest


def _compare_labels(
    row: Golden, expected: dict[str, float], answer: dict[str, Any], card: ModelCard, tolerance: float
) -> None:
    """Refuse other labels than the evaluated probabilities give, beyond a tie within the tolerance."""
    said: Any
    wanted: Any
    if card.kind == "single_label":
        said, wanted = answer["label"], max(expected, key=expected.__getitem__)
        other = expected[wanted] - expected.get(str(said), -math.inf) > 2 * tolerance
    else:
        said, wanted = answer["labels"], [label for label, value in expected.items() if value > 0.5]
        differing = {str(label) for label in said} ^ set(wanted)
        other = any(abs(expected.get(label, math.inf) - 0.5) > 2 * tolerance for label in differing)
    if other:
        raise SmokeError(
            f"the Bento labels test text {row.id} {said!r} where the evaluation said {wanted!r}; it is not promoted"
        )


@contextmanager
def served(tag: str, log: Path, limit_seconds: float) -> Iterator[str]:
    """A Bento that answers at the yielded address; stopped with all its processes at the end, however that comes.

    Raises:
        SmokeError: it ended, or was not ready within the limit.
    """
    port = free_port()
    variables = dict(os.environ)
    environment.prepare(variables)
    variables.pop("PYTHONPATH", None)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        server = start(serve_command(tag, HOST, port), environment=variables, stdout=output, stderr=output)
        try:
            address = f"http://{HOST}:{port}"
            _wait_until_ready(server, tag, address, log, limit_seconds)
            yield address
        finally:
            stop(server)


def _wait_until_ready(server: subprocess.Popen[bytes], tag: str, address: str, log: Path, limit_seconds: float) -> None:
    end = time.monotonic() + limit_seconds
    while server.poll() is None:
        if _is_ready(address):
            return
        if time.monotonic() > end:
            raise SmokeError(
                f"{tag} was not ready after {limit_seconds:.0f} s (smoke.start_seconds); its output is in {log}"
            )
        time.sleep(0.05)
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "no output")
    raise SmokeError(f"{tag} did not start: {last} (the whole output is in {log})")


def _is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _ask(address: str, card: ModelCard, texts: Sequence[str | tuple[str, str]], at_once: int) -> list[dict[str, Any]]:
    path = typed_endpoint(card).path
    answers: list[dict[str, Any]] = []
    for first in range(0, len(texts), at_once):
        body = json.dumps(_body(card, texts[first : first + at_once])).encode()
        request = urllib.request.Request(f"{address}{path}", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:
                answers += json.load(response)["predictions"]
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(300).decode(errors="replace")
            raise SmokeError(f"the Bento answered a test text with status {error.code}: {said}") from error
        except (OSError, ValueError, KeyError) as error:
            raise SmokeError(f"the Bento did not answer a test text: {error}") from error
    return answers


def _body(card: ModelCard, texts: Sequence[str | tuple[str, str]]) -> dict[str, Any]:
    if card.kind == "question_answering":
        return {"questions": [{"question": text[0], "context": text[1]} for text in texts]}
    return {"texts": list(texts)}
