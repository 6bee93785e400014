"""What `potstill export` writes, in the runtimes it is for: headless Chromium with transformers.js, and OpenVINO."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from potstill.inference.runtime import Student, Text
from potstill.models.loading import load_classifier
from potstill.models.students.student import student_from_layers
from potstill.onnx_export.label_check import onnx_run
from potstill.pretrained.files import copy_tokenizer_files
from tasks.target_export import Target, export_target, find_source
from tests.browser import Browser, browser, needs_browser
from tests.conftest import CACHE, REPOSITORY
from tests.e2e.pages import blocks
from tests.students import write_finished
from tests.teachers import read_rows, teach

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
# Texts of the comparison with fp32, and the least share of equal labels.
COMPARED, LEAST = 500, 0.995
# What real texts rarely are: empty, of other scripts, longer than the model reads.
ODD = ["", " ", "naïve café — 日本語 🙂\t\n", "I don't; won't… can't!", "a superb and witty movie " * 100]
# Ends with the answers to all texts, in order.
ANSWER_ALL = """
const { load } = await import("./classify.js");
const classify = await load(), answers = [];
for (const text of TEXTS) answers.push(await classify(...[text].flat()));
return answers;
"""
# The library's own way, which index.html does not take.
PIPELINE = """
const { pipeline } = await import("@huggingface/transformers");
const classify = await pipeline("text-classification", ".");
return await classify(TEXTS);
"""


def export(workspace: Path, target: Target = "web", *, exact: bool = False) -> Path:
    """Write the folder of a target."""
    source = find_source(workspace, workspace / "data/serving")
    export_target(target, source, workspace / "data/prepared", workspace / target, title="a student", exact=exact)
    return workspace / target


def with_runtime(folder: Path) -> Path:
    """Fetch transformers.js and its WebAssembly as README.md says; npm keeps both for the next test."""
    (block,) = [block for block in blocks(folder / "README.md") if block.kind == ["sh"]]
    variables = {"npm_config_cache": str(CACHE / "npm"), "npm_config_prefer_offline": "true"}
    subprocess.run(["bash", "-ec", block.code], cwd=folder, env=os.environ | variables, check=True)
    return folder


class Quiet(SimpleHTTPRequestHandler):
    """Logs no request."""

    def log_message(self, format: str, *arguments: Any) -> None: ...


@contextmanager
def page(folder: Path, profile: Path) -> Iterator[Browser]:
    """Serve a folder, and open its page in a browser that can reach nothing else."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with browser(profile) as tab:
            tab.open(f"http://127.0.0.1:{server.server_address[1]}/")
            yield tab
        server.shutdown()


def in_browser(tab: Browser, script: str, texts: Sequence[Text]) -> list[dict[str, Any]]:
    """Run a script over texts."""
    answers: list[dict[str, Any]] = tab.run(script.replace("TEXTS", json.dumps(list(texts))))
    return answers


def logits(file: Path, workspace: Path, texts: Sequence[Text]) -> Any:
    """Compute the logits [texts, labels] of an ONNX file in Python, one text a call."""
    student, run = Student(workspace / "data/serving"), onnx_run(file)
    rows = []
    for encoded in student.tokenizer.encode_batch(list(texts)):
        values = {
            "input_ids": encoded.ids,
            "attention_mask": encoded.attention_mask,
            "token_type_ids": encoded.type_ids,
        }
        rows.append(run({name: np.array([values[name]], np.int64) for name in student.card.inputs})[0])
    return np.array(rows)


def shares(answers: Sequence[dict[str, Any]]) -> Any:
    return np.array([list(answer["probabilities"].values()) for answer in answers])


def reviews(raw: Path) -> list[tuple[str, int]]:
    """Real movie reviews, each with 1 if its rating is clearly good and 0 if it is clearly bad."""
    snippets = next(raw.rglob("movieReviewSnippets_GroundTruth.txt")).read_text(encoding="utf-8")
    rows = [line.split("\t") for line in snippets.splitlines()]
    clear = [(text, int(float(rating) > 0)) for _, rating, text in rows if abs(float(rating)) >= 0.5]
    return random.Random(0).sample(clear, 3000)


@pytest.fixture(scope="module")
def texts(default_raw: Path) -> list[str]:
    """Real reviews, and what they rarely are."""
    return [*(text for text, _ in reviews(default_raw)[: COMPARED - len(ODD)]), *ODD]


