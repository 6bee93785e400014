"""Stage validate: Great Expectations over the prepared splits; nothing is trained on data that fails."""

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
from potstill.data.validation.profiles import build_profile
from potstill.errors import ExpectationError
from tasks.stage import WORK, Result, Stage, main

# Data Docs of data that failed; the outs do not appear then.
FAILED = WORK / "validation-failed"


def run(stage: Stage) -> Result:
    """Ask all expectations; write the outs if they pass, else the docs to `FAILED`."""
    prepared, out = stage.deps["prepared"], stage.outs["validation"]
    accepted = read_json(stage.deps["accepted"])
    about = read_json(prepared / "labels.json")
    labels, task = [str(label) for label in about["labels"]], about["task"]
    splits = {split: pq.read_table(prepared / f"{split}.parquet").to_pandas() for split in SPLITS}
    suites = build_suites(splits, labels, stage.params(Validate), accepted, task)
    profile = build_profile(text_lengths(splits), label_names(splits, labels, task), target_numbers(splits, task))
    shutil.rmtree(FAILED, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="potstill-") as scratch:
        docs = Path(scratch) / "docs"
        verdict = run_suites(suites, docs, run_name=sha256_file(prepared / MANIFEST)[:16])
        with whole_folder(FAILED if verdict.failures else out) as folder:
            shutil.copytree(docs, folder / "docs")
            write_json(folder / "result.json", verdict.result)
            write_json(folder / "profile.json", profile)
            write_manifest(folder, {"prepared": sha256_file(prepared / MANIFEST), "compared": bool(accepted)})
    if verdict.failures:
        raise ExpectationError(_failure(verdict))
    change = "compared with the last accepted data" if accepted else (
        "change was not checked, as no data has been accepted yet (`potstill accept` accepts this)"
    )  # fmt: skip
    return Result(
        summary=f"{verdict.expectations} expectations hold; {change}",
        metrics={"expectations": float(verdict.expectations)},
    )


def _failure(verdict: Verdict) -> str:
    """All failures in one line: each limit that is met alone costs another run."""
    count = len(verdict.failures)
    before = f"{count} expectations failed: " if count > 1 else ""
    return f"{before}{'; '.join(verdict.failures)}; see {FAILED / 'docs' / 'index.html'}"


if __name__ == "__main__":
    main(run)
