from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from potstill.config.params import Params
from potstill.errors import ChecksumError
from potstill.registry import tracking, versions
from potstill.registry.promotion import Registry
from potstill.registry.versions import CHALLENGER
from tasks.identity import ROOT
from tasks.promote import promote
from tasks.register import data_hashes, settled, settled_sum
from tests.registries import BENTO_TAG, register_candidate


@pytest.mark.slow
def test_a_version_carries_model_evidence_and_lineage(default_params: Params, candidate: Path) -> None:
    version = register_candidate(default_params, candidate)
    assert Registry(candidate, "movie-reviews").get(CHALLENGER) == version
    assert version.bento == BENTO_TAG
    assert "the candidate was scored" in version.tags[versions.GATE]
    assert "learning_rate" in version.tags["potstill.params"]
    assert data_hashes(candidate)["data/serving"] in version.tags["potstill.data"]
    fetched = Registry(candidate, "movie-reviews").fetch(version.version)
    assert (fetched / "model.onnx").read_bytes() == (candidate / "data/serving/model.onnx").read_bytes()
    # Cut off here, the run has what it judged by, and is no failed one.
    assert tracking.end_stale_runs(candidate, "movie-reviews") == [version.run_id]
    run = tracking.client(candidate).get_run(version.run_id)
    assert run.data.tags["potstill.version"] == version.version
    assert run.info.status == "FINISHED"
    assert run.data.metrics["int8.accuracy"] == 1.0
    evidence = {item.path for item in tracking.client(candidate).list_artifacts(version.run_id, "evidence")}
    assert {"evidence/metrics.json", "evidence/gate.json"} <= evidence
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
    answer = model.predict(pandas.DataFrame({"text": ["good film", "bad film"]}))
    assert list(answer["label"]) == ["positive", "negative"]
    assert answer.loc[0, "positive"] > 0.9


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
