from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.data.tokens.marking import UNIT_LABELS
from potstill.data.tokens.tokenization import write_tokens
from potstill.distillation.teachers.ensembles import AveragedSource
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.token_mapping import IMPOSSIBLE, UnitMappedSource, UnitMapping, map_units
from potstill.errors import SignalError
from potstill.labels.offsets import CUT, OWN, SHARED
from potstill.labels.tags import units_of
from tests.potstill.labels.test_offsets import tokenizer

WORDS = "river,house,unbelievable,Zoë,naïve,New York,since,1998,lives,today,北京,江泽民,a.b".split(",")  # noqa: SIM905
CLASSES = 5


def texts(count: int = 6) -> list[str]:
    generator = random.Random(2)
    return [" ".join(generator.choices(WORDS, k=generator.randint(2, 40))) for _ in range(count)]


def written(folder: Path, kind: str, rows: list[str], max_length: int) -> Path:
    """Write two splits of texts as tokens of a tokenizer."""
    words: Any = tokenizer(kind)
    words.enable_truncation(max_length)
    folder.mkdir()
    for split, part in (("train", rows[:4]), ("transfer", rows[4:])):
        marks = [[[*unit, 0] for unit in units_of(text)] for text in part]
        ids = [f"{split}-{number}" for number in range(len(part))]
        table = pa.table({"id": ids, "text": part, "label": pa.array(marks, UNIT_LABELS)})
        write_tokens(table, words, folder / f"{split}.arrow", stride=4)
    return folder


def opened(folder: Path) -> TokenDataset:
    return TokenDataset.concatenate([TokenDataset.open(path, 0) for path in files(folder)])


def files(folder: Path) -> list[Path]:
    return [folder / f"{split}.arrow" for split in ("train", "transfer")]


class Numbered:
    """A source with different logits for each token of each row."""

    name = "a numbered teacher"

    def supports(self, needs: Needs) -> bool:
        return True

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        row = torch.from_numpy(batch.rows)[:, None, None]
        token = torch.arange(batch.input_ids.shape[1])[None, :, None]
        return Outputs((row * 1000 + token).float().expand(-1, -1, CLASSES) + torch.arange(CLASSES) / 10)


@pytest.mark.parametrize(("ours", "theirs"), [*itertools.permutations(["wordpiece", "bytes", "unigram"], 2)])
def test_a_unit_takes_the_logits_of_the_token_that_represents_it(ours: str, theirs: str, tmp_path: Path) -> None:
    rows = texts()
    student, teacher = written(tmp_path / "s", ours, rows, 24), written(tmp_path / "t", theirs, rows, 32)
    places = map_units(files(student), files(teacher))
    mine, known = opened(student), opened(teacher)
    assert len(mine) != len(known)  # other windows
    source = UnitMappedSource(Numbered(), known, places)
    batch = mine.batch(np.arange(len(mine))[::-1].copy())
    assert batch.answers is not None
    logits = source(batch).logits
    assert logits.shape == (*batch.input_ids.shape, CLASSES)
    answered = logits[torch.from_numpy(batch.answers)]
    assert (logits[torch.from_numpy(~batch.answers)] == 0).all()
    # Reference: the teacher's labelled tokens of a text, in order, are its units with their own token.
    tables = [pa.ipc.open_stream(path).read_all() for folder in (student, teacher) for path in files(folder)]
    spoken: dict[str, list[tuple[int, int]]] = {}
    for row, record in enumerate(tables[2].to_pylist() + tables[3].to_pylist()):
        tokens = [token for token, label in enumerate(record["label"]) if label != -100]
        own = iter(tokens)
        spoken.setdefault(record["id"], []).extend(
            (row, next(own)) if unit_states == OWN else (-1, -1) for unit_states in record["units"]
        )
    asked: dict[str, int] = {}
    wanted: list[list[tuple[int, int]]] = []
    for record in tables[0].to_pylist() + tables[1].to_pylist():
        first = asked.get(record["id"], 0)
        asked[record["id"]] = first + len(record["units"])
        units = spoken[record["id"]][first : asked[record["id"]]]
        wanted.append([unit for unit, unit_states in zip(units, record["units"], strict=True) if unit_states == OWN])
    flat = [unit for row in wanted[::-1] for unit in row]
    assert len(flat) == len(answered) > 50
    for answer, (row, token) in zip(answered, flat, strict=True):
        if row >= 0:
            assert answer.tolist() == pytest.approx([row * 1000 + token + place / 10 for place in range(CLASSES)])
    assert sum(row >= 0 for row, _ in flat) > 0.9 * len(flat)


def test_a_unit_that_shares_a_token_continues_and_a_unit_without_one_is_outside() -> None:
    rows = TokenDataset(np.arange(3, dtype=np.int32), np.array([3]), None, np.array([0]), 0)
    places = UnitMapping(
        np.array([0, 3]), np.zeros(3, dtype=np.int64), np.array([1, 1, 0]), np.array([OWN, SHARED, CUT])
    )
    labels = np.empty(1, dtype=object)
    labels[0] = np.array([-100, 0, 1, 2, -100])
    batch = TokenDataset(np.arange(5, dtype=np.int32), np.array([5]), None, labels, 0).batch(np.array([0]))

    class Two(Numbered):
        """A source with the stacked logits of two teachers, one of which is certain of B."""

        def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
            logits = torch.zeros(1, 3, 2, CLASSES)
            logits[:, 1, 0, 1] = 9.0
            return Outputs(logits)

    found = UnitMappedSource(Two(), rows, places)(batch).logits[0, 1:4]
    assert found.shape == (3, 2, CLASSES)
    assert found[0, 0].tolist() == [0, 9, 0, 0, 0]
    shares = found[1].softmax(dim=-1)
    whole = found[0].softmax(dim=-1)
    torch.testing.assert_close(shares[:, 2], whole[:, 1] + whole[:, 2])
    assert (shares[:, 1::2] == 0).all()
    assert found[2, :, 0].tolist() == [0, 0]
    assert (found[2, :, 1:] == IMPOSSIBLE).all()


def test_an_ensemble_averages_softened_probabilities() -> None:
    rows = TokenDataset(np.arange(3, dtype=np.int32), np.array([3]), None, np.array([0]), 0)
    places = UnitMapping(np.array([0, 1]), np.zeros(1, dtype=np.int64), np.array([1]), np.array([OWN]))
    labels = np.empty(1, dtype=object)
    labels[0] = np.array([-100, 0, -100])
    batch = TokenDataset(np.arange(3, dtype=np.int32), np.array([3]), None, labels, 0).batch(np.array([0]))
    members = torch.randn(1, 3, 2, CLASSES, generator=torch.Generator().manual_seed(1)) * 4

    class Two(Numbered):
        def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
            return Outputs(members)

    found = UnitMappedSource(AveragedSource(Two(), (0.25, 0.75)), rows, places)(batch)
    mean = torch.tensor([0.25, 0.75]) @ (members[0, 1] / 2).softmax(dim=-1)
    torch.testing.assert_close((found.logits_at(2.0, "token_classification")[0, 1] / 2).softmax(dim=-1), mean)


def test_files_of_other_texts_are_refused(tmp_path: Path) -> None:
    rows = texts()
    student = written(tmp_path / "s", "wordpiece", rows, 24)
    other = written(tmp_path / "t", "wordpiece", [*rows[:3], "today", *rows[4:]], 24)
    with pytest.raises(SignalError, match="are not of the same texts; run the tokenize stage again"):
        map_units(files(student), files(other))
