"""The servers that params name: which variables they become, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from potstill.config.params import Params
from potstill.config.params_file import parse_params
from potstill.config.promotion_params import Servers
from potstill.config.server_urls import use_servers
from potstill.config.yaml_file import read_params
from potstill.errors import ParamsError
from tests.conftest import REPOSITORY

PROFILE = REPOSITORY / "profiles/server.yaml"


def test_the_profile_names_servers_and_no_secret() -> None:
    servers = Servers.model_validate(read_params(PROFILE)["servers"])
    assert (servers.mlflow_url, servers.prefect_url) == (
        "https://mlflow.example.org", "https://prefect.example.org/api"
    )  # fmt: skip


@pytest.mark.parametrize("url", ["https://admin:secret@mlflow.example.org", "sqlite:///mlflow.db", "mlflow:5000"])
def test_a_password_or_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"credentials are variables|should match pattern"):
        Servers(mlflow_url=url)


def test_a_password_in_a_url_is_not_shown(default_params: Params) -> None:
    values = default_params.model_dump(by_alias=True) | {"servers": {"mlflow_url": "https://admin:secret@example.org"}}
    with pytest.raises(ParamsError) as refused:
        parse_params(values)
    assert "servers.mlflow_url = 'https://***@example.org'" in str(refused.value)


def test_a_variable_that_is_set_goes_before_params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("PREFECT_API_URL", "")  # so that it is restored afterwards
    monkeypatch.delenv("PREFECT_API_URL")
    use_servers(tmp_path)  # there are no params
    assert "PREFECT_API_URL" not in os.environ
    (tmp_path / "params.yaml").write_bytes(PROFILE.read_bytes())
    use_servers(tmp_path)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert os.environ["PREFECT_API_URL"] == "https://prefect.example.org/api"


def test_changed_params_name_other_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    (tmp_path / "params.yaml").write_bytes(PROFILE.read_bytes())
    use_servers(tmp_path)
    (tmp_path / "params.yaml").write_text("servers: {mlflow_url: https://other.example.org}\n", encoding="utf-8")
    use_servers(tmp_path)
    assert os.environ == {"MLFLOW_TRACKING_URI": "https://other.example.org"}


@pytest.mark.parametrize("text", ["servers: null\n", "servers: [1]\n", "servers: {mlflow_url: 7}\n", "a: [\n"])
def test_params_that_do_not_fit_set_nothing(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {})
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    use_servers(tmp_path)
    assert os.environ == {}
