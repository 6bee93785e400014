from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill.artifacts import file_sums, read_json
from potstill.errors import OneClassError
from tests.conftest import NEUTRAL, generate_rows, write_csv
from tests.potstill.models.test_word_replacement import make_generator
from tests.tasks.data_workspace import make_workspace, run_stages


@pytest.mark.slow
def test_outs_have_the_documented_form_and_the_same_bytes_again(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_workspace(tmp_path / "w", tiny_rows, tiny_base, prepare={"augment": {}})
    _, result = run_stages("ingest", "prepare", monkeypatch=monkeypatch, folder=folder)
    out = folder / "data" / "prepared"
    assert set(file_sums(out)) == {
        "train.parquet", "dev.parquet", "test.parquet", "transfer.parquet",
        "labels.json", "report.json", "manifest.json",
    }  # fmt: skip
    assert read_json(out / "labels.json") == {
        "task": "single_label",
        "labels": ["negative", "positive"],
        "pair": False,
    }
    fields = [("id", pa.string()), ("text", pa.string()), ("label", pa.int64())]
    for split in ("train", "transfer"):
        schema = pq.read_schema(out / f"{split}.parquet")
        assert [(field.name, field.type) for field in schema] == fields
    labelled = sum(result.datasets[split]["rows"] for split in ("train", "dev", "test"))
    assert labelled == 200
    augmented_rows = read_json(out / "report.json")["augmented"]["rows"]
    assert augmented_rows > 100
    assert f"200 rows read, 0 removed, {augmented_rows} made of train for transfer; train" in result.summary
    first = file_sums(out)
    run_stages("prepare", monkeypatch=monkeypatch, folder=folder)
    assert file_sums(out) == first


def test_refused_data_leaves_nothing(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_csv(tmp_path / "rows.csv", [(text, "x") for text, _ in generate_rows(20)])
    folder = make_workspace(tmp_path / "w", rows, tiny_base)
    with pytest.raises(OneClassError):
        run_stages("ingest", "prepare", monkeypatch=monkeypatch, folder=folder)
    assert not (folder / "data" / "prepared").exists()
    assert not list((folder / "data").glob(".*"))


@pytest.mark.slow
def test_a_generator_and_the_other_kinds_of_copies(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make_generator(tmp_path / "g", tiny_base, NEUTRAL)
    kinds = {"crops": 0, "splices": 0, "masks": 1, "shuffles": 1, "replacements": 2}
    folder = make_workspace(
        tmp_path / "w", tiny_rows, tiny_base,
        prepare={"augment": kinds}, ingest={"generator": {"kind": "file", "path": str(generator)}},
    )  # fmt: skip
    run_stages("ingest", "prepare", monkeypatch=monkeypatch, folder=folder)
    assert (folder / "data/raw/generator/model.safetensors").exists()
    out = folder / "data" / "prepared"
    transfer = pq.read_table(out / "transfer.parquet").to_pylist()
    assert {row["label"] for row in transfer} == {None}
    texts = [row["text"] for row in transfer]
    train = pq.read_table(out / "train.parquet").column("text").to_pylist()
    same = {tuple(sorted(text.split())) for text in train}
    masked = [text for text in texts if "[MASK]" in text]
    shuffled = [text for text in texts if tuple(sorted(text.split())) in same]
    replaced = len(texts) - len(masked) - len(shuffled)
    assert all(0.8 * len(train) < count <= len(train) for count in (len(masked), len(shuffled)))
    assert 1.6 * len(train) < replaced <= 2 * len(train)
    first = file_sums(out)
    run_stages("prepare", monkeypatch=monkeypatch, folder=folder)
    assert file_sums(out) == first
