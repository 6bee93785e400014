"""Augmentation that replaces words with predictions of a masked language model, batch by batch.

Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding", algorithm 1. The paper masks one word
at a time; here all words to replace in a copy are masked together, and copies run in batches. Words of several tokens
are never replaced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from potstill.compute.precision import choose_device
from potstill.config.prepare_params import Augment
from potstill.data.augmentation import text_generator
from potstill.data.tokens.batches import Ints, sorted_batches
from potstill.errors import ModelError
from potstill.models.loading import load_masked_lm
from potstill.pretrained.inspection import GENERATOR_ADVICE, read_tokenizer
from potstill.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A new word is drawn from this many of the model's most likely predictions.
GUESSES = 15
# Padded tokens of a batch; small, because each token has logits for the whole vocabulary.
_BATCH_TOKENS = 1024
_LONGEST = 512
# Marks of tokens that continue a word (WordPiece) and of tokens that start one (BPE, Unigram).
_CONTINUES, _STARTS = "##", ("Ġ", "▁")


@dataclass(frozen=True)
class Copy:
    """A copy of a text whose words to replace are masked.

    Attributes:
        text: the original text.
        ids: [tokens] token ids, with the mask token in place of each word to replace.
        positions: [masked words] their indices in `ids`.
        spans: [masked words, 2] their first character, and the character after their last.
        originals: [masked words] their token ids before masking.
        draws: [masked words] random numbers from 0 to 1 that select among the predictions.
    """

    text: str
    ids: Ints
    positions: Ints
    spans: Ints
    originals: Ints
    draws: npt.NDArray[np.float64]


def replace_words(texts: Sequence[str], params: Augment, folder: Path, device: str = "auto") -> list[str]:
    """Copy texts with a share of their words replaced (TinyBERT's data augmentation, algorithm 1).

    A new word is drawn from the model's `GUESSES` most likely words at that position, by their probability. It is
    never the original word, a special token, a part of a word or punctuation.

    Args:
        texts: the original texts; the random draws for a text depend only on that text and the seed.
        params: number of copies of each text, share of replaced words, and seed.
        folder: folder of a masked language model and its tokenizer.
        device: auto, cpu, cuda or mps.

    Returns:
        Distinct new texts in the order of the originals, without those that equal an original.

    Raises:
        ModelError: the folder has no masked language model, or no fast tokenizer with a mask token.
    """
    model, tokenizer = _generator(folder)
    chosen_device = choose_device(device)
    model.to(chosen_device)
    words = _Words(tokenizer, model.config.vocab_size, chosen_device)
    copies = list(_masked_copies(texts, params, tokenizer, min(_LONGEST, model.config.max_position_embeddings - 2)))
    lengths = np.array([len(copy.ids) for copy in copies], dtype=np.int64)
    new_texts: list[str] = [copy.text for copy in copies]
    with progress("prepare", len(copies), "copies") as bar:
        for rows in sorted_batches(lengths, _BATCH_TOKENS) if copies else []:
            batch = [copies[row] for row in rows]
            for row, text in zip(rows, _replaced(model, tokenizer, words, batch), strict=True):
                new_texts[row] = text
            bar.advance(len(rows))
    originals = set(texts)
    return [text for text in dict.fromkeys(new_texts) if text not in originals]


def _generator(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a masked language model in evaluation mode, and its tokenizer."""
    model = load_masked_lm(folder, GENERATOR_ADVICE)
    tokenizer = read_tokenizer(folder)
    if tokenizer.mask_token_id is None or not tokenizer.is_fast:
        raise ModelError(f"the tokenizer in {folder} has no mask token, or is a slow one; {GENERATOR_ADVICE}")
    return model, tokenizer


def _masked_copies(
    texts: Sequence[str], params: Augment, tokenizer: PreTrainedTokenizerBase, longest: int
) -> Iterator[Copy]:
    """Yield the masked copies of each text that has a word to replace."""
    for text in texts:
        encoded = tokenizer(
            text, truncation=True, max_length=longest, return_offsets_mapping=True, return_special_tokens_mask=True
        )
        ids = np.array(encoded["input_ids"])
        spans = np.array(encoded["offset_mapping"])
        candidates = _whole_words(text, encoded, spans)
        candidates = candidates[~np.isin(ids[candidates], tokenizer.all_special_ids)]  # such as the unknown token
        count = max(round(params.share * len(candidates)), 1)
        # A random stream apart from the one of crops and splices, whose numbers must not change these draws.
        random = text_generator(text, params.seed + 1)
        for _ in range(params.replacements if len(candidates) else 0):
            positions = np.sort(random.choice(candidates, min(count, len(candidates)), replace=False))
            masked = ids.copy()
            masked[positions] = tokenizer.mask_token_id
            yield Copy(text, masked, positions, spans[positions], ids[positions], random.random(len(positions)))


def _whole_words(text: str, encoded: Any, spans: Ints) -> Ints:
    """Indices of the tokens that are a whole word of letters and digits."""
    words = encoded.word_ids()
    counts = Counter(words)
    return np.array(
        [
            index
            for index, (word, special) in enumerate(zip(words, encoded["special_tokens_mask"], strict=True))
            if not special and counts[word] == 1 and text[spans[index][0] : spans[index][1]].strip().isalnum()
        ],
        dtype=np.int64,
    )


class _Words:
    """The tokens of a vocabulary that are words, in two groups: with and without the mark of a word's start."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int, device: torch.device) -> None:
        self._marked = np.zeros(size, dtype=np.bool_)
        is_word = np.zeros(size, dtype=np.bool_)
        special = set(tokenizer.all_special_ids)
        for token, token_id in tokenizer.get_vocab().items():
            if token_id >= size or token_id in special or token.startswith(_CONTINUES):
                continue
            self._marked[token_id] = token.startswith(_STARTS)
            is_word[token_id] = tokenizer.decode([token_id]).strip().isalnum()
        self._groups = {
            marked: torch.from_numpy(is_word & (self._marked == marked)).to(device) for marked in (False, True)
        }

    def substitutes(self, original: int) -> Tensor:
        """[vocabulary] whether each token can replace the original one."""
        allowed = self._groups[bool(self._marked[original])].clone()
        allowed[original] = False
        return allowed


@torch.inference_mode()
def _replaced(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: _Words, copies: Sequence[Copy]
) -> Iterator[str]:
    """Yield the text of each copy with its masked words replaced."""
    device = next(model.parameters()).device
    longest = max(len(copy.ids) for copy in copies)
    ids = np.full((len(copies), longest), tokenizer.pad_token_id or 0)
    mask = np.zeros_like(ids)
    for row, copy in enumerate(copies):
        ids[row, : len(copy.ids)] = copy.ids
        mask[row, : len(copy.ids)] = 1
    inputs = {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}
    logits = model(**inputs).logits.float()
    for row, copy in enumerate(copies):
        new = [
            _drawn(logits[row, position], words.substitutes(original), draw)
            for position, original, draw in zip(
                copy.positions.tolist(), copy.originals.tolist(), copy.draws.tolist(), strict=True
            )
        ]
        yield _with_words(copy, [tokenizer.decode([token]).strip() for token in new])


def _drawn(logits: Tensor, allowed: Tensor, draw: float) -> int:
    """Draw one of the `GUESSES` most likely allowed tokens; `draw` is a point on their cumulative probability."""
    first = logits.masked_fill(~allowed, -torch.inf).topk(min(GUESSES, int(allowed.sum())))
    shares = first.values.softmax(-1).cumsum(-1)
    return int(first.indices[min(int((shares < draw).sum()), len(shares) - 1)])


def _with_words(copy: Copy, words: Sequence[str]) -> str:
    """Put new words in place of the copy's masked words."""
    text = copy.text
    for (start, end), word in reversed(list(zip(copy.spans.tolist(), words, strict=True))):
        spaces = len(text[start:end]) - len(text[start:end].lstrip())
        text = text[: start + spaces] + word + text[end:]
    return text
