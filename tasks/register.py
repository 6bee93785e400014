"""register: registers a candidate that passed its gates as a version of the project's model in MLflow."""

from __future__ import annotations

import importlib
import json
import time
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.artifacts import (
    MANIFEST,
    canonical_json,
    lineage_sum,
    read_json,
    read_json_if_present,
    sha256_file,
    sha256_value,
    verify,
    write_text,
)
from potstill.config.params import Params
from potstill.evaluation.naming import candidate_of
from potstill.evaluation.pages.decision_page import with_bento
from potstill.kinds.definitions.kind import Form
from potstill.kinds.definitions.task_kinds import CARD_NAMES, KINDS
from potstill.paths import (
    DVC_LOCK,
    GIVEN,
    METRICS,
    PREDICTIONS,
    PREPARED,
    RAW,
    REPORT,
    SERVING,
    STUDENT_PAGE,
    TOKENS,
    VERDICT,
)
from potstill.registry import tracking, versions
from potstill.registry.bill_of_materials import render_bom
from potstill.registry.model_card import Lineage, render_card, render_description
from potstill.registry.promotion import Registry
from potstill.registry.pyfunc import ABSTAIN_BELOW, THREADS
from potstill.registry.scratch_folders import scratch_folder
from potstill.registry.signatures import MODEL_SIGNATURE, sign_files, signer_sum
from potstill.registry.steps import refuse_vetoed
from potstill.registry.version_artifacts import EVIDENCE_FOLDER, pack_bento, pack_evidence
from potstill.registry.versions import Version, candidate_sum
from potstill.serving.core import write_core
from potstill.serving.release import SETTINGS, served_threshold
from tasks.package import BENTOFILE, included_files
from tasks.run_facts import data_hashes, teacher_origin

if TYPE_CHECKING:
    from potstill.evaluation.gates import Verdict
    from tasks.package import Packaged

# Files that are kept with the pipeline's run, which has params.yaml and dvc.lock already.
EVIDENCE = (METRICS, VERDICT, REPORT)
# Files that are kept with the version: what `potstill review` compares and `potstill trace` verifies.
KEPT = (*EVIDENCE, PREDICTIONS, SERVING / "model.json", DVC_LOCK)
# The bill of materials among them, and its signature.
BOM = "ml-bom.json"
BOM_SIGNATURE = "ml-bom.sig"
# Not a text of the data: whoever reads the registry need not be allowed to read the data.
EXAMPLE_TEXT = "A text to answer."
# Sections that decide about a student, which become params of the model in MLflow.
MODEL_SECTIONS = ("project", "tokenize", "teacher", "distill", "finetune", "export")
# The longest value that MLflow takes of such a param.
PARAM_CHARACTERS = 500
# Packages that a registered model needs to answer. Potstill is not among them: its code travels with the model.
MODEL_REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "pandas", "pydantic", "pyyaml", "tokenizers")
DATASETS = (RAW.as_posix(), PREPARED.as_posix(), TOKENS.as_posix())


def settled_sum(params: Params, workspace: Path) -> str:
    """Hash all that the verdict and the Bento depend on: the same sum means the same outcome."""
    serving = workspace / SERVING
    files = {name: path for _, included in included_files(workspace) for name, path in included.items()}
    return sha256_value(
        {
            "candidate": candidate_sum(serving),  # covers the files of the serving folder
            "metrics": sha256_file(workspace / METRICS),
            "bentofile": sha256_file(workspace / BENTOFILE),
            "packed": {name: sha256_file(path) for name, path in files.items() if not path.is_relative_to(serving)},
            "signer": signer_sum(params.sign, workspace),
            **{name: params.section(name).model_dump(mode="json") for name in ("gate", "serve", "smoke", "watch")},
        }
    )


def settled(params: Params, workspace: Path, champion: Version | None) -> Version | None:
    """Return the version as which this candidate was registered, judged and packaged under the same params.

    Args:
        params: the whole of params.yaml.
        workspace: the workspace.
        champion: the current champion; a verdict against another one does not count.

    Raises:
        RegistryError: the candidate was vetoed.
    """
    registry = Registry(workspace, params.project.name)
    version = registry.by_candidate(candidate_sum(workspace / SERVING))
    if version is None:
        return None
    history = registry.history()
    refuse_vetoed(version, params.project.name, history)
    facts = history.registered.get(version.version, {})
    judged = version == champion or facts.get("against") == champion_tag(champion)
    same_params = facts.get("settled") == settled_sum(params, workspace)
    return version if judged and same_params and facts.get("seal") and _verdict_is_current(workspace) else None


def held_back(params: Params, workspace: Path) -> str | None:
    """Return why the candidate in `data/serving` is not promoted, if a person has taken it back; else None."""
    return Registry(workspace, params.project.name).held_back(candidate_sum(workspace / SERVING))


