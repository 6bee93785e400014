"""The folder `data/tokens` as the stages that follow read it: token ids, tokenizers and the kind of task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.artifacts import read_json
from potstill.data.tokens.batches import ArrayChunks, Ints, TokenDataset
from potstill.data.tokens.tokenization import KEPT_IDS, STUDENT, load_tokenizer
from potstill.kinds.task_names import TaskKind

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class TokenFolder:
    """Every split as the tokens of one model, with its tokenizer.

    Attributes:
        path: the folder.
        info: content of its `info.json`.
    """

    path: Path
    info: Mapping[str, Any]

    @classmethod
    def open(cls, path: Path) -> TokenFolder:
        """Read `info.json`."""
        return cls(path, read_json(path / "info.json"))

    @cached_property
    def student(self) -> TokenFolder:
        """The student's tokens; the folder itself unless the student has a vocabulary of its own.

        Every split has the same rows in the same order in both.
        """
        folder = self.path / STUDENT
        return TokenFolder.open(folder) if folder.exists() else self

    def member(self, tokens: str) -> TokenFolder:
        """The tokens of one of several teachers; see `members.Member.tokens`."""
        return self if tokens == "." else TokenFolder.open(self.path / tokens)

    @property
    def task(self) -> TaskKind:
        """What the data is for, as `prepare.task` says."""
        task: TaskKind = self.info["task"]
        return task

    @property
    def labels(self) -> list[str]:
        """The names of the outputs, in order."""
        labels: list[str] = self.info["labels"]
        return labels

    @property
    def pair(self) -> bool:
        """Whether rows are pairs of texts."""
        return bool(self.info["pair"])

    @property
    def rank(self) -> int | None:
        """Rank of the table of token embeddings, as `tokenize.vocabulary` names it; None: a full table."""
        rank: int | None = self.info.get("vocabulary", {}).get("rank")
        return rank

    @cached_property
    def kept_ids(self) -> Ints | None:
        """The ids, in the whole vocabulary, of the tokens that a smaller one keeps; None: it is the whole one."""
        path = self.path / KEPT_IDS
        return np.load(path, allow_pickle=False) if path.exists() else None

    @property
    def tokenizer_dir(self) -> Path:
        """Folder of the tokenizer's files."""
        return self.path / "tokenizer"

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer; it cuts texts as the stage did."""
        return load_tokenizer(self.tokenizer_dir, self.info["max_length"])

    def tokenize(self, texts: Sequence[Any]) -> TokenDataset:
        """Tokenize texts, or pairs, that are in no split, as the stage did those of whole texts; none has a label."""
        encodings = self.load_tokenizer().encode_batch_fast(list(texts))
        types = None
        if self.pair and self.info.get("token_types", True):
            types = np.concatenate([np.array(encoding.type_ids, np.int8) for encoding in encodings])
        ids = ArrayChunks([np.concatenate([np.array(encoding.ids, np.int32) for encoding in encodings])])
        lengths = np.array([len(encoding.ids) for encoding in encodings], np.int64)
        return TokenDataset(ids, lengths, types, np.full(len(texts), -1), self.info["pad_token_id"])

    def file(self, split: str) -> Path:
        """The file of a split."""
        return self.path / f"{split}.arrow"

    def split(self, *names: str) -> TokenDataset:
        """Open a split, or several as one."""
        parts = [TokenDataset.open(self.file(name), self.info["pad_token_id"]) for name in names]
        return parts[0] if len(parts) == 1 else TokenDataset.concatenate(parts)

    def files(self, splits: Sequence[str]) -> list[Path]:
        """The files of several splits."""
        return [self.file(split) for split in splits]
