from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from potstill.artifacts import file_sums, read_json, whole_folder, write_manifest
from potstill.config.teacher_params import Signals
from potstill.data.tokens.batches import Batch, TokenDataset
from potstill.distillation.teachers import shards
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.predict import predict_logits
from potstill.distillation.teachers.providers import LiveTeacher
from potstill.distillation.teachers.signal_store import Extracted, StoredSignals, extract, teacher_identity, write_store
from potstill.errors import ChecksumError, EmptyDataError, SignalError, TrainingError
from potstill.models.loading import load_classifier, save_model

CPU = torch.device("cpu")
SLICES = Needs(frozenset({0, 4}), frozenset({3}), frozenset({1, 4}))
EVERYTHING = {"hidden": [0, 4], "attention": [3], "vectors": [1, 4]}


def dataset(rows: Sequence[Sequence[int]], segments: bool = False) -> TokenDataset:
    flat = np.array([token for row in rows for token in row], dtype=np.int32)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    types = (flat % 2).astype(np.int8) if segments else None
    return TokenDataset(flat, lengths, types, np.zeros(len(rows), dtype=np.int64), 0)


ROWS = dataset([[2, 7, 3], [2, 9, 8, 3], [2, 7, 3], [2, 11, 12, 13, 3]])
MANY = dataset([[2, *(np.arange(3 + row % 7) + row), 3] for row in range(60)])


def write_teacher(folder: Path, base: Path) -> Path:
    torch.manual_seed(3)
    save_model(load_classifier(base, ["a", "b", "c"]), folder, base)
    return folder


