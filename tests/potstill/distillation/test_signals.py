from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from potstill.artifacts import whole_folder
from potstill.data.batches import TokenDataset
from potstill.distillation.signals import StoredSignals, extract, teacher_identity, write_signals
from potstill.errors import ChecksumError, SignalError
from potstill.models.loading import load_classifier, save_model
from potstill.training.predict import predict_logits


def dataset(rows: list[list[int]]) -> TokenDataset:
    flat = np.array([token for row in rows for token in row], dtype=np.int32)
    lengths = np.array([len(row) for row in rows])
    return TokenDataset(flat, lengths, None, np.zeros(len(rows), dtype=np.int64), 0)


ROWS = dataset([[2, 7, 3], [2, 9, 8, 3], [2, 7, 3], [2, 11, 12, 13, 3]])


@pytest.fixture(scope="module")
def teacher(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("teacher")
    save_model(load_classifier(tiny_base, ["a", "b", "c"]), folder, tiny_base)
    return folder


def store(folder: Path, teacher: Path, dtype: str = "float32") -> Path:
    keys, logits = extract(load_classifier(teacher), ROWS, batch_tokens=16, precision="fp32")
    assert len(keys) == 3  # the teacher never runs twice on the same tokens
    with whole_folder(folder) as out:
        write_signals(out, keys, logits, teacher_identity(teacher), dtype)
    return folder


def test_stored_signals_equal_the_live_teacher_row_by_row(tmp_path: Path, teacher: Path) -> None:
    signals = StoredSignals.open(store(tmp_path / "signals", teacher), ROWS, teacher)
    live = predict_logits(load_classifier(teacher), ROWS)
    for rows in ([0, 1, 2, 3], [3, 0], [2]):  # whatever the batch composition is
        assert signals(ROWS.batch(np.array(rows))).logits.numpy() == pytest.approx(live[rows], abs=1e-5)


def test_the_order_of_another_dataset_does_not_matter(tmp_path: Path, teacher: Path) -> None:
    folder = store(tmp_path / "signals", teacher)
    other = ROWS.select(np.array([3, 1]))
    found = StoredSignals.open(folder, other, teacher)(other.batch(np.array([0, 1]))).logits.numpy()
    assert found == pytest.approx(predict_logits(load_classifier(teacher), other), abs=1e-5)


def test_half_precision_reports_its_rounding(tmp_path: Path, teacher: Path) -> None:
    keys, logits = extract(load_classifier(teacher), ROWS, batch_tokens=16, precision="fp32")
    error = write_signals(tmp_path, keys, logits, teacher_identity(teacher), "float16")
    assert 0 < error < 1e-3


def test_unknown_tokens_are_refused(tmp_path: Path, teacher: Path) -> None:
    folder = store(tmp_path / "signals", teacher)
    with pytest.raises(SignalError, match="lack 1 of 2 rows"):
        StoredSignals.open(folder, dataset([[2, 7, 3], [2, 8, 3]]), teacher)


def test_another_teacher_is_refused(tmp_path: Path, teacher: Path, tiny_base: Path) -> None:
    folder = store(tmp_path / "signals", teacher)
    torch.manual_seed(4)
    save_model(load_classifier(tiny_base, ["a", "b", "c"]), tmp_path / "other", tiny_base)
    with pytest.raises(SignalError, match="another teacher's weights"):
        StoredSignals.open(folder, ROWS, tmp_path / "other")


def test_a_flipped_bit_is_refused(tmp_path: Path, teacher: Path) -> None:
    folder = store(tmp_path / "signals", teacher)
    damaged = bytearray((folder / "logits.npy").read_bytes())
    damaged[-1] ^= 1
    (folder / "logits.npy").write_bytes(bytes(damaged))
    with pytest.raises(ChecksumError, match=r"logits\.npy is altered"):
        StoredSignals.open(folder, ROWS, teacher)
