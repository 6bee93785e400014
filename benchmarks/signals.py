"""Measures the signals store on 10,000 to 1,000,000 generated texts with a tiny encoder: rows/s and peak memory.

`python benchmarks/signals.py [--rows 10000 100000 1000000] [--write]`. Writing and reading run in a process of their
own for each size, whose peak memory is the kernel's figure (VmHWM: Linux). Tokenizing is not timed.
`--write` puts the table into benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from potstill import environment

environment.prepare()

import numpy as np  # noqa: E402
from results import machine, publish, today, versions  # noqa: E402

from potstill.artifacts import whole_folder  # noqa: E402
from potstill.config.teacher_params import Signals  # noqa: E402
from potstill.data.tokens.batches import TokenDataset, shuffled_batches  # noqa: E402

if TYPE_CHECKING:
    import pyarrow as pa

MARK = "<!-- signals -->"
SIZES = (10_000, 100_000, 1_000_000)
STORED = Signals(dtype="float16", batch_tokens=2048, vectors=[1])
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
WORDS = [first + second for first in SYLLABLES for second in SYLLABLES[::3]]
TEXTS_AT_ONCE = 50_000


def texts(count: int) -> Iterator[list[str]]:
    """Generate texts of 4 to 24 words, nearly all of them different."""
    random = np.random.default_rng(0)
    for start in range(0, count, TEXTS_AT_ONCE):
        lengths = random.integers(4, 25, min(TEXTS_AT_ONCE, count - start))
        words = [WORDS[index] for index in random.integers(0, len(WORDS), lengths.sum())]
        ends = np.cumsum(lengths).tolist()
        yield [" ".join(words[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True)]


def make_teacher(folder: Path) -> None:
    """Write a random BERT of one layer of width 32, with a tokenizer of the words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification
    from transformers.utils import logging

    logging.disable_progress_bar()
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=32, num_labels=2,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def tokens(folder: Path, rows: int) -> dict[str, float]:
    """Write the generated texts' token ids as the tokenize stage does."""
    from potstill.data.tokens.tokenization import load_tokenizer, write_tokens

    counts = write_tokens(_table(rows), load_tokenizer(folder / "teacher", 32), folder / "rows.arrow")
    return {"tokens": counts.tokens}


def _table(rows: int) -> pa.Table:
    import pyarrow as pa

    parts = [pa.array(part) for part in texts(rows)]
    ids = pa.array(map(str, range(rows)), pa.string())
    return pa.table({"id": ids, "text": pa.chunked_array(parts), "label": pa.nulls(rows, pa.int64())})


def write(folder: Path, rows: int) -> dict[str, float]:
    """Extract signals and write a store."""
    import torch

    from potstill.distillation.teachers.providers import LiveTeacher
    from potstill.distillation.teachers.signal_store import extract, teacher_identity, write_store
    from potstill.models.loading import load_classifier

    teacher = LiveTeacher(load_classifier(folder / "teacher"), torch.device("cpu"))
    before = _peak()
    clock = _Clock()
    dataset = TokenDataset.open(folder / "rows.arrow", 0)
    identity = teacher_identity(folder / "teacher")
    extracted = extract(teacher, dataset, STORED, identity=identity, work=folder / "work")
    with whole_folder(folder / "signals") as out:
        write_store(out, extracted)
    times = clock.read()
    size = sum(path.stat().st_size for path in (folder / "signals").iterdir())
    return times | {"stored": len(extracted.keys), "peak": _peak(), "start": before, "bytes": size}


def read(folder: Path, rows: int) -> dict[str, float]:
    """Open the store, which verifies it and joins it to the rows, and read an epoch of shuffled batches."""
    from potstill.distillation.teachers.outputs import Needs
    from potstill.distillation.teachers.signal_store import StoredSignals

    before = _peak()
    clock = _Clock()
    dataset = TokenDataset.open(folder / "rows.arrow", 0)
    stored = StoredSignals.open(folder / "signals", dataset, folder / "teacher")
    needs = Needs(vectors=frozenset(STORED.vectors))
    for part in shuffled_batches(dataset.lengths, 1024, seed=0, epoch=0):
        stored(dataset.batch(part), needs)
    return clock.read() | {"peak": _peak(), "start": before}


class _Clock:
    """Measures wall time and this process's CPU time, which says more on a busy machine."""

    def __init__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.process_time()

    def read(self) -> dict[str, float]:
        """Return `seconds` and `core_seconds` so far."""
        return {"seconds": time.perf_counter() - self._wall, "core_seconds": time.process_time() - self._cpu}


def _peak() -> float:
    """Return this process's peak memory in bytes. Linux's `ru_maxrss` would start at the parent's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


STEPS: dict[str, Callable[[Path, int], dict[str, float]]] = {"tokens": tokens, "write": write, "read": read}


def measure(rows: int, scratch: Path) -> dict[str, dict[str, float]]:
    """Run each step in a process of its own; returns step -> its readings."""
    folder = scratch / str(rows)
    folder.mkdir()
    make_teacher(folder / "teacher")
    readings = {}
    for step in STEPS:
        command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--rows", str(rows)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        readings[step] = json.loads(output.splitlines()[-1])
    return readings


def table(readings: dict[int, dict[str, dict[str, float]]]) -> list[str]:
    """Return a Markdown table with one line for each size."""
    lines = [
        "| rows | tokens | store | written: rows/s (a core) | peak memory (before) | "
        "read: rows/s (a core) | peak memory (before) |",
        "|---|---|---|---|---|---|---|",
    ]
    for rows, steps in readings.items():
        cells = [
            f"{rows / step['seconds']:,.0f} ({rows / step['core_seconds']:,.0f}) | "
            f"{step['peak'] / 1e6:,.0f} MB ({step['start'] / 1e6:,.0f})"
            for step in (steps["write"], steps["read"])
        ]
        size = f"{steps['write']['bytes'] / 1e6:,.0f} MB"
        lines.append(f"| {rows:,} | {steps['tokens']['tokens']:,} | {size} | {cells[0]} | {cells[1]} |")
    return lines


def main() -> None:
    """Measure, print, and write if asked; or run one step."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--write", action="store_true", help="replace the section in benchmarks/RESULTS.md")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step is not None:
        print(json.dumps(STEPS[arguments.step](arguments.folder, arguments.rows[0])))
        return
    readings = {}
    with tempfile.TemporaryDirectory() as scratch:
        for rows in arguments.rows:
            readings[rows] = measure(rows, Path(scratch))
            print(table({rows: readings[rows]})[-1], flush=True)
    import torch

    head = (
        f"{machine()}, {torch.get_num_threads()} threads, {today()}; {versions('torch', 'safetensors')}; "
        f"logits and sentence vectors of a BERT of one layer of width 32, in {STORED.dtype}."
    )
    section = "\n".join([head, "", *table(readings)])
    publish(MARK, section, write=arguments.write)


if __name__ == "__main__":
    main()
