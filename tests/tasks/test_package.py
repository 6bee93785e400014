from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from potstill.artifacts import BENTO_SIGNATURE, MANIFEST, sha256_file, write_json
from potstill.config.params import Params
from potstill.config.params_file import load_params
from potstill.errors import ChecksumError, ModelError, PackageError, SignatureError
from potstill.registry.signatures import verify_bento
from potstill.serving.launch import bento_path
from potstill.serving.release import verify_seal
from scripts.serving_pins import serving_pins
from tasks.package import Packaged, package
from tests.keys import write_keys
from tests.potstill.serving.folders import REPOSITORY, flip_byte, write_workspace

TRAINING = ("torch", "transformers", "mlflow", "dvc", "prefect", "pandas", "datasets", "scikit-learn", "pyarrow")
# All that a Bento holds of Potstill: its code, the model, the limits.
CODE = {"__init__", "artifacts", "causes", "environment", "errors", "paths"}
LIBRARY = {"compute", "config", "data", "inference", "kinds", "labels", "scores", "serving"}
ROOMS = {
    "compute": {"__init__.py", "processes.py"},
    # The schema of params but for what training reads.
    "config": {"__init__.py", "base.py", "misfits.py", "serving_params.py", "yaml_file.py"},
    "data": {"__init__.py", "divergence.py"},
    # What a task is without torch.
    "kinds": {"__init__.py", "definitions", "task_names.py"},
}
SECRET = "a-secret-of-the-environment"


