from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from potstill.config.params_file import load_params
from potstill.errors import SmokeError
from tasks.package import package
from tasks.parity import SIZES, mixed_batches, parity
from tasks.smoke import Golden
from tests.conftest import generate_rows
from tests.potstill.serving.folders import write_workspace

# Of every length, beyond the model's too.
TEXTS = [" ".join([text] * (1 + index % 7)) for index, (text, _) in enumerate(generate_rows(120))]


@pytest.fixture(scope="module")
def workspace(slow: None, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = write_workspace(tiny_base, tmp_path_factory.mktemp("parity") / "workspace", TEXTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder.parent / "bentoml"))
        yield folder


@pytest.mark.slow
def test_a_thousand_requests_at_once_are_answered_as_evaluated_each_in_its_place(workspace: Path) -> None:
    params = load_params(workspace / "params.yaml")
    tag = package(params, workspace).tag
    result = parity(params, workspace, tag, requests=1000, clients=32)
    assert (result.requests, result.rows) == (1000, len(TEXTS))
    assert result.difference <= 1e-5
    # One row of all that was evaluated otherwise is found.
    folder = Path(shutil.copytree(workspace, workspace.parent / "moved", ignore=shutil.ignore_patterns(".work")))
    path = folder / "data/evaluation/predictions.parquet"
    table = pq.read_table(path)
    logits = table["int8"].to_pylist()
    logits[70] = [logits[70][0] + 1e-3, logits[70][1]]
    pq.write_table(table.set_column(table.column_names.index("int8"), "int8", [logits]), path)
    with pytest.raises(SmokeError, match=table["id"][70].as_py()):
        parity(params, folder, tag, requests=10, clients=4)


def test_requests_are_mixed_and_cover_every_row() -> None:
    golden = [Golden(str(number), "x" * number, []) for number in range(50)]
    asked = mixed_batches(golden, 30, max_texts=8)
    assert asked == mixed_batches(golden, 30, max_texts=8)
    assert {len(rows) for rows in asked} == {min(size, 8) for size in SIZES}
    counts = Counter(row.id for rows in asked for row in rows)
    assert set(counts) == {row.id for row in golden}
    assert max(counts.values()) - min(counts.values()) <= 2
    assert [row.id for row in asked[0]] != sorted(row.id for row in asked[0]) or len(asked[0]) == 1
    assert sum(map(len, mixed_batches(golden, 1, max_texts=4))) >= 50
