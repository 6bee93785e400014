"""The release that a service runs: limits, model and lineage, verified before the first answer.

A built Bento has two manifests: that of the serving folder, and a seal (`manifest.json` in the Bento's top folder) over
all files that BentoML has put into it. A Bento that `potstill run` packaged does not start without its seal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from potstill.artifacts import (
    BENTO_IMAGE,
    BENTO_SIGNATURE,
    MANIFEST,
    file_sums,
    first_difference,
    lineage,
    read_json,
    sha256_file,
    sha256_value,
    verify,
    write_json,
)
from potstill.config.base import Project, Strict
from potstill.config.serving_params import Serve, Watch
from potstill.config.yaml_file import parse_section, read_params
from potstill.errors import ChecksumError, ModelError
from potstill.inference.certainty import read_threshold
from potstill.inference.profile import Profile, read_profile
from potstill.inference.runtime import ModelCard, read_card
from potstill.paths import METRICS, PARAMS, SERVING, TEST_PROFILE
from potstill.serving.schemas import ABSTAINING, ANSWERING, Answering

SETTINGS = "service.json"
BENTO = "bento.yaml"


class Settings(Strict):
    """`service.json`: the settings that packaging fixes in a Bento."""

    name: Annotated[str, Field(min_length=1)]
    serve: Serve
    watch: Watch = Watch()
    git_commit: str | None = None
    # The confidence below which the model abstains; None: it never does.
    abstain_below: Annotated[float, Field(gt=0, lt=1)] | None = None
    # The sha256 of the public key or certificate that signs the Bento.
    signer: str | None = None


@dataclass(frozen=True)
class Release:
    """A verified model with its limits and lineage.

    Attributes:
        folder: the serving folder.
        settings: settings of the service.
        card: the model card.
        tag: the Bento's `name:version`; None if it is served from a workspace.
        sealed: whether the whole Bento was verified, not only the serving folder.
        candidate: sha256 of the serving folder's manifest, which identifies the model.
        sums: file of the serving folder -> sha256.
        profile: profile of the evaluated texts; None in a workspace without an evaluation.
    """

    folder: Path
    settings: Settings
    card: ModelCard
    tag: str | None
    sealed: bool
    candidate: str
    sums: dict[str, str]
    profile: Profile | None = None

    @property
    def answering(self) -> Answering:
        """The bodies of the typed endpoint's answers."""
        return (ANSWERING if self.settings.abstain_below is None else ABSTAINING)[self.card.form]

    @property
    def lineage(self) -> dict[str, Any]:
        """The origin of the model."""
        return lineage(self.candidate, self.sums, self.settings.git_commit)

    @cached_property
    def lineage_sum(self) -> str:
        """The sha256 of the lineage."""
        return sha256_value(self.lineage)

    @property
    def model_version(self) -> str:
        """A short readable name of the model and its format."""
        return f"{self.candidate[:12]}-{self.card.variant}"


def bento_name(project: str) -> str:
    """Return the name of a project's Bentos."""
    return f"potstill-{project}"


def load_release(root: Path) -> Release:
    """Verify and load a release.

    Args:
        root: the code folder of a Bento, a build folder or a workspace.

    Raises:
        ChecksumError: a file does not match a manifest, or a packaged Bento has no seal.
        ModelError: settings, model card or threshold cannot be used.
        ParamsError: the workspace's params.yaml is invalid.
    """
    bento = root.parent
    packaged = (root / SETTINGS).exists()
    in_bento = root.name == "src" and (bento / BENTO).exists()
    if in_bento and packaged:
        verify_seal(bento)
    folder = root / SERVING
    verify(folder)
    candidate = sha256_file(folder / MANIFEST)
    return Release(
        folder=folder,
        settings=_packaged_settings(root / SETTINGS) if packaged else _workspace_settings(root, candidate),
        card=read_card(folder),
        tag=_tag(bento) if in_bento else None,
        sealed=in_bento and packaged,
        candidate=candidate,
        sums=read_json(folder / MANIFEST)["files"],
        profile=read_profile(root / TEST_PROFILE, candidate) if packaged or (root / TEST_PROFILE).exists() else None,
    )


def served_threshold(workspace: Path, serve: Serve, candidate: str) -> float | None:
    """Return the confidence below which a workspace's candidate abstains; None where params do not ask for that.

    Raises:
        ModelError: params ask for it, but the evaluation has no threshold of this candidate.
    """
    return read_threshold(workspace / METRICS, candidate) if serve.abstain else None


def write_seal(bento: Path) -> None:
    """Write the manifest of all files of a newly built Bento."""
    write_json(bento / MANIFEST, {"files": _sealed_sums(bento), "about": {"bento": _tag(bento)}})


def verify_seal(bento: Path) -> None:
    """Check every file of a built Bento against its seal.

    Raises:
        ChecksumError: a file is missing, added or altered, or there is no seal.
    """
    advice = "delete this Bento (bentoml delete) and run `potstill run` to package it anew"
    try:
        expected = read_json(bento / MANIFEST)["files"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ChecksumError(f"{bento} has no readable {MANIFEST}, so its files cannot be verified; {advice}") from error
    difference = first_difference(_sealed_sums(bento), expected)
    if difference is not None:
        path, state = difference
        raise ChecksumError(f"{bento / path} is {state}: it is not what was packaged; {advice}")


def _sealed_sums(bento: Path) -> dict[str, str]:
    """Map all files to their sha256, without the seal, its signature, Python's caches, and the image recipe."""
    return {
        path: value
        for path, value in file_sums(bento).items()
        if path not in (MANIFEST, BENTO_SIGNATURE)
        and "__pycache__/" not in path
        and not path.startswith(f"{BENTO_IMAGE}/")
    }


def _packaged_settings(path: Path) -> Settings:
    try:
        return Settings.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ModelError(f"{path} is not a service setting of this version; package the model again") from error


def _workspace_settings(root: Path, candidate: str) -> Settings:
    params = read_params(root / PARAMS)
    project = parse_section("project", Project, params.get("project") or {})
    serve = parse_section("serve", Serve, params.get("serve") or {})
    watch = parse_section("watch", Watch, params.get("watch") or {})
    threshold = served_threshold(root, serve, candidate)
    return Settings(name=bento_name(project.name), serve=serve, watch=watch, abstain_below=threshold)


def _tag(bento: Path) -> str:
    description = yaml.safe_load((bento / BENTO).read_text(encoding="utf-8"))
    return f"{description['name']}:{description['version']}"
