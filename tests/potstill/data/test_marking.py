from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from potstill.data.tokens.batches import SPAN, TokenDataset, has_label
from potstill.data.tokens.marking import ANSWERS, UNIT_LABELS, TagCounts, WindowCounts
from potstill.data.tokens.tokenization import load_tokenizer, write_tokens
from potstill.kinds.definitions.token_classification import entity_f1
from potstill.labels.offsets import IGNORED, UNANSWERED

TEXT = "the doctor and the village story"


def tags_table(texts: list[str], marks: list[list[list[int]] | None]) -> pa.Table:
    ids = [f"row-{index}" for index in range(len(texts))]
    return pa.table({"id": ids, "text": texts, "label": pa.array(marks, UNIT_LABELS)})


def test_tags_go_to_the_first_token_of_each_unit(tiny_base: Path, tmp_path: Path) -> None:
    places = [(0, 3), (4, 10), (11, 14), (15, 18), (19, 26), (27, 32)]
    classes = [0, 3, 0, 0, 1, 0]
    mark = [[start, end, tag] for (start, end), tag in zip(places, classes, strict=True)]
    table = tags_table([TEXT, TEXT + " " + "movie " * 20], [mark, None])
    counts = write_tokens(table, load_tokenizer(tiny_base, 12), tmp_path / "a.arrow", stride=3)
    assert isinstance(counts, TagCounts)
    # Windows of 10 words, each 7 after the last: 26 words are in four.
    assert (counts.texts, counts.rows, counts.truncated, counts.units) == (2, 1 + 4, 1, 6 + 26)
    assert counts.unseen == 0
    dataset = TokenDataset.open(tmp_path / "a.arrow", 0)
    assert has_label(dataset.labels).tolist() == [True, False, False, False, False]
    first, *others = dataset.labels
    second = others[0]
    assert first[[0, -1]].tolist() == [IGNORED, IGNORED]  # special tokens
    assert first[first != IGNORED].tolist() == classes
    assert set(second.tolist()) == {IGNORED, UNANSWERED}
    # One window answers for each word: the one that sees more around it.
    asked = [np.flatnonzero(row == UNANSWERED).tolist() for row in others]
    assert asked == [[*range(1, 10)], [*range(3, 10)], [*range(3, 10)], [*range(3, 6)]]
    batch = dataset.batch(np.array([1, 0]))
    assert batch.answers is not None
    assert batch.answers.shape == batch.input_ids.shape
    assert batch.labels.tolist() == [UNANSWERED] * int((second == UNANSWERED).sum()) + classes
    assert not batch.answers[batch.attention_mask == 0].any()
    assert batch.gold.sum() == len(classes)
    units = pa.ipc.open_stream(tmp_path / "a.arrow").read_all().column("units").to_pylist()
    assert units[0] == [1] * 6
    assert [len(row) for row in units[1:]] == [9, 7, 7, 3]


def test_windows_of_a_question(tiny_base: Path, tmp_path: Path) -> None:
    context = " ".join(["movie"] * 30 + ["village"])
    start = context.index("village")
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "text": ["the house", "the house", "the house"],
            "text_pair": [context, context, "story"],
            "label": pa.array([[[start, len(context)]], [], None], ANSWERS),
        }
    )
    counts = write_tokens(table, load_tokenizer(tiny_base, 16), tmp_path / "a.arrow", stride=4)
    assert isinstance(counts, WindowCounts)
    assert (counts.questions, counts.answers, counts.lost) == (3, 1, 0)
    dataset = TokenDataset.open(tmp_path / "a.arrow", 0)
    assert dataset.labels.dtype == SPAN
    ids = pa.ipc.open_stream(tmp_path / "a.arrow").read_all().column("id").to_pylist()
    assert counts.rows == len(dataset) == len(ids)
    of = {name: dataset.labels[[index for index, row in enumerate(ids) if row == name]] for name in "abc"}
    assert [tuple(span) != (0, 0) for span in of["a"].tolist()] == [False] * (len(of["a"]) - 1) + [True]
    assert set(of["b"].tolist()) == {(0, 0)}
    assert of["c"].tolist() == [(-1, -1)]
    batch = dataset.batch(np.arange(len(dataset)))
    assert batch.labels.shape == (len(dataset), 2)
    assert batch.answers is not None
    assert (batch.answers == (batch.attention_mask == 1)).all()
    assert batch.gold.tolist() == [True] * (len(ids) - 1) + [False]


def test_an_entity_at_the_border_of_windows_is_whole_where_it_is_scored(tiny_base: Path, tmp_path: Path) -> None:
    """However its windows are selected and joined; each unit is in one of them."""
    text = " ".join(["movie"] * 20)
    marks = [[[index * 6, index * 6 + 5, 1 if index % 5 == 0 else 2] for index in range(20)], [[0, 5, 0]], None]
    table = tags_table([text, "movie", text], marks)
    write_tokens(table, load_tokenizer(tiny_base, 12), tmp_path / "a.arrow", stride=3)
    dataset = TokenDataset.open(tmp_path / "a.arrow", 0)
    assert len(dataset) > 3
    classes = [row[row != IGNORED].tolist() for row in dataset.whole_labels]
    assert classes == [[tag for _, _, tag in marks[0] or []], [0], [UNANSWERED] * 20]
    logits = np.eye(5)[np.concatenate(classes[:2])]
    labelled_rows = dataset.select(np.flatnonzero(has_label(dataset.labels)))
    assert entity_f1(logits, labelled_rows.whole_labels) == 1.0
    broken = logits.copy()
    broken[7] = np.eye(5)[0]  # the third of an entity of five: both windows have a part of it
    assert entity_f1(broken, labelled_rows.whole_labels) == 2 * 3 / (4 + 5)
    twice = TokenDataset.concatenate([dataset, dataset]).whole_labels
    assert [len(row) for row in twice] == [len(row) for row in dataset.whole_labels] * 2
    assert dataset.select(np.array([], dtype=np.int64)).whole_labels.tolist() == []
