"""validate: runs Great Expectations over the prepared splits; nothing is trained on data that fails."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from potstill.artifacts import MANIFEST, read_json, sha256_file, whole_folder, write_json, write_manifest
from potstill.config.base import SPLITS
from potstill.config.validate_params import Validate
from potstill.data.validation.expectations import (
    Verdict,
    build_suites,
    label_names,
    run_suites,
    target_numbers,
    text_lengths,
)
from potstill.data.validation.profiles import build_profile, read_accepted
from potstill.errors import ExpectationError
from potstill.paths import FAILED_VALIDATION
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    """Check all expectations; write the out if they pass, else only the Data Docs, to `FAILED_VALIDATION`."""
    prepared = stage.deps["prepared"]
    accepted = read_accepted(stage.deps["accepted"])
    label_info = read_json(prepared / "labels.json")
    labels = [str(label) for label in label_info["labels"]]
    task = label_info["task"]
    splits = {split: pq.read_table(prepared / f"{split}.parquet").to_pandas() for split in SPLITS}
    suites = build_suites(splits, labels, stage.params(Validate), accepted, task)
    profile = build_profile(text_lengths(splits), label_names(splits, labels, task), target_numbers(splits, task))
    shutil.rmtree(FAILED_VALIDATION, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="potstill-") as scratch:
        docs = Path(scratch) / "docs"
        verdict = run_suites(suites, docs, run_name=sha256_file(prepared / MANIFEST)[:16])
        with whole_folder(FAILED_VALIDATION if verdict.failures else stage.outs["validation"]) as folder:
            shutil.copytree(docs, folder / "docs")
            write_json(folder / "result.json", verdict.result)
            write_json(folder / "profile.json", profile)
            write_manifest(folder, {"prepared": sha256_file(prepared / MANIFEST), "compared": bool(accepted)})
    if verdict.failures:
        raise ExpectationError(_failure(verdict))
    comparison = "compared with the last accepted data"
    if not accepted:
        comparison = "change was not checked, as no data has been accepted yet (`potstill accept` accepts this)"
    return Result(
        summary=f"{verdict.result['expectations']} expectations hold; {comparison}",
        metrics={"expectations": float(verdict.result["expectations"])},
    )


def _failure(verdict: Verdict) -> str:
    """Name all failures in one line, so that a user can correct them all before the next run."""
    count = len(verdict.failures)
    head = f"{count} expectations failed: " if count > 1 else ""
    return f"{head}{'; '.join(verdict.failures)}; see {FAILED_VALIDATION / 'docs' / 'index.html'}"


if __name__ == "__main__":
    main(run)
