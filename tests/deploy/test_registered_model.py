"""The registered model in an environment with its own requirements and nothing else: no Potstill is installed there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from potstill.compute.processes import free_port, start, stop
from potstill.inference.runtime import Student
from potstill.registry import tracking
from potstill.registry.promotion import Registry
from potstill.serving.core import write_core
from tasks.register import _save_model
from tests.conftest import REPOSITORY
from tests.deploy.conftest import TEXTS, Built
from tests.registries import PROJECT, new_store, register_bento

CLUSTERS = ("pyspark==4.3.0", "ray[data]==2.60.0")
LOAD = """
import importlib.util, json, sys
import mlflow, pandas
assert importlib.util.find_spec("potstill") is None
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
print(model.predict(pandas.DataFrame({"text": json.loads(sys.argv[3])})).to_json(orient="records", double_precision=15))
"""


@pytest.fixture(scope="module")
def registered(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the Bento's model in its registry, as version 1."""
    folder = new_store(tmp_path_factory.mktemp("registered") / "workspace")
    model = folder / "model"
    _save_model(built.packaged.path / "src/data/serving", model, None)
    register_bento(Registry(folder, PROJECT), built.packaged.path, model, built.packaged.tag)
    return folder


@pytest.fixture(scope="module")
def environment(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with what the model itself asks for."""
    folder = tmp_path_factory.mktemp("model") / "venv"
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    uv, requirements = str(Path(sys.executable).parent / "uv"), str(registered / "model/requirements.txt")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder)], env=variables, check=True)
    # The model asks for neither Spark nor Ray; its tests do. Spark is no dependency of ours: next to pandas 3,
    # `import great_expectations` ends the process where pyspark 4.3 is installed.
    command = [uv, "pip", "install", "-q", "--python", str(folder / "bin/python"), "-r", requirements, *CLUSTERS]
    subprocess.run([*command, "-c", str(REPOSITORY / "requirements.lock")], env=variables, check=True)
    return folder


@pytest.fixture(scope="module")
def expected(built: Built) -> list[list[float]]:
    """The probabilities that the service gives."""
    found = Student(built.packaged.path / "src/data/serving", 1).predict(TEXTS)
    return [prediction.probabilities for prediction in found]


def probabilities(rows: list[dict[str, float]]) -> list[float]:
    """All probabilities, text after text."""
    return [row[label] for row in rows for label in ("negative", "positive")]


def flat(expected: list[list[float]]) -> list[float]:
    return [value for row in expected for value in row]


def variables(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}


def test_mlflow_loads_it_where_potstill_is_not_installed(
    registered: Path, environment: Path, expected: list[list[float]], tmp_path: Path
) -> None:
    arguments = [tracking.tracking_uri(registered), f"models:/{PROJECT}@challenger", json.dumps(TEXTS)]
    done = subprocess.run(
        [str(environment / "bin/python"), "-c", LOAD, *arguments],
        cwd=tmp_path, env=variables(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert probabilities(json.loads(done.stdout)) == pytest.approx(flat(expected), abs=1e-5)


def test_mlflow_models_serve_answers_as_the_service(
    registered: Path, environment: Path, expected: list[list[float]], tmp_path: Path
) -> None:
    port = free_port()
    command = [str(environment / "bin/mlflow"), "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", str(registered / "model"), "--port", str(port)]
    path = {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    with (tmp_path / "log.txt").open("wb") as log:
        server = start(command, environment=variables(tmp_path) | path, cwd=tmp_path, stdout=log, stderr=log)
        try:
            answer = ask(f"http://127.0.0.1:{port}/invocations", {"dataframe_records": [{"text": t} for t in TEXTS]})
        finally:
            stop(server)
    assert probabilities(answer["predictions"]) == pytest.approx(flat(expected), abs=1e-5)


def test_mlflow_models_predict_answers_a_file(
    registered: Path, environment: Path, expected: list[list[float]], tmp_path: Path
) -> None:
    texts, answers = tmp_path / "texts.json", tmp_path / "answers.json"
    texts.write_text(json.dumps({"dataframe_records": [{"text": text} for text in TEXTS]}), encoding="utf-8")
    command = [str(environment / "bin/mlflow"), "models", "predict", "--env-manager", "local"]
    command += ["--model-uri", f"models:/{PROJECT}@challenger", "--input-path", str(texts)]
    store = {"MLFLOW_TRACKING_URI": tracking.tracking_uri(registered)}
    done = subprocess.run(
        [*command, "--output-path", str(answers)],
        cwd=tmp_path, env=variables(tmp_path) | store, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(answers.read_text(encoding="utf-8"))["predictions"]
    assert probabilities(rows) == pytest.approx(flat(expected), abs=1e-5)


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java here")
def test_it_answers_under_spark(
    registered: Path, environment: Path, expected: list[list[float]], tmp_path: Path
) -> None:
    rows = score_files("spark", registered, environment, tmp_path)
    assert probabilities([row["answer"] for row in rows]) == pytest.approx(flat(expected), abs=1e-5)


def test_it_answers_under_ray_data(
    registered: Path, environment: Path, expected: list[list[float]], tmp_path: Path
) -> None:
    rows = score_files("ray", registered, environment, tmp_path)
    answers = [{name.removeprefix("model_"): value for name, value in row.items()} for row in rows]
    assert probabilities(answers) == pytest.approx(flat(expected), abs=1e-5)


def score_files(example: str, registered: Path, environment: Path, folder: Path) -> list[dict[str, Any]]:
    """The rows that `examples/<example>/<example>_answers.py` answers, in the order of the texts."""
    pq.write_table(pa.table({"id": range(len(TEXTS)), "review": TEXTS}), folder / "in.parquet")
    model = f"models:/{PROJECT}/1"
    python = str(environment / "bin/python")
    script = str(REPOSITORY / f"examples/{example}/{example}_answers.py")
    local = {"PYSPARK_PYTHON": python, "SPARK_LOCAL_IP": "127.0.0.1", "RAY_USAGE_STATS_ENABLED": "0"}
    # Where its home does not say what machine this is, Ray asks the clouds' metadata servers, its reports on or off.
    (folder / "ray_bootstrap_config.yaml").write_text("provider: {type: local}\n", encoding="utf-8")
    done = subprocess.run(
        [python, script, model, "in.parquet", "out", "--text", "review"],
        cwd=folder, env=variables(folder) | local | {"MLFLOW_TRACKING_URI": tracking.tracking_uri(registered)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = pq.read_table(folder / "out").to_pylist()
    assert {row["model_version"] for row in rows} == {model}
    return sorted(rows, key=lambda row: row["id"])


def ask(url: str, body: object) -> dict[str, list[dict[str, float]]]:
    """Post to a server as soon as it listens."""
    end = time.monotonic() + 120
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                found: dict[str, list[dict[str, float]]] = json.load(answer)
                return found
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < end
            time.sleep(0.2)


def test_the_travelling_code_takes_nobodys_place(tmp_path: Path) -> None:
    module = write_core(tmp_path, "potstill.registry.pyfunc")
    package = module.partition(".")[0]
    assert package.startswith("potstill_")
    assert write_core(tmp_path / "again", "potstill.registry.pyfunc") == module
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import {module}, potstill.errors, {package}.errors
assert {package}.errors.__file__.startswith({str(tmp_path)!r})
assert not any(name.partition(".")[0] == "potstill" and "runtime" in name for name in sys.modules)
import {package}.inference.runtime
assert "potstill.inference.runtime" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
