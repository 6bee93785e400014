"""Shared fixtures: a tiny random model, generated rows, and the default data and model fetched once into `.work/`."""

from __future__ import annotations

import csv
import gc
import os
import random
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

from potstill import environment
from potstill.artifacts import MANIFEST, verify, whole_folder
from potstill.compute.processes import hold
from potstill.config.params import Params
from potstill.config.params_file import load_params, parse_params
from potstill.config.yaml_file import read_params
from potstill.errors import ChecksumError

environment.prepare()
# A machine that others use as well takes now and then a second over what takes a millisecond.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".work" / "test-cache"
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_configure(config: pytest.Config) -> None:
    # Great Expectations imports modules that Python 3.11 calls deprecated (sre_constants, sre_parse).
    config.addinivalue_line("filterwarnings", "ignore:module 'sre_:DeprecationWarning")
    # Started in the background, a shell has its children ignore Ctrl-C; the tests send it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Fixtures that cost a minute: the tests that share one stay in one worker.
SHARED = ("finished", "prefect_server", "prefect_home", "clean_environment")
# Begun last, a long group would leave the other workers without work.
LONG = ("e2e", "flows", "tasks")


# Rooms whose tests need a server or a whole pipeline.
SLOW_FOLDERS = ("e2e", "deploy")


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks, and deals out the groups in the order of their first tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in SLOW_FOLDERS or "slow" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(_shared(item) or item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: 0 if _shared(item) else 1 if item.path.parent.name in LONG else 2)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    # What is imported and collected stays: the collector of garbage need not look through it, now or later.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _shared(item: pytest.Item) -> str | None:
    names = getattr(item, "fixturenames", ())
    return next((name for name in SHARED if name in names), None)


@pytest.fixture(scope="session")
def slow() -> None:
    """Mark every test that needs it as slow; asked for by fixtures that start a server or run a pipeline."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _fail_if_skipped_in_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _fail_if_skipped_in_ci((yield))


def _fail_if_skipped_in_ci(report: Report) -> Report:
    """CI has all that a test can need, so a skipped test has checked nothing there. An expected failure is no skip."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where CI is set, install what it needs: {report.longrepr}"
    return report


def write_once(folder: Path, write: Callable[[Path], object]) -> Path:
    """Write a folder that several workers need; the others wait for the first one and take what it has written."""
    with hold(folder.with_name(f"{folder.name}.lock"), what=f"writing {folder.name}", wait_seconds=600):
        if not folder.exists():
            with whole_folder(folder) as new:
                write(new)
    return folder


@pytest.fixture(scope="session")
def session_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `write_once`: the same one in all workers."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if hasattr(request.config, "workerinput") else base) / "shared"


def words(text: str) -> list[str]:
    """The words of a line."""
    return text.split()


GOOD = words("superb bright honest tender gripping witty splendid charming fresh moving lovely clever")
BAD = words("dull clumsy stale hollow tedious grim shallow lazy bland muddled noisy broken")
NEUTRAL = words(
    "movie story plot actor camera scene script music city house river summer winter train garden window letter "
    "morning evening doctor teacher soldier painter sister brother village island bridge market forest kitchen"
)
GLUE = words("the a this that with about under near from into and but while every some his her our")


def generate_rows(count: int, seed: int = 7) -> list[tuple[str, str]]:
    """Distinct (text, label) rows with a rule that a tiny model learns: which kind of adjective is in the text."""
    generator = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        label = "positive" if len(rows) % 2 else "negative"
        chosen = generator.choices(NEUTRAL, k=generator.randint(4, 12)) + generator.choices(GLUE, k=3)
        chosen += generator.choices(GOOD if label == "positive" else BAD, k=generator.randint(2, 3))
        generator.shuffle(chosen)
        rows.setdefault(" ".join(chosen), label)
    return list(rows.items())


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    """Write (text, label) rows with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def tiny_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 200 generated rows: columns `text` and `label` (negative, positive, 100 each)."""
    return write_csv(tmp_path_factory.mktemp("tiny_rows") / "rows.csv", generate_rows(200))


def write_tiny_base(folder: Path) -> Path:
    """A `save_pretrained` folder of a random BERT encoder (hidden 32, 4 layers, 64 positions) with its tokenizer.

    Always the same, or tests would now and then meet one whose answers are all alike.
    """
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, set_seed

    from potstill.data.tokens.wordpiece import SPECIAL, train_wordpiece

    texts = [text for text, _ in generate_rows(400, seed=1)]
    tokenizer = train_wordpiece(texts, vocabulary=200, min_frequency=1, lowercase=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL).save_pretrained(folder)
    set_seed(3)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_base(session_folder: Path) -> Path:
    """See `write_tiny_base`."""
    return write_once(session_folder / "tiny_base", write_tiny_base)


@pytest.fixture(scope="session")
def trained_teacher(session_folder: Path) -> Path:
    """A fine-tuned teacher of tests/cases/teachers/ok.csv; see `tests.teachers`."""
    from tests.teachers import write_teacher

    return write_once(session_folder / "trained_teacher" / "bert", write_teacher)


@pytest.fixture(scope="session")
def other_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another encoder: half as wide, three layers, a tokenizer that splits nearly every word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("other_base")
    trained: Any = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    trained.train_from_iterator([text for text, _ in generate_rows(400, seed=1)], trainer)
    trained.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=trained, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(6)
    config = BertConfig(
        vocab_size=trained.get_vocab_size(), hidden_size=16, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=24, max_position_embeddings=128, pad_token_id=0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def default_params() -> Params:
    """The repository's own params.yaml."""
    return load_params(REPOSITORY / "params.yaml")


@pytest.fixture(scope="session")
def whole_recipe() -> Params:
    """The params of `make full`."""
    return parse_params(read_params(REPOSITORY / "params.yaml") | read_params(REPOSITORY / "params/full.yaml"))


@pytest.fixture(scope="session")
def default_raw(default_params: Params) -> Path:
    """`data/raw` of the default params, fetched by ingest's own code once and kept in `.work/test-cache`."""
    return _fetched(default_params)[0]


@pytest.fixture(scope="session")
def default_base(default_params: Params) -> Path:
    """`data/base` (the default teacher's folder) of the default params; see `default_raw`."""
    return _fetched(default_params)[1]


def _fetched(params: Params) -> tuple[Path, Path]:
    from potstill.data.fetching.ingestion import ingest_all

    raw, base = CACHE / "raw", CACHE / "base"
    with hold(CACHE / "lock" / "fetch.lock", what="a fetch for the tests", wait_seconds=110):
        try:
            verify(raw), verify(base)
        except ChecksumError:
            ingest_all(params.ingest, raw, base)
    assert (raw / MANIFEST).exists()
    assert (base / MANIFEST).exists()
    return raw, base