@pytest.fixture(scope="module")
def teacher(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teacher"), tiny_base)


class Counted:
    """A live teacher that records its tokens, except for the two rows that determine the form of its outputs."""

    name = "a counted teacher"

    def __init__(self, teacher: Path, stop_after: float = np.inf) -> None:
        self._live = LiveTeacher(load_classifier(teacher), CPU)
        self.seen: list[tuple[int, ...]] = []
        self._calls, self._stop_after = 0, stop_after

    def supports(self, needs: Needs) -> bool:
        return self._live.supports(needs)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        self._calls += 1
        if self._calls > 2:
            ids = zip(batch.input_ids, batch.attention_mask, strict=True)
            self.seen += [tuple(row[mask != 0].tolist()) for row, mask in ids]
        if len(self.seen) > self._stop_after:
            raise KeyboardInterrupt
        return self._live(batch, needs)


def run(source: Any, data: TokenDataset, work: Path, teacher: Path, **params: Any) -> Extracted:
    settings = Signals(**({"batch_tokens": 32, "shard_rows": 4} | params))
    return extract(source, data, settings, identity=teacher_identity(teacher), work=work)


def store(
    folder: Path, teacher: Path, data: TokenDataset = ROWS, source: Any = None, work: Path | None = None, **params: Any
) -> Path:
    live = source or LiveTeacher(load_classifier(teacher), CPU)
    extracted = run(live, data, work or folder.with_name(f"{folder.name}-work"), teacher, **params)
    with whole_folder(folder) as out:
        write_store(out, extracted)
    return folder


# --- what comes out is what the live teacher says ---------------------------------------------------------------------


def test_stored_signals_equal_the_live_teacher_row_by_row(tmp_path: Path, teacher: Path) -> None:
    signals = StoredSignals.open(store(tmp_path / "signals", teacher), ROWS, teacher)
    live = predict_logits(load_classifier(teacher), ROWS)
    for rows in ([0, 1, 2, 3], [3, 0], [2]):  # whatever the batch composition is
        assert signals(ROWS.batch(np.array(rows))).logits.numpy() == pytest.approx(live[rows], abs=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_layers_come_from_the_store_as_from_the_live_teacher(tmp_path: Path, teacher: Path, dtype: str) -> None:
    folder = store(tmp_path / "signals", teacher, MANY, dtype=dtype, **EVERYTHING)
    stored, live = StoredSignals.open(folder, MANY, teacher), LiveTeacher(load_classifier(teacher), CPU)
    assert len(list(folder.glob("shard-*"))) == 15
    batch = MANY.batch(np.array([31, 0, 59, 6, 6, 12]))
    real = torch.from_numpy(batch.attention_mask != 0)
    found, wanted = stored(batch, SLICES), live(batch, SLICES)
    close = {"rtol": 0.0, "atol": 1e-5 if dtype == "float32" else 5e-3}
    assert torch.allclose(found.logits, wanted.logits, **close)
    assert (found.hidden.keys(), found.attention.keys(), found.vectors.keys()) == ({0, 4}, {3}, {1, 4})
    for number in (0, 4):
        assert torch.allclose(found.hidden[number][real], wanted.hidden[number][real], **close)
        assert not found.hidden[number][~real].any()
    for ours, theirs in zip(found.attention[3], wanted.attention[3], strict=True):
        assert torch.allclose(ours[real], theirs[real], **close)
    for number in (1, 4):
        states = wanted.hidden[number]
        means = (states * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        assert torch.allclose(found.vectors[number].first, states[:, 0], **close)
        assert torch.allclose(found.vectors[number].mean, means, **close)


def test_a_store_supports_what_it_contains(tmp_path: Path, teacher: Path) -> None:
    stored = StoredSignals.open(store(tmp_path / "signals", teacher, hidden=[2], vectors=[1]), ROWS, teacher)
    assert stored.supports(LOGITS)
    assert stored.supports(Needs(frozenset({2}), vectors=frozenset({1, 2})))  # vectors come of states too
    assert not stored.supports(Needs(hidden=frozenset({1})))
    assert not stored.supports(Needs(attention=frozenset({2})))
    assert stored.name == "a store of logits, hidden states 2, vectors of states 1"
    found = stored(ROWS.batch(np.arange(4)), Needs(vectors=frozenset({1, 2})))
    assert (found.hidden.keys(), found.vectors.keys()) == ({2}, {1})


def test_the_order_of_another_dataset_does_not_matter(tmp_path: Path, teacher: Path) -> None:
    folder = store(tmp_path / "signals", teacher)
    other = ROWS.select(np.array([3, 1]))
    found = StoredSignals.open(folder, other, teacher)(other.batch(np.array([0, 1]))).logits.numpy()
    assert found == pytest.approx(predict_logits(load_classifier(teacher), other), abs=1e-5)


class Shaped:
    """A source whose logits are the token ids, for several members or for each token."""

    name = "a shaped source"

    def __init__(self, per_token: bool) -> None:
        self._per_token = per_token

    def supports(self, needs: Needs) -> bool:
        return not needs

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        ids = torch.from_numpy(batch.input_ids).float()
        ids = ids * torch.from_numpy(batch.attention_mask)
        if self._per_token:
            return Outputs(torch.stack([ids, -ids], dim=-1))
        sums = ids.sum(1)
        return Outputs(torch.stack([sums, 2 * sums, 3 * sums], dim=-1)[:, None].repeat(1, 2, 1))


@pytest.mark.parametrize("per_token", [False, True])
def test_logits_may_have_any_form(tmp_path: Path, teacher: Path, per_token: bool) -> None:
    source = Shaped(per_token)
    stored = StoredSignals.open(store(tmp_path / "s", teacher, MANY, source), MANY, teacher)
    batch = MANY.batch(np.array([8, 1, 44]))
    found = stored(batch).logits
    assert found.shape == ((3, batch.input_ids.shape[1], 2) if per_token else (3, 2, 3))
    assert torch.equal(found, source(batch).logits)


def test_the_teacher_gets_token_types(tmp_path: Path, teacher: Path) -> None:
    data = dataset([[2, 7, 3, 8, 3], [2, 8, 8, 3]], segments=True)
    stored = StoredSignals.open(store(tmp_path / "signals", teacher, data), data, teacher)
    batch = data.batch(np.array([0, 1]))
    live = LiveTeacher(load_classifier(teacher), CPU)(batch)
    assert torch.allclose(stored(batch).logits, live.logits, atol=1e-5)


# --- once, and whole --------------------------------------------------------------------------------------------------


def test_the_teacher_never_runs_twice_on_the_same_tokens(tmp_path: Path, teacher: Path) -> None:
    source = Counted(teacher)
    data = TokenDataset.concatenate([ROWS, ROWS.select(np.array([1, 0]))])
    store(tmp_path / "signals", teacher, data, source)
    assert sorted(source.seen) == [(2, 7, 3), (2, 9, 8, 3), (2, 11, 12, 13, 3)]


def test_a_row_longer_than_the_budget_is_a_batch_of_its_own(tmp_path: Path, teacher: Path) -> None:
    data = dataset([[2, *range(5, 25), 3], [2, 7, 3]])
    folder = store(tmp_path / "signals", teacher, data, batch_tokens=16)
    assert StoredSignals.open(folder, data, teacher)(data.batch(np.array([0, 1]))).logits.shape == (2, 3)


class Small(Shaped):
    """An accelerator with memory for at most 20 padded tokens."""

    def __init__(self, holds: int = 20) -> None:
        super().__init__(per_token=True)
        self._holds = holds

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        if batch.input_ids.size > self._holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(batch, needs)


def test_running_out_of_memory_halves_the_batches_once(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = store(tmp_path / "wanted", teacher, MANY, Shaped(True))
    halved = store(tmp_path / "halved", teacher, MANY, Small())
    assert "batches of 16 tokens from here on, half of signals.batch_tokens" in capsys.readouterr().out
    assert file_sums(halved) == file_sums(wanted)
    with pytest.raises(TrainingError, match=r"half of what params say; set signals\.batch_tokens to 16 or less$"):
        store(tmp_path / "never", teacher, MANY, Small(8))


def test_an_interrupted_extraction_resumes_and_ends_with_the_same_bytes(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = store(tmp_path / "straight", teacher, MANY, **EVERYTHING)
    first, second, work = Counted(teacher, stop_after=30), Counted(teacher), tmp_path / "cut-work"
    with pytest.raises(KeyboardInterrupt):
        run(first, MANY, work, teacher, **EVERYTHING)
    whole = sorted(folder.name for folder in work.iterdir())
    assert whole == [f"shard-{number:06d}" for number in range(7)]  # nothing of the shard that was cut short
    damaged = work / "shard-000002" / "signals.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    (work / "shard-000004" / "manifest.json").unlink()
    resumed = store(tmp_path / "cut", teacher, MANY, second, **EVERYTHING)
    assert len(second.seen) == len(MANY) - 5 * 4
    said = capsys.readouterr().out
    assert "signals: 20 of 60 rows are there from the run before" in said
    assert said.count("a shard of an earlier run is written again") == 2
    assert file_sums(resumed) == file_sums(straight)


def test_shards_of_other_params_or_another_teacher_are_not_reused(
    tmp_path: Path, teacher: Path, tiny_base: Path
) -> None:
    run(Counted(teacher), ROWS, tmp_path / "work", teacher)
    again = Counted(teacher)
    run(again, ROWS, tmp_path / "work", teacher)
    assert again.seen == []
    changed = Counted(teacher)
    run(changed, ROWS, tmp_path / "work", teacher, dtype="float16")
    assert len(changed.seen) == 3
    torch.manual_seed(4)
    save_model(load_classifier(tiny_base, ["a", "b", "c"]), tmp_path / "other", tiny_base)
    other = Counted(tmp_path / "other")
    run(other, ROWS, tmp_path / "work", tmp_path / "other", dtype="float16")
    assert len(other.seen) == 3


@pytest.mark.slow
def test_wide_rows_make_smaller_shards(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard has room for three of the longest rows here: 11 tokens of 3 * 32 numbers."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * 11 * 3 * 32 * 4 + 1000)
    extracted = run(LiveTeacher(load_classifier(teacher), CPU), MANY, tmp_path, teacher, attention=[1])
    counts = extracted.metadata["shards"]
    assert sum(counts) == 60
    assert counts[0] == 3  # the longest rows come first
    assert max(counts) == 4
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)  # a row is never cut
    assert run(Shaped(False), MANY, tmp_path / "b", teacher).metadata["shards"] == [1] * 60


def test_shards_on_another_file_system_are_copied(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    linked = store(tmp_path / "linked", teacher)
    monkeypatch.setattr("os.link", refuse)
    assert file_sums(store(tmp_path / "copied", teacher)) == file_sums(linked)


# --- fidelity ---------------------------------------------------------------------------------------------------------


def test_float16_reports_its_rounding_errors(tmp_path: Path, teacher: Path) -> None:
    found = run(LiveTeacher(load_classifier(teacher), CPU), MANY, tmp_path, teacher, dtype="float16", hidden=[4])
    exact = predict_logits(load_classifier(teacher), MANY, batch_tokens=32)
    stored = exact.astype(np.float16)
    errors = np.abs(stored - exact)
    report = found.metadata["fidelity"]
    assert report["arrays"]["logits"]["largest_error"] == pytest.approx(errors.max(), rel=1e-2)
    assert report["arrays"]["logits"]["mean_error"] == pytest.approx(errors.mean(), rel=1e-2)
    assert 0 < report["arrays"]["hidden-4"]["mean_error"] < report["arrays"]["hidden-4"]["largest_error"] < 2e-3
    for T in (1, 2, 4):
        ours, theirs = (torch.from_numpy(part / T).double().log_softmax(1) for part in (exact, stored.astype(float)))
        kl = float((ours.exp() * (ours - theirs)).sum(1).mean())
        assert report["kl"][str(T)] == pytest.approx(kl, rel=0.05)
        assert report["kl"][str(T)] > 0
    assert report["changed_argmax"] == 0.0


class Fixed(Shaped):
    """A source with the same logits for every row."""

    def __init__(self, *values: float) -> None:
        self._values = torch.tensor(values)

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        return Outputs(self._values.repeat(len(batch.rows), 1))


def test_a_changed_answer_is_counted(tmp_path: Path, teacher: Path) -> None:
    found = run(Fixed(1.0, 1.0001), ROWS, tmp_path, teacher, dtype="float16")
    assert found.metadata["fidelity"]["changed_argmax"] == 1.0


def test_float32_has_no_rounding_errors(tmp_path: Path, teacher: Path) -> None:
    report = run(LiveTeacher(load_classifier(teacher), CPU), MANY, tmp_path, teacher).metadata["fidelity"]
    assert report["arrays"]["logits"] == {"largest_error": 0.0, "mean_error": 0.0}
    assert set(report["kl"].values()) == {0.0}


def test_one_output_has_no_probabilities(tmp_path: Path, teacher: Path) -> None:
    report = run(Fixed(0.1), ROWS, tmp_path, teacher, dtype="float16").metadata["fidelity"]
    assert report.keys() == {"arrays"}


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ((1.0, np.nan), "float32", "logits are NaN or infinite"),
        ((1.0, 7e4), "float16", r"reach 7e\+04, beyond float16's 65504; set signals.dtype to float32"),
    ],
)
def test_numbers_that_cannot_be_stored_are_refused(
    tmp_path: Path, teacher: Path, values: tuple[float, ...], dtype: str, message: str
) -> None:
    with pytest.raises(SignalError, match=message):
        run(Fixed(*values), ROWS, tmp_path, teacher, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"hidden": [5]}, "cannot give hidden states 5 to be stored"),
        ({"vectors": [1, 9], "attention": [4]}, "cannot give attention of layers 4, vectors of states 1, 9"),
    ],
)
def test_layers_that_the_teacher_lacks_are_refused(
    tmp_path: Path, teacher: Path, params: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(SignalError, match=message):
        run(LiveTeacher(load_classifier(teacher), CPU), ROWS, tmp_path, teacher, **params)


def test_an_empty_dataset_is_refused(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(EmptyDataError, match="no rows to run the teacher on"):
        run(Fixed(1.0, 2.0), dataset([]), tmp_path, teacher)


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


def test_another_tokenizer_is_refused(tmp_path: Path, teacher: Path) -> None:
    folder = store(tmp_path / "signals", teacher)
    shutil.copytree(teacher, tmp_path / "other")
    with (tmp_path / "other" / "tokenizer.json").open("a") as handle:
        handle.write("\n")
    with pytest.raises(SignalError, match="another teacher's tokenizer"):
        StoredSignals.open(folder, ROWS, tmp_path / "other")


def test_a_store_of_another_format_is_refused(tmp_path: Path, teacher: Path) -> None:
    (tmp_path / "old").mkdir()
    write_manifest(tmp_path / "old", {"teacher": teacher_identity(teacher), "rows": 0})
    with pytest.raises(SignalError, match="written in another form; run the signals stage again"):
        StoredSignals.open(tmp_path / "old", ROWS, teacher)


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("name", ["shard-000001.safetensors", "index.safetensors"])
@pytest.mark.parametrize("damage", [flip, lambda data: data[:-5]], ids=["flipped", "truncated"])
def test_a_damaged_file_is_refused(tmp_path: Path, teacher: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    folder = store(tmp_path / "signals", teacher, MANY)
    data = (folder / name).read_bytes()
    (folder / name).unlink()  # a link to the work folder's
    (folder / name).write_bytes(damage(data))
    with pytest.raises(ChecksumError, match=f"{name} is altered"):
        StoredSignals.open(folder, MANY, teacher)


def test_a_missing_shard_is_refused(tmp_path: Path, teacher: Path) -> None:
    folder = store(tmp_path / "signals", teacher, MANY)
    (folder / "shard-000003.safetensors").unlink()
    with pytest.raises(ChecksumError, match=r"shard-000003\.safetensors is missing"):
        StoredSignals.open(folder, MANY, teacher)


def test_the_manifest_lists_the_contents_of_the_store(tmp_path: Path, teacher: Path) -> None:
    about = read_json(store(tmp_path / "signals", teacher, hidden=[4]) / "manifest.json")["about"]
    assert about["teacher"] == teacher_identity(teacher)
    assert about["columns"] == {
        "logits": {"shape": [3], "per_token": False},
        "hidden-4": {"shape": [32], "per_token": True},
    }
    assert (about["rows"], about["shards"], about["dtype"]) == (3, [3], "float32")
