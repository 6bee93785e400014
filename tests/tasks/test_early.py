from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from potstill.artifacts import write_json
from potstill.config.params import Params
from potstill.config.promotion_params import Sign
from potstill.config.tokenize_params import Vocabulary
from potstill.errors import ModelError, ParamsError, SignatureError, ToolError
from tasks.early import check_early

CONFIG: dict[str, Any] = {
    "model_type": "bert", "vocab_size": 250_037, "hidden_size": 384, "intermediate_size": 1536,
    "num_hidden_layers": 12, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip
INGESTED = ("ingest", "prepare", "validate", "pretrain")


def test_a_file_over_the_limit_is_refused_once_the_teacher_is_there(default_params: Params, tmp_path: Path) -> None:
    check_early(default_params, tmp_path)
    write_json(tmp_path / "data/given/config.json", CONFIG)
    check_early(default_params, tmp_path)  # of an earlier run, as far as anyone knows
    with pytest.raises(ParamsError, match=r"over gate\.max_file_mb = 20"):
        check_early(default_params, tmp_path, ("ingest",))


def test_a_local_teacher_is_looked_at_before_anything_runs(default_params: Params, tmp_path: Path) -> None:
    write_json(tmp_path / "teacher/config.json", CONFIG)
    source = {"kind": "file", "path": str(tmp_path / "teacher")}
    ingest = default_params.ingest.model_validate(default_params.ingest.model_dump() | {"teacher": source})
    with pytest.raises(ParamsError, match="250,037 token embeddings"):
        check_early(default_params.model_copy(update={"ingest": ingest}), tmp_path)


def test_a_key_that_cannot_sign_is_refused_before_anything_runs(default_params: Params, tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match=r"sign\.private_key .*gone\.pem\) cannot be used"):
        check_early(default_params.model_copy(update={"sign": Sign(private_key="gone.pem")}), tmp_path)


def test_a_bento_store_that_cannot_be_written_is_named_before_anything_runs(
    default_params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file" / "bentoml"))
    with pytest.raises(ToolError, match=r"store .*/file/bentoml cannot be written, .*; set BENTOML_HOME to a folder"):
        check_early(default_params, tmp_path)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "new" / "bentoml"))
    check_early(default_params, tmp_path)
    assert not (tmp_path / "new").exists()


def test_layers_that_the_teacher_lacks_are_refused(default_params: Params, tmp_path: Path) -> None:
    write_json(tmp_path / "data/base/config.json", CONFIG | {"num_hidden_layers": 4, "vocab_size": 100})
    with pytest.raises(ModelError, match=r"distill\.layers names layer 4, but the teacher in .* has 4 layers"):
        check_early(default_params, tmp_path, INGESTED)


def test_a_trimmed_vocabulary_counts_as_soon_as_it_is_known(default_params: Params, tmp_path: Path) -> None:
    write_json(tmp_path / "data/base/config.json", CONFIG)
    tokenize = default_params.tokenize.model_copy(update={"vocabulary": Vocabulary(max_tokens=16_000)})
    params = default_params.model_copy(update={"tokenize": tokenize})
    info = tmp_path / "data/tokens/student/info.json"
    write_json(info, {"vocabulary": {"tokens": 90_000}})
    check_early(params, tmp_path, INGESTED)
    with pytest.raises(ParamsError, match="90,000 token embeddings"):
        check_early(params, tmp_path, (*INGESTED, "tokenize"))
    write_json(info, {"vocabulary": {"tokens": 16_000}})
    check_early(params, tmp_path, (*INGESTED, "tokenize"))


def test_a_vocabulary_that_fits_the_file_is_known_after_tokenize(default_params: Params, tmp_path: Path) -> None:
    write_json(tmp_path / "data/base/config.json", CONFIG)
    tokenize = default_params.tokenize.model_copy(update={"vocabulary": Vocabulary(max_tokens="auto")})
    params = default_params.model_copy(update={"tokenize": tokenize})
    check_early(params, tmp_path, INGESTED)
    write_json(tmp_path / "data/tokens/student/info.json", {"vocabulary": {"tokens": 20_000}})
    check_early(params, tmp_path, (*INGESTED, "tokenize"))
    (tmp_path / "data/tokens/student/info.json").unlink()  # the whole vocabulary stays
    with pytest.raises(ParamsError, match="250,037 token embeddings"):
        check_early(params, tmp_path, (*INGESTED, "tokenize"))


def test_templates_are_checked_before_anything_runs_and_their_labels_as_soon_as_they_are_known(
    default_params: Params, tmp_path: Path
) -> None:
    behaviour = default_params.evaluate.behaviour.model_copy(update={"templates": "behaviour.yaml"})
    evaluate = default_params.evaluate.model_copy(update={"behaviour": behaviour})
    prepare = default_params.prepare.model_copy(update={"labels": None})
    params = default_params.model_copy(update={"evaluate": evaluate, "prepare": prepare})
    path = tmp_path / "behaviour.yaml"
    path.write_text("tests: [{name: mine, kind: mtf, text: good}]", encoding="utf-8")
    with pytest.raises(ParamsError, match=r"behaviour\.yaml: tests\.0"):
        check_early(params, tmp_path)
    path.write_text("tests: [{name: mine, kind: mft, text: good, label: great}]", encoding="utf-8")
    check_early(params, tmp_path)
    write_json(tmp_path / "data/prepared/labels.json", {"labels": ["bad", "good"]})
    with pytest.raises(ParamsError, match="label = 'great': it has to be one of bad, good"):
        check_early(params, tmp_path, ("ingest", "prepare"))