@pytest.fixture(scope="module")
def workspace(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = write_workspace(tiny_base, tmp_path_factory.mktemp("package") / "workspace", ["good film", "bad film"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder.parent / "bentoml"))
        for variable in ("MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(variable, SECRET)
        yield folder


@pytest.fixture(scope="module")
def params(workspace: Path) -> Params:
    return load_params(workspace / "params.yaml")


@pytest.fixture
def packaged(slow: None, workspace: Path, params: Params) -> Packaged:
    return package(params, workspace)


def bentos(packaged: Packaged) -> list[str]:
    return sorted(path.name for path in packaged.path.parent.iterdir() if path.is_dir())


@pytest.mark.slow
def test_a_bento_is_named_by_the_project_and_what_goes_in(packaged: Packaged, workspace: Path) -> None:
    name, version = packaged.tag.split(":")
    assert name == "potstill-movie-reviews"
    assert len(version) == 12
    assert packaged.path == bento_path(packaged.tag)
    assert packaged.candidate == sha256_file(workspace / "data/serving" / MANIFEST)


def test_neither_it_nor_the_workspace_has_a_secret_of_the_environment(packaged: Packaged, workspace: Path) -> None:
    files = [path for path in workspace.parent.rglob("*") if path.is_file()]
    assert packaged.path / "bento.yaml" in files
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_it_holds_what_serving_needs_and_nothing_of_training(packaged: Packaged) -> None:
    source = packaged.path / "src"
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    rooms = {path.relative_to(source / "potstill").parts[0] for path in (source / "potstill").iterdir()}
    assert rooms == {f"{name}.py" for name in CODE} | LIBRARY
    for room, names in ROOMS.items():
        assert {path.name for path in (source / "potstill" / room).iterdir()} == names, room
    assert not [path for path in files if not path.startswith(("potstill/", "data/"))
                and path not in ("service.json", "bentofile.yaml")]  # fmt: skip
    assert {path for path in files if path.startswith("data/")} == {
        f"data/serving/{name}" for name in ("manifest.json", "model.json", "model.onnx", "tokenizer.json")
    } | {"data/evaluation/profile.json"}


def test_it_pins_the_base_install_with_all_that_requires_as_the_lock_does(packaged: Packaged) -> None:
    lines = set((packaged.path / "env/python/requirements.txt").read_text(encoding="utf-8").split())
    assert lines == set(serving_pins())  # where this fails: python scripts/serving_pins.py --write
    pins = dict(line.split("==") for line in lines)
    assert not [name for name in TRAINING if name in pins]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {requirement.split(">")[0].split("<")[0] for requirement in project["dependencies"]} <= set(pins)
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()
    locked = dict(reversed([line.split(" ")[0].split("==") for line in lock if "==" in line]))
    # The lock leaves NVIDIA's packages to torch's build; BentoML reads the GPUs' state with this one.
    assert {name for name in pins if locked.get(name) != pins[name]} == {"nvidia-ml-py"}


@pytest.mark.slow
def test_the_same_candidate_makes_no_second_bento(packaged: Packaged, workspace: Path, params: Params) -> None:
    before = (packaged.path / "bento.yaml").stat().st_mtime_ns
    assert package(params, workspace) == packaged
    assert bentos(packaged) == [packaged.tag.split(":")[1]]
    assert (packaged.path / "bento.yaml").stat().st_mtime_ns == before


@pytest.mark.slow
def test_other_limits_make_another_bento(
    packaged: Packaged, workspace: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POTSTILL_API_KEYS_FILE", "/none")  # of a service that runs here, not of a build
    serve = params.serve.model_copy(update={"max_texts": 3})
    other = package(params.model_copy(update={"serve": serve}), workspace)
    assert other.tag != packaged.tag
    assert json.loads((other.path / "src/service.json").read_text())["serve"]["max_texts"] == 3
    shutil.rmtree(other.path)


@pytest.mark.slow
def test_a_signed_bento_is_another_one_and_verifies(
    packaged: Packaged, workspace: Path, params: Params, tmp_path: Path
) -> None:
    keys = write_keys(tmp_path / "keys")
    signed = package(params.model_copy(update={"sign": keys}), workspace)
    assert signed.tag != packaged.tag
    verify_seal(signed.path)
    verify_bento(signed.path, keys, workspace)
    assert not (packaged.path / BENTO_SIGNATURE).exists()
    shutil.rmtree(signed.path)


def test_without_its_key_nothing_is_built(workspace: Path, params: Params, tmp_path: Path) -> None:
    keys = params.sign.model_copy(update={"private_key": str(tmp_path / "gone.pem")})
    with pytest.raises(SignatureError, match=r"sign\.private_key .*gone\.pem"):
        package(params.model_copy(update={"sign": keys}), workspace)


@pytest.mark.slow
def test_an_altered_bento_is_built_anew(
    packaged: Packaged, workspace: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    model = packaged.path / "src/data/serving/model.onnx"
    whole = model.read_bytes()
    flip_byte(model)
    assert package(params, workspace) == packaged
    assert model.read_bytes() == whole
    assert "is incomplete or altered and is made anew" in capsys.readouterr().out


@pytest.mark.slow
def test_a_bento_of_a_killed_build_is_built_anew(packaged: Packaged, workspace: Path, params: Params) -> None:
    (packaged.path / MANIFEST).unlink()
    (packaged.path / "bento.yaml").unlink()
    assert package(params, workspace) == packaged
    assert (packaged.path / MANIFEST).exists()


def test_a_candidate_without_a_threshold_does_not_abstain(tiny_base: Path, tmp_path: Path, params: Params) -> None:
    folder = write_workspace(tiny_base, tmp_path / "workspace", ["good film"])
    metrics = {"serving_sha256": sha256_file(folder / "data/serving" / MANIFEST), "abstention": {"threshold": None}}
    write_json(folder / "reports/metrics.json", metrics)
    abstaining = params.model_copy(update={"serve": params.serve.model_copy(update={"abstain": True})})
    with pytest.raises(ModelError, match="has none that is proven"):
        package(abstaining, folder)


def test_an_altered_candidate_is_refused(tiny_base: Path, tmp_path: Path, params: Params) -> None:
    folder = write_workspace(tiny_base, tmp_path / "workspace", ["good film"])
    flip_byte(folder / "data/serving/model.onnx")
    with pytest.raises(ChecksumError, match=r"model\.onnx is altered"):
        package(params, folder)
    assert not (folder / ".work/bento").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"include": ["/potstill/nothing.py"]}, r"potstill/nothing\.py"),
        ({"include": None}, "no `include` list"),
        ({"service": "potstill.serving.service:Nothing"}, "`bentoml build` failed: .*Nothing"),
    ],
)
def test_a_bentofile_that_does_not_build_is_one_sentence(
    tiny_base: Path, tmp_path: Path, params: Params, change: dict[str, object], said: str
) -> None:
    folder = write_workspace(tiny_base, tmp_path / "workspace", ["good film"])
    bentofile = yaml.safe_load((folder / "bentofile.yaml").read_text(encoding="utf-8"))
    (folder / "bentofile.yaml").write_text(yaml.safe_dump({**bentofile, **change}), encoding="utf-8")
    with pytest.raises(PackageError, match=said):
        package(params, folder)


@pytest.mark.slow
def test_the_command_prints_the_tag(packaged: Packaged, workspace: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tasks.package"]
    done = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [packaged.tag]
    done = subprocess.run(command, cwd=workspace.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("package: params.yaml does not exist")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_bentoml_build_by_hand_works_at_the_top_level(packaged: Packaged, workspace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    shutil.copytree(workspace, folder)
    shutil.copytree(REPOSITORY / "potstill", folder / "potstill", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path / "bentoml")}
    command = [sys.executable, "-m", "bentoml", "build", "--version", "by-hand"]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    built = tmp_path / "bentoml/bentos/potstill-movie-reviews/by-hand/src"
    built_files = {path.relative_to(built) for path in built.rglob("*.*") if path.is_file()}
    source = packaged.path / "src"
    source_files = {path.relative_to(source) for path in source.rglob("*.*") if path.is_file()}
    assert built_files == source_files - {Path("service.json")} | {Path("params.yaml")}
