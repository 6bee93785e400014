"""smoke: starts the built Bento and checks that its answers are the evaluated ones, before it is registered."""

from __future__ import annotations

import json
import math
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from potstill.artifacts import MANIFEST, read_json, sha256_file
from potstill.compute.processes import free_port, start, stop
from potstill.config.params import Params
from potstill.errors import SmokeError
from potstill.evaluation.naming import SHIPPED
from potstill.inference.runtime import ModelCard, Student, Text, read_card
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.paths import LOGS, PREDICTIONS, PREPARED, SERVING, TEST_SPLIT
from potstill.serving.launch import SHADOW_FOLDER, WATCH_FOLDER, bento_environment, serve_command
from potstill.serving.openapi import typed_endpoint
from potstill.serving.release import SETTINGS

HOST = "127.0.0.1"
REQUEST_SECONDS = 60.0
# The service is on this machine, whatever proxy the environment names for others.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
TOO_BUSY = 429
# Key of the number that a regression answers, in place of labels.
SCORE = "score"
# Texts for a Bento without an evaluation in the workspace: of every length, also beyond a model's maximum.
PROBES = ("no", "a warm and witty film", "It rains. It is dry.", "naïve café — 日本語 🙂", "one two three " * 400)


@dataclass(frozen=True)
class Golden:
    """A test text with the answer of the evaluated model.

    Attributes:
        id: id of the row.
        text: a text or a pair.
        probabilities: in the order of the card's labels; of a regression the number alone; of spans none.
        served: entities or answer, for tasks whose answers are spans of a text.
    """

    id: str
    text: str | tuple[str, str]
    probabilities: list[float]
    served: Any = None


@dataclass(frozen=True)
class SmokeResult:
    """Seconds until the Bento was ready, texts sent, and the largest difference of an answer."""

    seconds: float
    texts: int
    difference: float


def smoke(params: Params, workspace: Path, tag: str) -> SmokeResult:
    """Serve a Bento on a free loopback port, compare its answers with the evaluated ones, and stop it again.

    Args:
        params: the whole of params.yaml.
        workspace: holds `data/serving`, `data/evaluation` and `data/prepared`.
        tag: the Bento, `name:version`.

    Raises:
        SmokeError: it did not start, or an answer is not the evaluated one.
    """
    card = read_card(workspace / SERVING)
    golden = golden_texts(workspace, card, params)
    begin = time.monotonic()
    with served(tag, workspace / LOGS / "smoke.txt", params.smoke.start_seconds) as address:
        seconds = time.monotonic() - begin
        texts = [row.text for row in golden]
        answers = ask(address, card, texts, params.serve.max_texts, params.serve.max_body_bytes)
    difference = compare(golden, answers, card, params.smoke.tolerance)
    return SmokeResult(seconds, len(golden), difference)


def compare_bento(address: str, key: str, workspace: Path, bento: Path, params: Params) -> float:
    """Compare the answers of a running Bento with its model's known answers, and return the largest difference.

    The known answers are the model's evaluation where the workspace still holds it. A later run may have left another
    candidate's evaluation there; then they are what the Bento's own model answers outside the service.

    Args:
        address: the service's URL.
        key: an API key that it accepts, if it has keys.
        workspace: as for `smoke`.
        bento: the Bento's folder.
        params: the whole of params.yaml.

    Raises:
        SmokeError: an answer differs, or there is none.
    """
    folder = bento / "src" / SERVING
    card = read_card(folder)
    # The Bento's own limits: those of params may have changed since.
    limits = read_json(bento / "src" / SETTINGS)["serve"]
    evaluated = workspace / SERVING / MANIFEST
    if evaluated.exists() and sha256_file(evaluated) == sha256_file(folder / MANIFEST):
        golden = golden_texts(workspace, card, params)
    else:
        golden = direct_answers(Student(folder, 1))
    golden = [row for row in golden if len("".join(row.text)) <= limits["max_characters"]]
    if not golden:
        raise SmokeError(f"no text to ask about fits the Bento's max_characters ({limits['max_characters']})")
    texts = [row.text for row in golden]
    answers = ask(address, card, texts, limits["max_texts"], limits["max_body_bytes"], key)
    return compare(golden, answers, card, params.smoke.tolerance)


def direct_answers(student: Student) -> list[Golden]:
    """Return texts of every length with the model's answers outside any service."""
    card = student.card
    if card.form == "span":
        pairs = list(zip(PROBES, reversed(PROBES), strict=True))
        return [Golden(pair[0], pair, [], asdict(student.answer([pair])[0])) for pair in pairs]
    if card.form == "entities":
        return [
            Golden(text, text, [], [asdict(entity) for entity in student.tag([text])[0].entities]) for text in PROBES
        ]
    texts: list[Text] = [(text, text) for text in PROBES] if card.pair else list(PROBES)
    return [
        Golden(str(text), text, prediction.logits if card.form == "number" else prediction.probabilities)
        for text, prediction in zip(texts, student.predict(texts), strict=True)
    ]


