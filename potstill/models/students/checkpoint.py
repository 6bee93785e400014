"""An encoder of another family or size that a student starts from, with the tokenizer that it came with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from potstill.data.tokens.in_memory import fast_tokenizer
from potstill.data.tokens.windows import without_truncation
from potstill.models.loading import load_classifier
from potstill.pretrained.families import tells_texts_apart
from potstill.pretrained.heads import task_of
from potstill.pretrained.inspection import inspect_model, load_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Checkpoint:
    """What a student of kind checkpoint starts from.

    Attributes:
        model: the encoder with a fresh head of the teacher's labels.
        words: its tokenizer.
    """

    model: PreTrainedModel
    words: PreTrainedTokenizerBase

    @classmethod
    def open(cls, folder: Path, teacher: PreTrainedModel, seed: int) -> Checkpoint:
        """Read a `save_pretrained` folder.

        Args:
            folder: with a tokenizer.
            teacher: says the task and the labels.
            seed: of the head; torch's own random state stays as it is.

        Raises:
            UnsafeFileError, ModelError: see `inspect_model`, `load_classifier` and `load_words`.
        """
        labels = [str(name) for _, name in sorted(teacher.config.id2label.items())]
        inspect_model(folder, "encoder")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(load_classifier(folder, labels, task_of(teacher)), load_words(folder))

    def reads_as(self, teacher: PreTrainedModel, words: PreTrainedTokenizerBase) -> bool:
        """Whether its tokens of a text are those of a teacher with this tokenizer.

        Raises:
            ModelError: a tokenizer has no fast form.
        """
        mine, theirs = (without_truncation(fast_tokenizer(one, 1)).to_str() for one in (self.words, words))
        apart, known = (tells_texts_apart(one.config.to_dict()) for one in (self.model, teacher))
        # Segment ids that it has no use for do no harm; those that it lacks would.
        return mine == theirs and known >= apart