def _verdict_is_current(workspace: Path) -> bool:
    """Whether `reports/gate.json` is about the candidate in `data/serving`, and not about an earlier one."""
    verdict = workspace / VERDICT
    if (workspace / STUDENT_PAGE).exists() and not (workspace / REPORT).exists():
        return False  # the gate has yet to write the report
    return verdict.exists() and read_json(verdict).get("serving_sha256") == candidate_sum(workspace / SERVING)


def champion_tag(champion: Version | None) -> str:
    """Return how a version's tag names the champion that its gate compared it with."""
    return champion.version if champion else "none"


def register(
    params: Params, workspace: Path, verdict: Verdict, packaged: Packaged, run_id: str, champion: Version | None
) -> Version:
    """Register the candidate in `data/serving` as `challenger`; one that is registered already is not registered twice.

    The run's evidence is logged first, so that no version is without it, whenever a run is cut off.

    Args:
        params: the whole of params.yaml.
        workspace: the workspace.
        verdict: the gate's verdict, which is kept with the version as evidence.
        packaged: the candidate's Bento.
        run_id: the pipeline's MLflow run.
        champion: the champion that the gate compared it with.

    Raises:
        ChecksumError: the serving folder is not what its manifest says.
        SignatureError: the key that signs cannot be used.
        RegistryError: the candidate was vetoed.
        BusyError: another process is changing the registry.
    """
    verify(workspace / SERVING)
    report = workspace / REPORT
    if report.exists():
        write_text(report, with_bento(report.read_text(encoding="utf-8"), packaged.tag))
    log_evidence(workspace, run_id)
    tags = {
        versions.BENTO: packaged.tag,
        versions.GATE: json.dumps(verdict.to_json(), allow_nan=False),
        versions.AGAINST: champion_tag(champion),
        versions.SETTLED: settled_sum(params, workspace),
        versions.PARAMS: canonical_json(params.model_dump(mode="json", by_alias=True)),
        versions.DATA: canonical_json(data_hashes(workspace)),
        **tracking.git_tags(workspace),
    }
    facts = _lineage(params, workspace, tags, champion)
    judged = {**read_json_if_present(workspace / VERDICT), **verdict.to_json()}
    metrics = read_json(workspace / METRICS)
    with scratch_folder(workspace) as scratch:
        model = scratch / "model"
        extras = scratch / "extras"
        evidence = scratch / "evidence"
        threshold = served_threshold(workspace, params.serve, candidate_sum(workspace / SERVING))
        _save_model(workspace / SERVING, model, threshold)
        card = render_card(metrics, judged, facts)
        files = {path.name: workspace / path for path in KEPT} | _materials(params, workspace, facts, metrics, scratch)
        tags[versions.EVIDENCE] = pack_evidence(files, card, evidence)
        tags |= _lineage_tag(workspace / SERVING, packaged)
        version = Registry(workspace, params.project.name).register(
            candidate=candidate_sum(workspace / SERVING),
            model=model,
            extras=extras,
            seal=pack_bento(packaged.path, extras),
            experiment=tracking.experiment_id(workspace, params.project.name),
            run_id=run_id,
            tags=tags,
            description=render_description(metrics, judged, facts),
            evidence=evidence,
            params=_flat(params),
            metrics=_model_numbers(metrics),
        )
    tracking.client(workspace).set_tag(run_id, "potstill.version", version.version)
    return version


def _materials(
    params: Params, workspace: Path, facts: Lineage, metrics: Mapping[str, Any], folder: Path
) -> dict[str, Path]:
    """Write the bill of materials and, where a key is configured, the signatures of model and bill; name -> file."""
    from tasks.stage import default_file

    serving = workspace / SERVING
    lock = default_file("requirements.lock").read_text(encoding="utf-8")
    write_text(folder / BOM, render_bom(facts, read_json(serving / MANIFEST)["files"], metrics, lock))
    names = [BOM]
    if params.sign.private_key is not None:
        sign_files(serving, folder / MODEL_SIGNATURE, params.sign, workspace)
        sign_files(folder / BOM, folder / BOM_SIGNATURE, params.sign, workspace)
        names += [MODEL_SIGNATURE, BOM_SIGNATURE]
    return {name: folder / name for name in names}


def _lineage(params: Params, workspace: Path, tags: Mapping[str, str], champion: Version | None) -> Lineage:
    from tasks.stage import default_file

    card = read_json(workspace / SERVING / "model.json")
    dirty = tags.get("potstill.git_dirty")
    return Lineage(
        project=params.project.name,
        candidate=candidate_sum(workspace / SERVING),
        bento=tags[versions.BENTO],
        commit=tags.get(tracking.COMMIT),
        is_clean=None if dirty is None else dirty == "false",
        lock_sha256=sha256_file(default_file("requirements.lock")),
        data=data_hashes(workspace),
        teacher=teacher_origin(params.ingest.teacher, workspace / GIVEN),
        labels=card["labels"] if KINDS[CARD_NAMES[card["task"]]].has_classes else (),
        max_length=card["max_length"],
        champion=champion.version if champion else None,
        abstains=params.serve.abstain,
        signer=signer_sum(params.sign, workspace),
    )