@pytest.fixture(scope="module")
def student(
    slow: None, default_base: Path, default_raw: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Three layers of the default base that have learned a little about reviews, in a workspace."""
    from transformers import AutoTokenizer

    model = student_from_layers(load_classifier(default_base, ["negative", "positive"]), [0, 2, 4])
    rows = reviews(default_raw)[COMPARED:]
    tokenizer = AutoTokenizer.from_pretrained(default_base, model_max_length=64)
    teach(model, tokenizer, [text for text, _ in rows], [label for _, label in rows], rate=3e-4)
    folder = tmp_path_factory.mktemp("targets") / "workspace"
    return write_finished(model, default_base, folder, texts, max_length=64)


@needs_browser
@needs_npm
def test_a_browser_gives_the_labels_of_fp32(student: Path, texts: list[str], tmp_path: Path) -> None:
    folder = with_runtime(export(student))
    exact = logits(student / "data/export/student.fp32.onnx", student, texts)
    written = logits(folder / "onnx/model_quantized.onnx", student, texts)
    labels = np.array(["negative", "positive"])[exact.argmax(axis=1)]
    assert 0.2 < (labels == "positive").mean() < 0.8
    with page(folder, tmp_path / "profile") as tab:
        answers = in_browser(tab, ANSWER_ALL, texts)
        tab.run('document.getElementById("text").focus()')
        tab.type(texts[0])
        tab.run('document.getElementById("ask").click()')
        while not (said := tab.run('return document.getElementById("said").textContent')):
            tab.run("await new Promise((done) => setTimeout(done, 50))")
        assert tab.complaints == []
        by_library = in_browser(tab, PIPELINE, texts[:50])
    assert len(answers) == COMPARED
    assert (np.array([answer["label"] for answer in answers]) == labels).mean() >= LEAST
    # The tokens are the same too, of texts that are cut as well, and so is the arithmetic.
    powers = np.exp(written - written.max(axis=1, keepdims=True))
    assert shares(answers) == pytest.approx(powers / powers.sum(axis=1, keepdims=True), abs=1e-4)
    assert said == answers[0]["label"]
    assert [answer["label"] for answer in by_library] == [answer["label"] for answer in answers[:50]]


LONG = [" ".join(text for text, _ in read_rows()[start : start + length]) for start in range(4) for length in (1, 2, 5)]
PAIRS: list[Text] = [(first, second) for first in LONG[:6] for second in ["", *LONG[3:9]]]


@needs_browser
@needs_npm
@pytest.mark.parametrize(
    ("task", "texts", "side"),
    [
        ("classification", LONG, "left"),
        ("classification", PAIRS, "right"),
        ("classification", PAIRS, "left"),
        ("multi_label", LONG, "right"),
        ("regression", LONG, "right"),
    ],
)
def test_a_browser_cuts_and_answers_as_the_service(
    task: str, texts: list[Text], side: str, trained_teacher: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    copy_tokenizer_files(trained_teacher, base)
    settings = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"truncation_side": side}), encoding="utf-8")
    head = (["score"], "regression") if task == "regression" else ()
    model = load_classifier(trained_teacher, *head)
    workspace = write_finished(model, base, tmp_path / "workspace", texts, task=task, max_length=33)
    folder = with_runtime(export(workspace, exact=True))
    expected = logits(folder / "onnx/model.onnx", workspace, texts)
    with page(folder, tmp_path / "profile") as tab:
        answers = in_browser(tab, ANSWER_ALL, texts)
        assert tab.run('return document.getElementById("second-row").hidden') is not (texts is PAIRS)
        assert tab.complaints == []
    if task == "regression":
        assert [answer["score"] for answer in answers] == pytest.approx(expected[:, 0].tolist(), abs=1e-4)
        return
    if task == "multi_label":
        assert shares(answers) == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-4)
        assert [answer["labels"] for answer in answers] == [
            [name for name, logit in zip(("ham", "spam"), row, strict=True) if logit > 0] for row in expected
        ]
        return
    powers = np.exp(expected)
    assert shares(answers) == pytest.approx(powers / powers.sum(axis=1, keepdims=True), abs=1e-4)


# In a process of its own; the arguments are a workspace and whether weights stay in fp32.
EXPORT = """
import sys
from pathlib import Path
from tests.e2e.test_targets import export
export(Path(sys.argv[1]), "openvino", exact=sys.argv[2] == "True")
"""
# What follows the code of README.md: it answers the texts of a file.
LABEL = """
texts = json.loads(pathlib.Path("texts.json").read_text())
print(json.dumps([int(logits(text).argmax()) for text in texts]))
"""


@pytest.mark.parametrize("exact", [False, True])
def test_openvino_gives_the_labels_of_fp32(
    exact: bool, student: Path, texts: list[str], openvino_packages: Path, tmp_path: Path
) -> None:
    path = os.pathsep.join([str(REPOSITORY), str(openvino_packages)])
    # Where CI=true OpenVINO's telemetry is off by itself.
    variables = os.environ | {"PYTHONPATH": path, "HOME": str(tmp_path), "CI": "false"}
    subprocess.run([sys.executable, "-c", EXPORT, str(student), str(exact)], env=variables, check=True)
    assert [*tmp_path.iterdir()] == []  # its telemetry would leave a folder there
    folder = student / "openvino"
    (block,) = [block for block in blocks(folder / "README.md") if block.kind == ["python"]]
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    command = [sys.executable, "-c", block.code + LABEL]
    done = subprocess.run(
        command, cwd=folder, env=variables | {"CI": "true"}, check=True, stdout=subprocess.PIPE, text=True
    )
    shown, labels = done.stdout.splitlines()
    assert shown.startswith("{'negative': ")
    expected = logits(student / "data/export/student.fp32.onnx", student, texts).argmax(axis=1)
    assert (np.array(json.loads(labels)) == expected).mean() >= LEAST
