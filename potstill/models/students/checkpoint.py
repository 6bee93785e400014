"""A student that starts from another pre-trained encoder, with that encoder's tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from potstill.data.tokens.in_memory import fast_tokenizer
from potstill.labels.windows import without_truncation
from potstill.models.loading import load_classifier
from potstill.pretrained.families import tells_texts_apart
from potstill.pretrained.heads import task_of
from potstill.pretrained.inspection import inspect_model, read_tokenizer
from potstill.pretrained.output_names import names_of_outputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Checkpoint:
    """A pre-trained encoder that a student starts from.

    Attributes:
        model: the encoder with a new head for the teacher's labels.
        tokenizer: its tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def open(cls, folder: Path, teacher: PreTrainedModel, seed: int) -> Checkpoint:
        """Load a `save_pretrained` folder, without touching torch's global random state.

        Args:
            folder: the folder of the encoder and its tokenizer.
            teacher: determines the task and the labels.
            seed: seed of the new head.

        Raises:
            UnsafeFileError, ModelError: see `inspect_model`, `load_classifier` and `read_tokenizer`.
        """
        inspect_model(folder, "encoder")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(load_classifier(folder, names_of_outputs(teacher), task_of(teacher)), read_tokenizer(folder))

    def tokenizes_as(self, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether the checkpoint can read the token ids that were made for a teacher.

        Args:
            teacher: the model whose token ids they are.
            tokenizer: its tokenizer.

        Raises:
            ModelError: a tokenizer has no fast form.
        """
        student_tokens, teacher_tokens = (
            without_truncation(fast_tokenizer(item, 1)).to_str() for item in (self.tokenizer, tokenizer)
        )
        student_types, teacher_types = (tells_texts_apart(item.config.to_dict()) for item in (self.model, teacher))
        # Token types that the student does not use do no harm; token types that it lacks would.
        return student_tokens == teacher_tokens and teacher_types >= student_types
