"""Pre-training from scratch: a tokenizer and a BERT on the user's texts, by masked language modelling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.config.teacher_params import Pretrain
from potstill.data.corpus import token_rows
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.masking import Masking
from potstill.data.tokens.tokenization import load_tokenizer
from potstill.data.tokens.wordpiece import SPECIAL, save_tokenizer, train_wordpiece
from potstill.distillation.objective.masked_tokens import MaskedLanguage
from potstill.errors import EmptyDataError
from potstill.models.students.scratch import new_bert
from potstill.progress import say
from potstill.training.held_out import hold_out, negative_loss
from potstill.training.loop import Outcome, Setting, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Pretraining:
    """A new encoder and the data of its pre-training.

    Attributes:
        model: a BertForMaskedLM.
        rows: rows to train on.
        held_out: rows for evaluation.
        masking: selects the tokens to mask.
    """

    model: PreTrainedModel
    rows: TokenDataset
    held_out: TokenDataset
    masking: Masking

    def train(self, setting: Setting) -> Outcome:
        """Train the model in place; its score is minus the loss on held-out rows, in nats a masked token."""
        objective = MaskedLanguage(self.masking)
        score = negative_loss(objective, self.held_out, setting.device, setting.precision)
        return train(self.model, self.rows, objective, score, setting)


def prepare_pretraining(texts: Sequence[str], params: Pretrain, seed: int, folder: Path) -> Pretraining:
    """Train and save a tokenizer, and build the model and its rows.

    Args:
        texts: the texts to learn from; the tokenizer is trained on them as well.
        params: sizes of tokenizer and model, and share of masked tokens.
        seed: seed of weights, masks and the choice of held-out rows.
        folder: folder to which tokenizer.json and its settings are written.

    Raises:
        EmptyDataError: there are too few texts.
        ParamsError: the vocabulary is too small; see `train_wordpiece`.
    """
    if not texts:
        raise EmptyDataError("train and transfer have no texts to pre-train on; give some in prepare.tables")
    tokenizer = train_wordpiece(texts, params.vocabulary, params.min_frequency, lowercase=params.lowercase)
    save_tokenizer(tokenizer, params.max_length, folder)
    vocabulary = tokenizer.get_vocab()
    special = {role: vocabulary[token] for role, token in SPECIAL.items()}
    masking = Masking(special["mask_token"], list(special.values()), len(vocabulary), params.masked, seed)
    all_rows = token_rows(texts, load_tokenizer(folder, params.max_length), special["pad_token"])
    rows, held_out = hold_out(all_rows, params.held_out, seed)
    tokens = int(rows.lengths.sum())
    say(f"pretrain: {len(vocabulary):,} tokens in the vocabulary, {len(rows):,} rows of {tokens:,} tokens an epoch")
    return Pretraining(new_bert(params, len(vocabulary), seed), rows, held_out, masking)