def golden_texts(workspace: Path, card: ModelCard, params: Params) -> list[Golden]:
    """Return test texts within the service's limits with their evaluated answers: the first by id, which is a hash."""
    column = "served" if KINDS[card.kind].marks_spans else SHIPPED[card.variant]
    evaluated = pq.read_table(workspace / PREDICTIONS, columns=["id", column])
    rows = pq.read_table(workspace / TEST_SPLIT).sort_by("id")
    length = pc.utf8_length(rows["text"])
    if card.pair:
        length = pc.add(length, pc.utf8_length(rows["text_pair"]))
    rows = rows.append_column("answer", pc.index_in(rows["id"], value_set=evaluated["id"]))
    fitting = pc.and_(pc.less_equal(length, params.serve.max_characters), pc.is_valid(rows["answer"]))
    first_rows = rows.filter(fitting).slice(0, params.smoke.texts).to_pylist()
    if not first_rows:
        raise SmokeError(
            f"no test text of {PREPARED} has an evaluated answer and fits serve.max_characters; run evaluate again"
        )
    return [_golden(row, evaluated[column][row["answer"]].as_py(), card) for row in first_rows]


def _golden(row: dict[str, Any], evaluated: Any, card: ModelCard) -> Golden:
    """Make a golden text of a test row and its entry in predictions.parquet: logits, or an answer as it is served."""
    text = (row["text"], row["text_pair"]) if card.pair else row["text"]
    if KINDS[card.kind].marks_spans:
        return Golden(row["id"], text, [], evaluated)
    if card.form == "number":
        return Golden(row["id"], text, list(evaluated))
    return Golden(row["id"], text, KINDS[card.kind].probabilities(np.array([evaluated]), card.temperature)[0].tolist())


def compare(golden: Sequence[Golden], answers: Sequence[dict[str, Any]], card: ModelCard, tolerance: float) -> float:
    """Return the largest difference of a probability, or of a number.

    Raises:
        SmokeError: it is over the tolerance, or a label differs by more than a tie within the tolerance.
    """
    if len(answers) != len(golden):
        raise SmokeError(f"the Bento answered {len(answers)} of {len(golden)} texts; it is refused")
    if KINDS[card.kind].marks_spans:
        return max(_compare_spans(row, answer, tolerance) for row, answer in zip(golden, answers, strict=True))
    return max(
        (_compare_values(row, answer, card, tolerance) for row, answer in zip(golden, answers, strict=True)),
        default=0.0,
    )


def _compare_values(row: Golden, answer: dict[str, Any], card: ModelCard, tolerance: float) -> float:
    """Return the largest difference of a probability or a number of one answer; refuse one over the tolerance."""
    is_regression = card.form == "number"
    expected = {str(label): value for label, value in zip(card.labels, row.probabilities, strict=True)}
    served = {SCORE: answer["score"]} if is_regression else answer["probabilities"]
    largest = 0.0
    for label, value in expected.items():
        # A number's difference is relative to its size where that is above 1.
        scale = max(1.0, abs(value)) if is_regression else 1.0
        difference = abs(served.get(label, math.nan) - value) / scale
        if not difference <= tolerance:  # a NaN fails too
            raise SmokeError(
                f"the Bento gives test text {row.id} {served.get(label)} for {label!r} where the evaluation gave "
                f"{value:.6f}, over smoke.tolerance ({tolerance}); it is refused"
            )
        largest = max(largest, difference)
    if not is_regression:
        _compare_labels(row, expected, answer, card, tolerance)
    return largest


def _compare_spans(row: Golden, answer: dict[str, Any], tolerance: float) -> float:
    """Return the largest difference of a score; refuse another entity or answer than the evaluated one."""
    served = answer["entities"] if isinstance(row.served, list) else [answer]
    expected = row.served if isinstance(row.served, list) else [row.served]
    served_spans = _without_scores(served)
    expected_spans = _without_scores(expected)
    if served_spans != expected_spans:
        raise SmokeError(
            f"the Bento answers test text {row.id} with {served_spans!r:.200} where the evaluation said "
            f"{expected_spans!r:.200}; it is refused"
        )
    largest = max((abs(a["score"] - b["score"]) for a, b in zip(served, expected, strict=True)), default=0.0)
    if not largest <= tolerance:  # a NaN fails too
        raise SmokeError(
            f"the Bento's score of test text {row.id} is {largest:.2g} from the evaluated one, over smoke.tolerance "
            f"({tolerance}); it is refused"
        )
    return largest


def _without_scores(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in span.items() if key != "score"} for span in spans]


