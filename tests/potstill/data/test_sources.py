from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from potstill import environment
from potstill.artifacts import file_sums, read_json, sha256_file, verify
from potstill.compute.processes import free_port
from potstill.config.ingest_params import HubSource, Ingest
from potstill.config.params import Params
from potstill.data.fetching.ingestion import ingest_all, inspect_source, local_fingerprint, open_for_inspection
from potstill.errors import ChecksumError, FetchError, ModelError, ParamsError, PotstillError, UnsafeFileError
from tests.potstill.data.hub import REVISION, LocalHub


def ingest_of(data: dict[str, Any], teacher: dict[str, Any] | Path) -> Ingest:
    teacher = {"kind": "file", "path": str(teacher)} if isinstance(teacher, Path) else teacher
    return Ingest.model_validate({"data": data, "teacher": teacher})


def refused(ingest: Ingest, folder: Path, error: type[PotstillError]) -> str:
    """Ingest has to fail with that error, and nothing may be left of its outs."""
    raw, base = folder / "out" / "raw", folder / "out" / "base"
    with pytest.raises(error) as caught:
        ingest_all(ingest, raw, base)
    assert not raw.exists()
    assert not base.exists()
    assert not list((folder / "out").iterdir())
    return str(caught.value)


def test_local_file_and_model_arrive_as_they_are(tmp_path: Path, tiny_rows: Path, tiny_base: Path) -> None:
    ingest = ingest_of(
        {"rows": {"kind": "file", "path": str(tiny_rows), "sums": {"rows.csv": sha256_file(tiny_rows)}}}, tiny_base
    )
    ingest_all(ingest, tmp_path / "raw", tmp_path / "base")
    assert (tmp_path / "raw" / "rows" / "rows.csv").read_bytes() == tiny_rows.read_bytes()
    assert verify(tmp_path / "raw")["data.rows"]["path"] == str(tiny_rows)
    assert verify(tmp_path / "base")["kind"] == "file"
    assert file_sums(tiny_base).items() <= file_sums(tmp_path / "base").items()


def test_a_teacher_from_scratch_is_an_empty_folder_that_says_so(tmp_path: Path, tiny_rows: Path) -> None:
    ingest = ingest_of({"rows": {"kind": "file", "path": str(tiny_rows)}}, {"kind": "scratch"})
    origins = ingest_all(ingest, tmp_path / "raw", tmp_path / "given")
    assert origins["teacher"] == verify(tmp_path / "given") == {"kind": "scratch"}
    assert [path.name for path in (tmp_path / "given").iterdir()] == ["manifest.json"]
    assert local_fingerprint(ingest).keys() == {"data.rows"}


def test_folder_keeps_its_structure_and_hidden_files_are_left_out(
    tmp_path: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "a.csv").write_text("text,label\nx,1\n")
    (source / ".secret").write_text("no")
    (source / "link").symlink_to("deep")
    ingest_all(ingest_of({"s": {"kind": "file", "path": str(source)}}, tiny_base), tmp_path / "raw", tmp_path / "base")
    assert set(read_json(tmp_path / "raw" / "manifest.json")["files"]) == {"s/deep/a.csv"}
    assert "ingest: data.s: links to folders, which are not followed, are left out: link" in capsys.readouterr().out


def test_changed_file_is_refused(tmp_path: Path, tiny_rows: Path, tiny_base: Path) -> None:
    wrong = {"kind": "file", "path": str(tiny_rows), "sums": {"rows.csv": "0" * 64}}
    message = refused(ingest_of({"rows": wrong}, tiny_base), tmp_path, ChecksumError)
    assert "rows.csv of ingest.data.rows" in message
    unknown = {"kind": "file", "path": str(tiny_rows), "sums": {"other.csv": "0" * 64}}
    assert "other.csv" in refused(ingest_of({"rows": unknown}, tiny_base), tmp_path, ParamsError)


def test_missing_path_and_empty_folder_are_named(tmp_path: Path, tiny_base: Path) -> None:
    message = refused(
        ingest_of({"rows": {"kind": "file", "path": "nowhere/rows.csv"}}, tiny_base), tmp_path, FetchError
    )
    assert "ingest.data.rows.path" in message
    assert "does not exist" in message
    of_nobody = {"kind": "file", "path": "~nobody-of-this-name/rows.csv"}
    assert "does not exist" in refused(ingest_of({"rows": of_nobody}, tiny_base), tmp_path, FetchError)
    (tmp_path / "empty").mkdir()
    empty = {"kind": "saved", "path": str(tmp_path / "empty")}
    assert "empty folder" in refused(ingest_of({"rows": empty}, tiny_base), tmp_path, FetchError)


