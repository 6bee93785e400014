"""Start the built Bento and see that it answers as the model was evaluated: the last step before it is registered."""

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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from potstill.artifacts import MANIFEST, read_json, sha256_file
from potstill.compute.processes import free_port, start, stop
from potstill.config.base import OF_PLACES
from potstill.config.params import Params
from potstill.errors import SmokeError
from potstill.evaluation.naming import SHIPPED
from potstill.inference.runtime import ModelCard, Student, Text, probabilities, read_card
from potstill.serving.launch import SHADOW_FOLDER, WATCH_FOLDER, bento_environment, serve_command
from potstill.serving.openapi import typed_endpoint
from potstill.serving.release import SERVING, SETTINGS
from tasks.stage import WORK

HOST = "127.0.0.1"
REQUEST_SECONDS = 60.0
TOO_BUSY = 429
# The key of a number among labels.
SCORE = "score"
# What a Bento is asked whose evaluation is not at hand: of every length, beyond a model's tokens too.
PROBES = ("no", "a warm and witty film", "It rains. It is dry.", "naïve café — 日本語 🙂", "one two three " * 400)


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
        answers = ask(address, card, [row.text for row in golden], params.serve.max_texts)
    difference = compare(golden, answers, card, params.smoke.tolerance)
    return SmokeResult(seconds, len(golden), difference)


def compare_bento(address: str, key: str, workspace: Path, bento: Path, params: Params) -> float:
    """Compare the answers of a Bento that runs with what its model is known to answer, and give the largest difference.

    That is its evaluation where the workspace still holds it. A later run may have left another candidate's there; then
    it is what the Bento's own model answers outside the service.

    Args:
        address: where it answers.
        key: one that it accepts, where it has keys.
        workspace: as for `smoke`.
        bento: the Bento's folder.
        params: the whole of params.yaml.

    Raises:
        SmokeError: an answer is another one, or there is none.
    """
    folder = bento / "src" / SERVING
    card = read_card(folder)
    # The Bento's own limits; those of params may have been changed since.
    limits = read_json(bento / "src" / SETTINGS)["serve"]
    evaluated = workspace / SERVING / MANIFEST
    if evaluated.exists() and sha256_file(evaluated) == sha256_file(folder / MANIFEST):
        golden = golden_texts(workspace, card, params)
    else:
        golden = own_answers(Student(folder, 1))
    golden = [row for row in golden if len("".join(row.text)) <= limits["max_characters"]]
    if not golden:
        raise SmokeError(f"no text to ask about fits the Bento's max_characters ({limits['max_characters']})")
    answers = ask(address, card, [row.text for row in golden], limits["max_texts"], key)
    return compare(golden, answers, card, params.smoke.tolerance)


def own_answers(student: Student) -> list[Golden]:
    """Texts of every length, and what the model answers outside any service."""
    card = student.card
    if card.kind == "question_answering":
        pairs = [(first, second) for first, second in zip(PROBES, reversed(PROBES), strict=True)]
        return [Golden(pair[0], pair, [], asdict(student.answer([pair])[0])) for pair in pairs]
    if card.kind == "token_classification":
        return [Golden(text, text, [], [asdict(e) for e in student.tag([text])[0].entities]) for text in PROBES]
    texts: list[Text] = [(text, text) for text in PROBES] if card.pair else list(PROBES)
    return [
        Golden(str(text), text, found.logits if card.kind == "regression" else found.probabilities)
        for text, found in zip(texts, student.predict(texts), strict=True)
    ]


def golden_texts(workspace: Path, card: ModelCard, params: Params) -> list[Golden]:
    """The first test texts by id (a hash, so any) that the service's limits let in, with their evaluated answers."""
    column = "served" if card.kind in OF_PLACES else SHIPPED[card.variant]
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
            [] if card.kind in OF_PLACES else _expected(evaluated[column][row["answer"]].as_py(), card),
            evaluated[column][row["answer"]].as_py() if card.kind in OF_PLACES else None,
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
        raise SmokeError(f"the Bento answered {len(answers)} of {len(golden)} texts; it is refused")
    if card.kind in OF_PLACES:
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
                    f"{value:.6f}, over smoke.tolerance ({tolerance}); it is refused"
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
            "it is refused"
        )
    largest = max((abs(a["score"] - b["score"]) for a, b in zip(found, wanted, strict=True)), default=0.0)
    if not largest <= tolerance:  # a NaN fails too
        raise SmokeError(
            f"the Bento's score of test text {row.id} is {largest:.2g} from the evaluated one, over smoke.tolerance "
            f"({tolerance}); it is refused"
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
            f"the Bento labels test text {row.id} {said!r} where the evaluation said {wanted!r}; it is refused"
        )


@contextmanager
def served(tag: str, log: Path, limit_seconds: float, more: Mapping[str, str] | None = None) -> Iterator[str]:
    """A Bento that answers at the yielded address; stopped with all its processes at the end, however that comes.

    Args:
        tag: `name:version`.
        log: takes its output.
        limit_seconds: until it is ready.
        more: variables of its environment, beside those of this process but for the API keys.

    Raises:
        SmokeError: it ended, or was not ready within the limit.
    """
    port = free_port()
    variables = bento_environment()  # whoever tests this one has no key, and is not traced
    variables[WATCH_FOLDER] = variables[SHADOW_FOLDER] = ""  # nor are its texts any user's
    variables.update(more or {})
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
    """Whether the service there says that it is ready."""
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def ask(
    address: str, card: ModelCard, texts: Sequence[str | tuple[str, str]], at_once: int, key: str = ""
) -> list[dict[str, Any]]:
    """The service's answers to texts, asked in requests of at most so many, with a key where it has keys.

    Raises:
        SmokeError: it refuses, or gives no answer.
    """
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    answers: list[dict[str, Any]] = []
    for first in range(0, len(texts), at_once):
        body = json.dumps(body_of(card, texts[first : first + at_once])).encode()
        answers += _predictions(urllib.request.Request(f"{address}{typed_endpoint(card).path}", body, headers))
    return answers


def _predictions(request: urllib.request.Request) -> list[dict[str, Any]]:
    """The answers to one request; while the service says that it is too busy, it is asked again."""
    end = time.monotonic() + REQUEST_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:
                found: list[dict[str, Any]] = json.load(response)["predictions"]
                return found
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(300).decode(errors="replace")
            if error.code != TOO_BUSY or time.monotonic() > end:
                raise SmokeError(f"the Bento answered a test text with status {error.code}: {said}") from error
            time.sleep(float(error.headers.get("retry-after", 1)))
        except (OSError, ValueError, KeyError) as error:
            raise SmokeError(f"the Bento did not answer a test text: {error}") from error


def body_of(card: ModelCard, texts: Sequence[str | tuple[str, str]]) -> dict[str, Any]:
    """What the typed endpoint of a model is sent about texts."""
    if card.kind == "question_answering":
        return {"questions": [{"question": text[0], "context": text[1]} for text in texts]}
    return {"texts": list(texts)}