def _lineage_tag(serving: Path, packaged: Packaged) -> dict[str, str]:
    """Return the tag with the sum that the Bento's answers have in their header; empty without its settings."""
    settings = read_json_if_present(packaged.path / "src" / SETTINGS)
    if not settings:
        return {}
    files = read_json(serving / MANIFEST)["files"]
    return {versions.LINEAGE: lineage_sum(candidate_sum(serving), files, settings.get("git_commit"))}


def _flat(params: Params) -> dict[str, str]:
    """Return `section.key` -> value of the params that decide about a student, for MLflow's page of the model."""
    dumped: dict[str, dict[str, Any]] = params.model_dump(mode="json", by_alias=True)
    flat = {f"{name}.{key}": value for name in MODEL_SECTIONS for key, value in dumped[name].items()}
    return {key: str(value)[:PARAM_CHARACTERS] for key, value in flat.items()}


def _model_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Select the numbers of the model that ships."""
    return _numbers(metrics["models"].get(candidate_of(metrics), {}))


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Flatten the numbers of nested mappings, as `control.low`."""
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers[f"{prefix}{name}"] = float(value)
    return numbers


def _save_model(serving: Path, target: Path, abstain_below: float | None) -> None:
    """Save the serving folder in MLflow's model format, with its code, so that Potstill need not be installed.

    `mlflow.pyfunc.load_model("models:/<project>@champion")` loads it.

    Args:
        serving: the serving folder.
        target: the folder to write.
        abstain_below: the confidence below which the model abstains; None: it never does.
    """
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    card: dict[str, Any] = read_json(serving / "model.json")
    columns = ["text", "text_pair"] if card["pair"] else ["text"]
    code = target.parent / "code"
    with warnings.catch_warnings():
        # MLflow warns of its own type hints at import.
        warnings.simplefilter("ignore")
        loader = write_core(code, "potstill.registry.pyfunc")
        pyfunc = importlib.import_module("mlflow.pyfunc")
        pyfunc.save_model(
            path=str(target),
            loader_module=loader,
            code_paths=[str(code / loader.partition(".")[0])],
            data_path=str(serving),
            signature=ModelSignature(
                inputs=Schema([ColSpec(DataType.string, column) for column in columns]),
                outputs=Schema(_output_columns(card, abstains=abstain_below is not None)),
            ),
            # A key without a value too, since only keys that are saved can be changed by who loads the model.
            model_config={ABSTAIN_BELOW: abstain_below, THREADS: 0},
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in MODEL_REQUIREMENTS],
            input_example=pandas.DataFrame({column: [EXAMPLE_TEXT] for column in columns}),
            metadata={"manifest": sha256_file(serving / MANIFEST), "variant": card["variant"]},
        )


def _output_columns(card: dict[str, Any], *, abstains: bool) -> list[Any]:
    """Return the columns of the model's answers, as `potstill.registry.pyfunc` makes them."""
    from mlflow.types import ColSpec, DataType

    return [*_answer_columns(card), *([ColSpec(DataType.boolean, "abstained")] if abstains else [])]


def _answer_columns(card: dict[str, Any]) -> list[Any]:
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import Array

    form = KINDS[CARD_NAMES[card["task"]]].form
    if form == "number":
        return [ColSpec(DataType.double, "score")]
    if form in ("entities", "span"):
        return _span_columns(form)
    label_column = ColSpec(Array(DataType.string), "labels") if form == "labels" else ColSpec(DataType.string, "label")
    return [label_column, *(ColSpec(DataType.double, str(label)) for label in card["labels"])]


def _span_columns(form: Form) -> list[Any]:
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import Array, Object, Property

    span = {"start": DataType.long, "end": DataType.long}
    if form == "span":
        kinds = {"answer": DataType.string, **span, "score": DataType.double}
        return [ColSpec(kind, name, required=name != "answer") for name, kind in kinds.items()]
    kinds = {"type": DataType.string, **span, "text": DataType.string, "score": DataType.double}
    return [ColSpec(Array(Object([Property(name, kind) for name, kind in kinds.items()])), "entities")]


def log_evidence(workspace: Path, run_id: str) -> None:
    """Log the numbers, the dataset inputs with their DVC hashes, and the reports to a pipeline's run."""
    from mlflow.entities import Metric

    store = tracking.client(workspace)
    metrics = read_json(workspace / METRICS)
    test_uses = read_json_if_present(workspace / VERDICT).get("test_uses")
    numbers = _numbers({**metrics["models"], "comparison": metrics["comparison"], "test_uses": test_uses})
    now = round(1000 * time.time())
    store.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in numbers.items()])
    hashes = data_hashes(workspace)
    datasets: dict[str, dict[str, Any]] = {
        path: {"digest": hashes[path], "source": path} for path in DATASETS if path in hashes
    }
    tracking.log_datasets(workspace, run_id, datasets, context="pipeline")
    for path in EVIDENCE:
        if (workspace / path).exists():
            store.log_artifact(run_id, str(workspace / path), EVIDENCE_FOLDER)
