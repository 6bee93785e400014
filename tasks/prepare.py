"""prepare: writes clean, deduplicated splits of the raw tables to `data/prepared`."""

from __future__ import annotations

from functools import partial

import pyarrow.parquet as pq

from potstill.artifacts import sha256_file, whole_folder, write_json, write_manifest
from potstill.config.base import GENERATOR
from potstill.config.prepare_params import Prepare
from potstill.data.preparation import Replace, prepare
from potstill.data.reading import reading_notes
from potstill.progress import say
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Prepare and write the splits, their labels and the report."""
    out = stage.outs["prepared"]
    params = stage.params(Prepare)
    task = params.task
    replace: Replace | None = None
    if params.augment is not None and params.augment.replacements:
        from potstill.models.word_replacement import replace_words

        # The model is the one that `ingest` fetched.
        replace = partial(replace_words, folder=stage.deps["raw"] / GENERATOR, device=stage.project.device)
    prepared = prepare(stage.deps["raw"], params, replace=replace)
    with whole_folder(out) as folder:
        for split in prepared.splits:
            pq.write_table(prepared.table(split), folder / f"{split}.parquet", compression="zstd")
        write_json(folder / "labels.json", {"task": task, "labels": prepared.labels, "pair": prepared.pair})
        write_json(folder / "report.json", prepared.report)
        rows = {split: len(group) for split, group in prepared.splits.items()}
        write_manifest(folder, {"rows": rows})
    for note in reading_notes(prepared.report):
        say(f"prepare: {note}")
    if unlabelled := prepared.report.get("labels_left_out", 0):
        say(f"prepare: {unlabelled:,} rows of train joined transfer without their label (prepare.labelled_rows)")
    removed = sum(prepared.report["removed"].values())
    augmented = prepared.report.get("augmented", {"rows": 0})["rows"]
    split_rows = ", ".join(f"{split} {count:,}" for split, count in rows.items())
    return Result(
        summary=f"{prepared.report['read']:,} rows read, {removed:,} removed, "
        f"{augmented:,} made of train for transfer; {split_rows}",
        metrics={f"rows_{split}": float(count) for split, count in rows.items()} | {"rows_removed": float(removed)},
        datasets={
            split: {
                "digest": sha256_file(out / f"{split}.parquet")[:32],
                "source": (out / f"{split}.parquet").as_posix(),
                "rows": count,
            }
            for split, count in rows.items()
        },
    )


if __name__ == "__main__":
    main(run)
