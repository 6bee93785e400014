from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.data.tokens.marking import ANSWERS
from potstill.data.tokens.tokenization import write_tokens
from potstill.distillation.teachers.answer_mapping import AnswerMapping, WindowMappedSource, map_answers
from potstill.distillation.teachers.ensembles import AveragedSource
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.token_mapping import IMPOSSIBLE
from potstill.errors import SignalError
from tests.potstill.labels.test_offsets import tokenizer

WORDS = "river,house,unbelievable,Zoë,naïve,New York,since,1998,lives,today,北京,江泽民,a.b".split(",")  # noqa: SIM905
QUESTION = "who lives"


def contexts(count: int = 6, most: int = 40) -> list[str]:
    generator = random.Random(2)
    return [" ".join(generator.choices(WORDS, k=generator.randint(2, most))) for _ in range(count)]


def written(folder: Path, kind: str, rows: list[str], max_length: int, answer: str | None = None) -> Path:
    """Write two splits of questions as windows of a tokenizer; the gold answer is the first occurrence of `answer`."""
    from tokenizers import processors

    words: Any = tokenizer(kind)
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    words.enable_truncation(max_length)
    folder.mkdir()
    for split, part in (("train", rows[:4]), ("transfer", rows[4:])):
        marks = [
            None
            if answer is None
            else [[text.index(answer), text.index(answer) + len(answer)]]
            if answer in text
            else []
            for text in part
        ]
        ids = [f"row-{number}" for number in range(len(part))]
        columns = {"id": ids, "text": [QUESTION] * len(part), "text_pair": part, "label": pa.array(marks, ANSWERS)}
        write_tokens(pa.table(columns), words, folder / f"{split}.arrow", stride=max_length // 4)
    return folder


def files(folder: Path) -> list[Path]:
    return [folder / f"{split}.arrow" for split in ("train", "transfer")]


def opened(folder: Path) -> TokenDataset:
    return TokenDataset.concatenate([TokenDataset.open(path, 0) for path in files(folder)])


def records(folder: Path) -> list[dict[str, Any]]:
    tables = [pa.ipc.open_stream(path).read_all().to_pylist() for path in files(folder)]
    return [record | {"split": split} for split, table in enumerate(tables) for record in table]


class Given:
    """A source with fixed logits [teacher's rows, tokens, ..., 2]."""

    name = "a teacher"

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def supports(self, needs: Needs) -> bool:
        return True

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        return Outputs(self.logits[torch.from_numpy(batch.rows), : batch.input_ids.shape[1]])


def joined(tmp_path: Path, ours: str, theirs: str, sizes: tuple[int, int], rows: list[str]) -> tuple[Any, ...]:
    student, teacher = written(tmp_path / "s", ours, rows, sizes[0]), written(tmp_path / "t", theirs, rows, sizes[1])
    mine, known = opened(student), opened(teacher)
    places = map_answers(files(student), files(teacher))
    assert isinstance(places, AnswerMapping)
    return mine, known, places, records(student), records(teacher)


def everything(dataset: TokenDataset) -> Batch:
    return dataset.batch(np.arange(len(dataset))[::-1].copy())


KINDS = [*itertools.permutations(["wordpiece", "bytes", "unigram"], 2)]


@pytest.mark.parametrize(("ours", "theirs"), KINDS)
def test_probability_moves_to_the_token_with_the_same_character_and_none_is_lost(
    ours: str, theirs: str, tmp_path: Path
) -> None:
    """Compared token by token with a plain reference, for contexts that fit into a window."""
    mine, known, places, students, teachers = joined(tmp_path, ours, theirs, (128, 140), contexts(most=10))
    assert len(mine) == len(known) == 6
    logits = torch.randn(6, 140, 2, generator=torch.Generator().manual_seed(1)) * 3
    batch = everything(mine)
    found = WindowMappedSource(Given(logits), known, places)(batch).logits
    assert found.shape == (*batch.input_ids.shape, 2)
    met = 0
    for row, logit in zip(batch.rows.tolist(), found, strict=True):
        one, other = students[row], teachers[row]
        choices = [token for token, start in enumerate(other["starts"]) if token == 0 or start >= 0]
        shares = logits[row, choices].double().softmax(dim=0)
        wanted = np.zeros((len(one["starts"]), 2))
        for token, share in zip(choices, shares.tolist(), strict=True):
            begin, finish = other["starts"][token], other["ends"][token]
            at = [place for place, start in enumerate(one["starts"]) if start >= 0]
            first = next((place for place in at if one["ends"][place] > begin), 0) if token else 0
            last = next((place for place in reversed(at) if one["starts"][place] < finish), 0) if token else 0
            wanted[first, 0] += share[0]
            wanted[last, 1] += share[1]
            met += len({first, last} - {0})
        told = logit[: len(wanted)].double().softmax(dim=0).numpy()
        np.testing.assert_allclose(told, wanted, atol=1e-6)
        np.testing.assert_allclose(wanted.sum(axis=0), 1)
        assert (logit[len(wanted) :] == IMPOSSIBLE).all()
    assert met > 50


@pytest.mark.parametrize(("ours", "theirs"), KINDS)
def test_a_certain_teacher_is_mapped_to_the_gold_tokens(ours: str, theirs: str, tmp_path: Path) -> None:
    """For windows of any size; an answer that is cut by the student's window counts as none."""
    rows = [f"{text} Zoë New York {text}" for text in contexts(most=12)]
    student, teacher = (
        written(tmp_path / name, kind, rows, size, answer="Zoë New York")
        for name, kind, size in (("s", ours, 48), ("t", theirs, 60))
    )
    mine, known, golds = opened(student), opened(teacher), opened(teacher).labels
    assert len(mine) > 6 < len(known)
    logits = torch.zeros(len(known), 60, 2)
    for row, (start, end) in enumerate(golds.tolist()):
        logits[row, start, 0] = logits[row, end, 1] = 40.0
    places = map_answers(files(student), files(teacher))
    batch = everything(mine)
    found = WindowMappedSource(Given(logits), known, places)(batch).logits.argmax(dim=1)
    gold = [tuple(span) for span in mine.labels[batch.rows].tolist()]
    assert [tuple(span) for span in found.tolist()] == gold
    assert 5 < sum(span != (0, 0) for span in gold) < len(gold)


def test_an_ensemble_averages_softened_probabilities(tmp_path: Path) -> None:
    mine, known, places, *_ = joined(tmp_path, "wordpiece", "unigram", (30, 40), contexts())
    members = torch.randn(len(known), 40, 2, 2, generator=torch.Generator().manual_seed(1)) * 3
    batch, weights = everything(mine), (0.25, 0.75)
    found = WindowMappedSource(AveragedSource(Given(members), weights), known, places)(batch)
    assert found.ensemble is not None
    alone = [WindowMappedSource(Given(members[:, :, one]), known, places)(batch).logits for one in (0, 1)]
    torch.testing.assert_close(found.ensemble.logits, torch.stack(alone, dim=2))
    mean = sum(w * (side / 2).softmax(dim=1) for w, side in zip(weights, alone, strict=True))
    torch.testing.assert_close((found.logits_at(2.0, "question_answering") / 2).softmax(dim=1), mean)


def test_logits_of_certain_answers_are_finite(tmp_path: Path) -> None:
    mine, known, places, *_ = joined(tmp_path, "wordpiece", "bytes", (30, 40), contexts())
    for token in (0, 12):
        logits = torch.full((len(known), 40, 2), -2000.0)
        logits[:, token] = 2000.0
        found = WindowMappedSource(Given(logits), known, places)(everything(mine)).logits
        assert found.isfinite().all()
        assert (found[:, 0] == 0).all()


def test_a_window_without_an_overlap_has_no_answer(tmp_path: Path) -> None:
    mine, known, places, students, _ = joined(tmp_path, "bytes", "wordpiece", (30, 40), [" ", *contexts()])
    assert max(students[0]["ends"]) == max(students[0]["starts"])  # white space has no width
    batch = mine.batch(np.array([0]))
    found = WindowMappedSource(Given(torch.randn(len(known), 40, 2)), known, places)(batch).logits[0]
    assert (found[0] == 0).all()
    assert (found[1:] == IMPOSSIBLE).all()


def test_files_of_other_questions_are_refused(tmp_path: Path) -> None:
    rows = contexts()
    student, other = written(tmp_path / "s", "bytes", rows, 40), written(tmp_path / "t", "bytes", rows[:-1], 40)
    with pytest.raises(SignalError, match="are not of the same questions; run the tokenize stage again"):
        map_answers(files(student), files(other))
