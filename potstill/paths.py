"""Where a workspace keeps its files, relative to the folder of params.yaml.

A stage receives the paths of its deps and outs from dvc.yaml. Code outside the stages takes them from here.
"""

from __future__ import annotations

from pathlib import Path

# What a person edits, and DVC's files.
PARAMS = Path("params.yaml")
DVC_FILE = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")

# What the command line writes for DVC to compare.
CODE_FILE = Path("code.yaml")
SOURCES = Path("data/sources.json")
ACCEPTED_PROFILE = Path("data/accepted.json")

# Outs of stages.
RAW = Path("data/raw")
GIVEN = Path("data/given")
PREPARED = Path("data/prepared")
LABELS = PREPARED / "labels.json"
TEST_SPLIT = PREPARED / "test.parquet"
VALIDATION = Path("data/validation")
BASE = Path("data/base")
TOKENS = Path("data/tokens")
DISTILLED = Path("data/distilled")
EXPORT = Path("data/export")
SERVING = Path("data/serving")
EVALUATION = Path("data/evaluation")
PREDICTIONS = EVALUATION / "predictions.parquet"
TEST_PROFILE = EVALUATION / "profile.json"

# What a person reads: the candidate's page before and after the gate's verdict, the drift page, the search.
METRICS = Path("reports/metrics.json")
VERDICT = Path("reports/gate.json")
STUDENT_PAGE = Path("reports/student.html")
REPORT = Path("reports/report.html")
DRIFT = Path("reports/drift.json")
DRIFT_PAGE = Path("reports/drift.html")
FEEDBACK = Path("reports/feedback.json")
SEARCH_REPORT = Path("reports/search")

# Folder of what `potstill export` writes, a folder for each target.
EXPORTS = Path("exports")

# MLflow's store and artifacts, where no tracking server is configured.
STORE = Path("mlflow.db")
ARTIFACTS = Path("mlartifacts")

# What Potstill keeps between processes. Deleting it costs time and nothing else.
WORK = Path(".work")
RUN_LOCK = WORK / "run.lock"
SERVERS = WORK / "servers.json"
SERVERS_LOCK = WORK / "servers.lock"
STAGE_LOCK = WORK / "stage.lock"
REGISTRY_LOCK = WORK / "registry.lock"
COPIES_LOCK = WORK / "copies.lock"
FAILURE = WORK / "failure.json"
SHARED_STAGE = WORK / "shared-stage.json"
LOGS = WORK / "logs"
TIMINGS = WORK / "timings"
RECORDS = WORK / "records"
CHECKPOINTS = WORK / "checkpoints"
STUDIES = WORK / "search"
PRECISION = WORK / "precision.json"
KEPT_LOCK = WORK / "dvc-lock.json"
CODE_CACHE = WORK / "code.json"
FAILED_VALIDATION = WORK / "validation-failed"
BENTO_BUILD = WORK / "bento"
FETCHED_MODELS = WORK / "registry"
PREDICTED = WORK / "predict"
SCRATCH = WORK / "tmp"
