"""Toy stage: predictions and numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import trouble

from potstill.artifacts import MANIFEST, sha256_file, whole_folder, write_json, write_manifest
from potstill.evaluation.reference import reference_profile
from potstill.inference.profile import answer_all
from potstill.inference.runtime import Student
from tasks.stage import Result, Stage, main


def run(stage: Stage) -> Result:
    trouble("evaluate")
    path = stage.deps["prepared"] / "test.parquet"
    test = pq.read_table(path).to_pydict()
    student = Student(stage.deps["serving"])
    answers, gold = answer_all(student, test["text"]), np.array(test["label"])
    logits = np.array([answer.logits for answer in answers])
    accuracy = float((logits.argmax(axis=1) == gold).mean())
    profile = reference_profile(student, test["text"], answers, gold, sha256_file(stage.deps["serving"] / MANIFEST))
    with whole_folder(stage.outs["evaluation"]) as folder:
        columns = {"id": test["id"], "label": test["label"], "int8": logits.tolist()}
        pq.write_table(pa.table(columns), folder / "predictions.parquet")
        write_json(folder / "profile.json", profile.model_dump(mode="json"))
        write_manifest(folder)
    model = {
        "accuracy": accuracy, "accuracy_low": accuracy, "accuracy_high": accuracy, "macro_f1": accuracy, "ece": 0.01,
        "parameters": 12, "megabytes": 0.01, "p50_ms": 0.1, "p99_ms": 0.2, "texts_per_second": 900.0,
    }  # fmt: skip
    sums = {
        "test_sha256": sha256_file(path),
        "serving_sha256": sha256_file(stage.deps["serving"] / MANIFEST),
        "evaluation_sha256": sha256_file(stage.outs["evaluation"] / MANIFEST),
    }
    comparison = {"agreement": 1.0, "kl": 0.0, "teacher_ratio": 1.0, "control": {"high": 0.2}, "speedup": 6.0}
    models = {"teacher": model, "int8": model}
    absent = {"quantized_teacher": {"absent": "the toy has none"}}
    numbers = {"shipped": "int8", "rows": len(logits), **sums, **absent, "models": models, "comparison": comparison}
    write_json(stage.outs["metrics"], numbers)
    return Result(f"accuracy {accuracy:.3f}", metrics={"accuracy": accuracy})


if __name__ == "__main__":
    main(run)
