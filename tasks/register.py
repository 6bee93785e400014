"""Register a candidate that passed its gates as a version of the project's model in MLflow."""

from __future__ import annotations

import importlib
import json
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from potstill.artifacts import MANIFEST, canonical_json, read_json, sha256_file, sha256_value, verify
from potstill.config.params import Params
from potstill.registry import tracking, versions
from potstill.registry.promotion import Registry
from potstill.registry.steps import refuse_vetoed
from potstill.registry.version_artifacts import pack_bento, scratch_folder
from potstill.registry.versions import Version, candidate_sum
from potstill.serving.core import write_core
from tasks.gate import PAGE, REPORT
from tasks.package import BENTOFILE, included

if TYPE_CHECKING:
    from potstill.evaluation.gates import Verdict
    from tasks.package import Packaged

SERVING = Path("data/serving")
METRICS = Path("reports/metrics.json")
GATE = Path("reports/gate.json")
# Kept with the pipeline's run; params.yaml and dvc.lock are there already.
EVIDENCE = (METRICS, GATE, REPORT)
# What a registered model needs to answer, Potstill not among it: the code travels with it.
MODEL_REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "pandas", "pydantic", "pyyaml", "tokenizers")
DATASETS = ("data/raw", "data/prepared", "data/tokens")


def settled_sum(params: Params, workspace: Path) -> str:
    """Everything that decided about the candidate and went into its Bento: the same sum, the same outcome."""
    packed = {name: path for _, files in included(workspace) for name, path in files.items()}
    return sha256_value(
        {
            "candidate": candidate_sum(workspace / SERVING),  # stands for the files of the model
            "metrics": sha256_file(workspace / METRICS),
            "bentofile": sha256_file(workspace / BENTOFILE),
            "packed": {
                name: sha256_file(path) for name, path in packed.items() if not path.is_relative_to(workspace / SERVING)
            },
            **{name: params.section(name).model_dump(mode="json") for name in ("gate", "serve", "smoke", "watch")},
        }
    )


def settled(params: Params, workspace: Path, champion: Version | None) -> Version | None:
    """The version in which this very candidate is registered, judged and packaged under the same parameters.

    Args:
        params: the whole of params.yaml.
        workspace: the workspace.
        champion: the current one; a verdict against another champion does not count.

    Raises:
        RegistryError: the candidate was vetoed.
    """
    registry = Registry(workspace, params.project.name)
    known = registry.by_candidate(candidate_sum(workspace / SERVING))
    if known is None:
        return None
    history = registry.history()
    refuse_vetoed(known, params.project.name, history)
    facts = history.registered.get(known.version, {})
    judged = known == champion or facts.get("against") == against(champion)
    same = facts.get("settled") == settled_sum(params, workspace)
    return known if judged and same and facts.get("seal") and _verdict_is_of_candidate(workspace) else None


def held_back(params: Params, workspace: Path) -> str | None:
    """Why the candidate in `data/serving` is not promoted although it passed: a person took it back. Else None."""
    return Registry(workspace, params.project.name).held_back(candidate_sum(workspace / SERVING))


def _verdict_is_of_candidate(workspace: Path) -> bool:
    """Whether `reports/gate.json` is about what is in `data/serving`, and not about a candidate in between."""
    gate = workspace / GATE
    if (workspace / PAGE).exists() and not (workspace / REPORT).exists():
        return False  # the gate writes the report
    return gate.exists() and read_json(gate).get("serving_sha256") == candidate_sum(workspace / SERVING)


def against(champion: Version | None) -> str:
    """How a version's tag names the champion its gate compared it with."""
    return champion.version if champion else "none"