def test_model_with_pickled_weights_is_refused(tmp_path: Path, tiny_rows: Path, tiny_base: Path) -> None:
    model = shutil.copytree(tiny_base, tmp_path / "model")
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    data = {"rows": {"kind": "file", "path": str(tiny_rows)}}
    assert "pytorch_model.bin" in refused(ingest_of(data, model), tmp_path, UnsafeFileError)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_incomplete_model_is_refused(tmp_path: Path, tiny_rows: Path, tiny_base: Path, missing: str) -> None:
    model = shutil.copytree(tiny_base, tmp_path / "model")
    (model / missing).unlink()
    data = {"rows": {"kind": "file", "path": str(tiny_rows)}}
    assert missing.removeprefix("model") in refused(ingest_of(data, model), tmp_path, ModelError)


def test_fingerprint_follows_content_and_names_local_sources_only(tmp_path: Path, default_params: Params) -> None:
    (tmp_path / "rows").mkdir()
    rows, model = tmp_path / "rows" / "a.csv", tmp_path / "model.txt"
    rows.write_text("text,label\nx,1\n")
    model.write_text("x")
    ingest = ingest_of({"r": {"kind": "file", "path": str(tmp_path / "rows")}}, model)
    first = local_fingerprint(ingest)
    assert first.keys() == {"data.r", "teacher"}
    os.utime(rows, (1, 1))
    assert local_fingerprint(ingest) == first  # content counts, times do not
    rows.write_text("text,label\nx,0\n")
    changed = local_fingerprint(ingest)
    assert changed["data.r"] != first["data.r"]
    assert changed["teacher"] == first["teacher"]
    rows.rename(rows.with_name("b.csv"))
    assert local_fingerprint(ingest)["data.r"] != changed["data.r"]
    assert local_fingerprint(default_params.ingest) == {}


# --- packages, through the user's own pip configuration -------------------------------------------------------------


def test_default_data_and_teacher_have_the_sums_params_name(default_raw: Path, default_base: Path) -> None:
    movies = default_raw / "vader" / "movieReviewSnippets_GroundTruth.txt"
    assert sha256_file(movies) == "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
    assert (
        sha256_file(default_base / "model.safetensors")
        == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    )
    assert (default_base / "1_Pooling" / "config.json").exists()
    assert verify(default_raw)["data.vader"]["requirement"] == "vaderSentiment==3.3.2"


@pytest.mark.slow
def test_package_of_another_sum_is_refused_before_it_is_opened(
    tmp_path: Path, default_params: Params, tiny_base: Path
) -> None:
    source = default_params.ingest.data["vader"].model_dump() | {"sha256": "0" * 64}
    message = refused(ingest_of({"vader": source}, tiny_base), tmp_path, ChecksumError)
    assert "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9" in message


@pytest.mark.slow
def test_member_of_another_sum_is_refused(tmp_path: Path, default_params: Params, tiny_base: Path) -> None:
    source = default_params.ingest.data["vader"].model_dump()
    source["sums"]["tweets_GroundTruth.txt"] = "0" * 64
    message = refused(ingest_of({"vader": source}, tiny_base), tmp_path, ChecksumError)
    assert "tweets_GroundTruth.txt of ingest.data.vader" in message