def _compare_labels(
    row: Golden, probabilities: dict[str, float], answer: dict[str, Any], card: ModelCard, tolerance: float
) -> None:
    """Refuse other labels than the evaluated probabilities give, beyond a tie within the tolerance."""
    served: Any
    expected: Any
    if card.form == "class":
        served = answer["label"]
        expected = max(probabilities, key=probabilities.__getitem__)
        differs = probabilities[expected] - probabilities.get(str(served), -math.inf) > 2 * tolerance
    else:
        served = answer["labels"]
        expected = [label for label, value in probabilities.items() if value > 0.5]
        differing = {str(label) for label in served} ^ set(expected)
        differs = any(abs(probabilities.get(label, math.inf) - 0.5) > 2 * tolerance for label in differing)
    if differs:
        raise SmokeError(
            f"the Bento labels test text {row.id} {served!r} where the evaluation said {expected!r}; it is refused"
        )


@contextmanager
def served(tag: str, log: Path, limit_seconds: float, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve a Bento at the yielded address; at the end it is stopped with all its processes, whatever happened.

    Args:
        tag: `name:version`.
        log: receives its output.
        limit_seconds: how long it may take to be ready.
        variables: of its environment, in addition to this process's own without the API keys.

    Raises:
        SmokeError: it ended, or was not ready within the limit.
    """
    port = free_port()
    environment = bento_environment()  # without API keys and tracing
    environment[WATCH_FOLDER] = environment[SHADOW_FOLDER] = ""  # these texts are no user's
    environment.update(variables or {})
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        server = start(serve_command(tag, HOST, port), environment=environment, stdout=output, stderr=output)
        try:
            address = f"http://{HOST}:{port}"
            _wait_until_ready(server, tag, address, log, limit_seconds)
            yield address
        finally:
            stop(server)


def _wait_until_ready(server: subprocess.Popen[bytes], tag: str, address: str, log: Path, limit_seconds: float) -> None:
    end = time.monotonic() + limit_seconds
    while server.poll() is None:
        if is_ready(address):
            return
        if time.monotonic() > end:
            raise SmokeError(
                f"{tag} was not ready after {limit_seconds:.0f} s (smoke.start_seconds); its output is in {log}"
            )
        time.sleep(0.05)
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "no output")
    raise SmokeError(f"{tag} did not start: {last} (the whole output is in {log})")


def is_ready(address: str) -> bool:
    """Whether the service at that address says that it is ready."""
    try:
        with _OPENER.open(f"{address}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except (OSError, HTTPException):
        return False


def ask(
    address: str, card: ModelCard, texts: Sequence[str | tuple[str, str]], max_texts: int, max_bytes: int, key: str = ""
) -> list[dict[str, Any]]:
    """Ask the service about texts, in requests within its limits, with an API key if it has keys.

    Raises:
        SmokeError: it refuses a request, or does not answer.
    """
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    answers: list[dict[str, Any]] = []
    for body in _bodies(card, texts, max_texts, max_bytes):
        answers += _predictions(urllib.request.Request(f"{address}{typed_endpoint(card).path}", body, headers))
    return answers


def _bodies(card: ModelCard, texts: Sequence[str | tuple[str, str]], max_texts: int, max_bytes: int) -> Iterator[bytes]:
    """Yield the bodies of requests about texts, in order; those over a limit are halved, down to a text."""
    body = json.dumps(request_body(card, texts), ensure_ascii=False).encode()
    if len(texts) <= 1 or (len(texts) <= max_texts and len(body) <= max_bytes):
        yield body
        return
    middle = len(texts) // 2
    yield from _bodies(card, texts[:middle], max_texts, max_bytes)
    yield from _bodies(card, texts[middle:], max_texts, max_bytes)


def _predictions(request: urllib.request.Request) -> list[dict[str, Any]]:
    """Return the answers to one request, which is repeated while the service says that it is too busy."""
    end = time.monotonic() + REQUEST_SECONDS
    while True:
        try:
            with _OPENER.open(request, timeout=REQUEST_SECONDS) as response:
                predictions: list[dict[str, Any]] = json.load(response)["predictions"]
                return predictions
        except urllib.error.HTTPError as error:
            with error:
                message = error.read(300).decode(errors="replace")
            if error.code != TOO_BUSY or time.monotonic() > end:
                raise SmokeError(f"the Bento answered a test text with status {error.code}: {message}") from error
            time.sleep(float(error.headers.get("retry-after", 1)))
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise SmokeError(f"the Bento did not answer a test text: {error}") from error


def request_body(card: ModelCard, texts: Sequence[str | tuple[str, str]]) -> dict[str, Any]:
    """Return the request body of a model's typed endpoint for texts."""
    if card.form == "span":
        return {"questions": [{"question": text[0], "context": text[1]} for text in texts]}
    return {"texts": list(texts)}