def register(
    params: Params, workspace: Path, verdict: Verdict, packaged: Packaged, run_id: str, champion: Version | None
) -> Version:
    """Register the candidate in `data/serving` as `challenger`; one that is registered already is not registered twice.

    The run's evidence is logged first: no version is without it, whenever a run is cut off.

    Args:
        params: the whole of params.yaml.
        workspace: the workspace.
        verdict: of the gate; kept with the version as evidence.
        packaged: the candidate's Bento.
        run_id: the pipeline's MLflow run.
        champion: the one its gate compared it with.

    Raises:
        ChecksumError: the serving folder is not what its manifest says.
        RegistryError: the candidate was vetoed.
        BusyError: another process is changing the registry.
    """
    verify(workspace / SERVING)
    log_evidence(workspace, run_id)
    with scratch_folder(workspace) as scratch:
        model, extras = scratch / "model", scratch / "extras"
        _save_model(workspace / SERVING, model)
        version = Registry(workspace, params.project.name).register(
            candidate=candidate_sum(workspace / SERVING),
            model=model,
            extras=extras,
            seal=pack_bento(packaged.path, extras),
            experiment=tracking.experiment_id(workspace, params.project.name),
            run_id=run_id,
            tags={
                versions.BENTO: packaged.tag,
                versions.GATE: json.dumps(verdict.to_json(), allow_nan=False),
                versions.AGAINST: against(champion),
                versions.SETTLED: settled_sum(params, workspace),
                "potstill.params": canonical_json(params.model_dump(mode="json", by_alias=True)),
                "potstill.data": canonical_json(data_hashes(workspace)),
                **tracking.git_tags(workspace),
            },
            description=f"{verdict.sentence}. Bento: {packaged.tag}",
        )
    tracking.client(workspace).set_tag(run_id, "potstill.version", version.version)
    return version


def data_hashes(workspace: Path) -> dict[str, str]:
    """Out -> its DVC hash, as dvc.lock records it: names the data version of an uncommitted tree too."""
    lock = yaml.safe_load((workspace / "dvc.lock").read_text(encoding="utf-8"))
    outs = (out for stage in lock["stages"].values() for out in stage.get("outs", []))
    return {out["path"]: out[out.get("hash", "md5")] for out in outs}


def _save_model(serving: Path, target: Path) -> None:
    """The serving folder in MLflow's model format, with the code that answers: Potstill need not be installed.

    `mlflow.pyfunc.load_model("models:/<project>@champion")` answers.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    about: dict[str, Any] = read_json(serving / "model.json")
    columns = ["text", "text_pair"] if about["pair"] else ["text"]
    answers = _columns_of_answers(about)
    code = target.parent / "code"
    with warnings.catch_warnings():
        # It warns of type hints of its own at import, and of a missing example for a signature that is given.
        warnings.simplefilter("ignore")
        loader = write_core(code, "potstill.registry.pyfunc")
        pyfunc = importlib.import_module("mlflow.pyfunc")
        pyfunc.save_model(
            path=str(target),
            loader_module=loader,
            code_paths=[str(code / loader.partition(".")[0])],
            data_path=str(serving),
            signature=ModelSignature(
                inputs=Schema([ColSpec(DataType.string, column) for column in columns]), outputs=Schema(answers)
            ),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in MODEL_REQUIREMENTS],
            metadata={"manifest": sha256_file(serving / MANIFEST), "variant": about["variant"]},
        )


def _columns_of_answers(card: dict[str, Any]) -> list[Any]:
    """What the model answers, as `potstill.registry.pyfunc` makes it."""
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import Array

    if card["task"] == "regression":
        return [ColSpec(DataType.double, "score")]
    if card["task"] in ("token_classification", "question_answering"):
        return _columns_of_places(card["task"])
    several = card["task"] == "multi_label"
    first = ColSpec(Array(DataType.string), "labels") if several else ColSpec(DataType.string, "label")
    return [first, *(ColSpec(DataType.double, str(label)) for label in card["labels"])]


def _columns_of_places(task: str) -> list[Any]:
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import Array, Object, Property

    place = {"start": DataType.long, "end": DataType.long}
    if task == "question_answering":
        kinds = {"answer": DataType.string, **place, "score": DataType.double}
        return [ColSpec(kind, name, required=name != "answer") for name, kind in kinds.items()]
    kinds = {"type": DataType.string, **place, "text": DataType.string, "score": DataType.double}
    return [ColSpec(Array(Object([Property(name, kind) for name, kind in kinds.items()])), "entities")]


def log_evidence(workspace: Path, run_id: str) -> None:
    """Give a pipeline's run the numbers, the dataset inputs with their DVC hashes, and the reports."""
    from mlflow.entities import Metric

    store = tracking.client(workspace)
    metrics = read_json(workspace / METRICS)
    numbers = {
        f"{model}.{name}": float(value)
        for model, values in {**metrics["models"], "comparison": metrics["comparison"]}.items()
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    now = round(1000 * time.time())
    store.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in numbers.items()])
    hashes = data_hashes(workspace)
    used: dict[str, dict[str, Any]] = {
        path: {"digest": hashes[path], "source": path} for path in DATASETS if path in hashes
    }
    tracking.log_datasets(workspace, run_id, used, context="pipeline")
    for path in EVIDENCE:
        if (workspace / path).exists():
            store.log_artifact(run_id, str(workspace / path), "evidence")
