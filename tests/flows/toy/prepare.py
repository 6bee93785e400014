"""Toy stage: the test split."""

import pyarrow as pa
import pyarrow.parquet as pq
from common import texts, trouble

from potstill.artifacts import sha256_value, whole_folder, write_manifest
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    trouble("prepare")
    rows = texts(40)
    with whole_folder(stage.outs["prepared"]) as folder:
        columns = {
            "id": [sha256_value(text)[:16] for text, _ in rows],
            "text": [text for text, _ in rows],
            "label": [label for _, label in rows],
        }
        pq.write_table(pa.table(columns), folder / "test.parquet")
        write_manifest(folder)
    return Result("40 rows", metrics={"rows": 40.0})


if __name__ == "__main__":
    main(run)