@pytest.mark.slow
def test_package_that_is_not_there_is_named(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # the user's configuration counts: here it names no index
    source = {
        "kind": "package", "requirement": "potstill-no-such-package==1.0", "distribution": "wheel", "sha256": "0" * 64,
        "members": ["x/"],
    }  # fmt: skip
    message = refused(ingest_of({"vader": source}, tiny_base), tmp_path, FetchError)
    assert "pip could not fetch the wheel of potstill-no-such-package==1.0" in message


# --- the hub ----------------------------------------------------------------------------------------------------------

LEFT_OUT = {
    "pytorch_model.bin": b"pickle", "model.onnx": b"x", "model.fp16.safetensors": b"x", "README.md": b"# x",
    ".gitattributes": b"x", "picture.png": b"x", "onnx/model.onnx": b"x", "checkpoint-7/model.safetensors": b"x",
}  # fmt: skip
ROWS = {"sst/train.csv": b"text,label\nx,1\n", "other/train.csv": b"no\n", "README.md": b"# x\n"}
TEACHER = {"kind": "hub", "id": "me/teacher", "revision": REVISION}


@pytest.fixture
def hub(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with a model and a data set, for this process as Potstill sets it up: offline."""
    model = {path.name: path.read_bytes() for path in tiny_base.iterdir()} | LEFT_OUT
    environment.prepare()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with LocalHub({("datasets", "me/rows"): ROWS, ("models", "me/teacher"): model}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


def of_the_hub(rows: Path | None = None, **teacher: str) -> Ingest:
    local = {"kind": "file", "path": str(rows)}
    remote = {"kind": "hub", "id": "me/rows", "revision": REVISION, "subset": "sst"}
    return ingest_of({"rows": local if rows else remote}, TEACHER | teacher)


@pytest.mark.slow
def test_hub_data_and_model_at_a_pinned_revision(hub: LocalHub, tmp_path: Path, tiny_base: Path) -> None:
    ingest_all(of_the_hub(), tmp_path / "raw", tmp_path / "base")
    assert set(read_json(tmp_path / "raw" / "manifest.json")["files"]) == {"rows/sst/train.csv"}
    assert verify(tmp_path / "base")["revision"] == REVISION
    given = {name: total for name, total in file_sums(tmp_path / "base").items() if name != "manifest.json"}
    assert given == file_sums(tiny_base)
    assert {name for name, _ in hub.manners.sent} == {"sst/train.csv", *given}


@pytest.mark.slow
def test_inspecting_a_hub_model_fetches_no_weights(hub: LocalHub, tiny_base: Path) -> None:
    look = inspect_source(HubSource.model_validate(TEACHER))
    assert (look.layers, look.width, look.saved.where) == (4, 32, f"me/teacher@{REVISION}")
    weights = [sent for name, sent in hub.manners.sent if name == "model.safetensors"]
    assert 0 < sum(weights) < 101_000
    with open_for_inspection(HubSource.model_validate(TEACHER)) as folder:
        assert (folder / "tokenizer.json").read_bytes() == (tiny_base / "tokenizer.json").read_bytes()
        assert (folder / "model.safetensors").stat().st_blocks * 512 < 65536


@pytest.mark.slow
@pytest.mark.parametrize(
    ("manners", "teacher", "sentence"),
    [
        ({}, {"id": "me/nothing"}, "gave no me/nothing at revision 0123.* it is private and HF_TOKEN is not"),
        ({}, {"revision": "f" * 40}, "the hub has me/teacher, but no commit fff.*; correct ingest.teacher.revision"),
        ({"token": "secret"}, {}, "it is private and HF_TOKEN is not the token of someone who may read it"),
        ({"gated": True}, {}, "does not let you have me/teacher .*: ask for access on its page, then set HF_TOKEN"),
        ({"altered": "config.json"}, {}, "config.json of me/teacher arrived with another sum than the hub names"),
    ],
)
def test_a_hub_that_refuses_a_source_is_one_sentence(
    hub: LocalHub, tmp_path: Path, tiny_rows: Path, manners: dict[str, Any], teacher: dict[str, str], sentence: str
) -> None:
    vars(hub.manners).update(manners)
    message = refused(of_the_hub(tiny_rows, **teacher), tmp_path, FetchError)
    assert re.search(sentence, message), message
    assert "secret" not in message


@pytest.mark.slow
def test_a_private_model_needs_the_token_and_a_download_that_breaks_off_is_retried(
    hub: LocalHub, tmp_path: Path, tiny_rows: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.manners.token = "secret"
    hub.manners.cut = {"model.safetensors": 1}
    monkeypatch.setenv("HF_TOKEN", "secret")
    ingest_all(of_the_hub(tiny_rows), tmp_path / "raw", tmp_path / "base")
    assert [name for name, _ in hub.manners.sent].count("model.safetensors") == 2
    assert sha256_file(tmp_path / "base" / "model.safetensors") == sha256_file(tiny_base / "model.safetensors")
    assert "secret" not in (tmp_path / "base" / "manifest.json").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_download_that_always_breaks_off_leaves_nothing(hub: LocalHub, tmp_path: Path, tiny_rows: Path) -> None:
    hub.manners.cut = {"model.safetensors": 99}
    message = refused(of_the_hub(tiny_rows), tmp_path, FetchError)
    assert "the download of me/teacher at revision 0123456789abcdef0123456789abcdef01234567 broke off" in message


@pytest.mark.slow
def test_an_unreachable_hub_is_one_sentence(tmp_path: Path, tiny_rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    message = refused(of_the_hub(tiny_rows), tmp_path, FetchError)
    assert "check the network and ingest.teacher, then run again" in message


def several(rows: Path, base: Path, other: Path) -> Ingest:
    values = {"data": {"rows": {"kind": "file", "path": str(rows)}}, "teacher": {"kind": "file", "path": str(base)}}
    return Ingest.model_validate(values | {"teachers": {"large": {"kind": "file", "path": str(other)}}})


def test_further_teachers_are_in_folders_of_the_first(tmp_path: Path, tiny_rows: Path, tiny_base: Path) -> None:
    ingest = several(tiny_rows, tiny_base, tiny_base)
    origins = ingest_all(ingest, tmp_path / "raw", tmp_path / "base")
    assert list(origins) == ["data.rows", "teacher", "teachers.large"]
    assert file_sums(tiny_base).items() <= file_sums(tmp_path / "base" / "members" / "large").items()
    assert verify(tmp_path / "base")["teachers.large"]["path"] == str(tiny_base)
    assert list(verify(tmp_path / "raw")) == ["data.rows"]
    assert list(local_fingerprint(ingest)) == ["data.rows", "teacher", "teachers.large"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("tokenizer.json", "/other has no tokenizer.json"),
        ("model.safetensors", "/other has no .safetensors weights"),
    ],
)
def test_a_further_teacher_that_lacks_a_part_is_refused(
    tmp_path: Path, tiny_rows: Path, tiny_base: Path, file: str, message: str
) -> None:
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    (other / file).unlink()
    assert message in refused(several(tiny_rows, tiny_base, other), tmp_path, ModelError)
