"""Words replaced by what a masked language model would say there: TinyBERT's augmentation, batch by batch.

Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding", algorithm 1. There one word is masked
at a time; here all words of a copy that are to be replaced are, and a whole batch of copies runs at once. Words of
several tokens stay as they are.
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
from potstill.pretrained.inspection import GENERATOR_ADVICE, load_words
from potstill.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A word is drawn among so many of the model's first guesses.
GUESSES = 15
# Padded tokens of a batch: there are logits of the whole vocabulary for each.
_BATCH_TOKENS = 1024
_LONGEST = 512
# Tokens that continue a word, and those that start one where the tokenizer marks these.
_CONTINUES, _STARTS = "##", ("Ġ", "▁")


@dataclass(frozen=True)
class Copy:
    """A copy of a text before its words are replaced.

    Attributes:
        text: the original.
        ids: [tokens] with the mask token where a word is to be replaced.
        places: [replaced] those tokens.
        spans: [replaced, 2] the words' first character and the one behind the last.
        was: [replaced] the tokens that were there.
        draws: [replaced] from 0 to 1, which of the guesses it becomes.
    """

    text: str
    ids: Ints
    places: Ints
    spans: Ints
    was: Ints
    draws: npt.NDArray[np.float64]


def replace_words(texts: Sequence[str], params: Augment, folder: Path, device: str = "auto") -> list[str]:
    """Copies of texts with a share of their words replaced.

    A word becomes one of the model's `GUESSES` most likely words in its place, drawn by their probability; never
    itself, a special token, a piece of a word or a sign.

    Args:
        texts: originals; the draws for one depend on its own text and the seed.
        params: how many copies of each text, the share and the seed.
        folder: of a masked language model with its tokenizer.
        device: auto, cpu, cuda or mps.

    Returns:
        The new texts in the order of the originals, those that equal one left out, as are copies of each other.

    Raises:
        ModelError: the folder holds no masked language model with a tokenizer that knows where words are.
    """
    model, tokenizer = _generator(folder)
    where = choose_device(device)
    model.to(where)
    words = _Words(tokenizer, model.config.vocab_size, where)
    copies = list(_masked(texts, params, tokenizer, min(_LONGEST, model.config.max_position_embeddings - 2)))
    lengths = np.array([len(copy.ids) for copy in copies], dtype=np.int64)
    made: list[str] = [copy.text for copy in copies]
    with progress("prepare", len(copies), "copies") as bar:
        for rows in sorted_batches(lengths, _BATCH_TOKENS) if copies else []:
            batch = [copies[row] for row in rows]
            for row, text in zip(rows, _guessed(model, tokenizer, words, batch), strict=True):
                made[row] = text
            bar.advance(len(rows))
    originals = set(texts)
    return [text for text in dict.fromkeys(made) if text not in originals]


def _generator(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A masked language model in evaluation mode and its tokenizer."""
    model, tokenizer = load_masked_lm(folder, GENERATOR_ADVICE), load_words(folder)
    if tokenizer.mask_token_id is None or not tokenizer.is_fast:
        raise ModelError(f"the tokenizer in {folder} has no mask token, or is a slow one; {GENERATOR_ADVICE}")
    return model, tokenizer


def _masked(texts: Sequence[str], params: Augment, tokenizer: PreTrainedTokenizerBase, longest: int) -> Iterator[Copy]:
    """The copies of texts in which a word can be replaced."""
    for text in texts:
        encoded = tokenizer(
            text, truncation=True, max_length=longest, return_offsets_mapping=True, return_special_tokens_mask=True
        )
        ids, spans = np.array(encoded["input_ids"]), np.array(encoded["offset_mapping"])
        able = _whole_words(text, encoded, spans)
        able = able[~np.isin(ids[able], tokenizer.all_special_ids)]  # an unknown word is one of them
        count = max(round(params.share * len(able)), 1)
        # Not those of the other kinds: these stay when there are more or fewer of them.
        random = text_generator(text, params.seed + 1)
        for _ in range(params.replacements if len(able) else 0):
            places = np.sort(random.choice(able, min(count, len(able)), replace=False))
            masked = ids.copy()
            masked[places] = tokenizer.mask_token_id
            yield Copy(text, masked, places, spans[places], ids[places], random.random(len(places)))


def _whole_words(text: str, encoded: Any, spans: Ints) -> Ints:
    """Tokens that are a word of their own, without a sign in it."""
    words = encoded.word_ids()
    counts = Counter(words)
    return np.array(
        [
            place
            for place, (word, special) in enumerate(zip(words, encoded["special_tokens_mask"], strict=True))
            if not special and counts[word] == 1 and text[spans[place][0] : spans[place][1]].strip().isalnum()
        ],
        dtype=np.int64,
    )


class _Words:
    """Which tokens of a vocabulary are words: those that start one, where the tokenizer tells, and the others."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int, device: torch.device) -> None:
        self._marked = np.zeros(size, dtype=np.bool_)
        able = np.zeros(size, dtype=np.bool_)
        special = set(tokenizer.all_special_ids)
        for token, number in tokenizer.get_vocab().items():
            if number >= size or number in special or token.startswith(_CONTINUES):
                continue
            self._marked[number] = token.startswith(_STARTS)
            able[number] = tokenizer.decode([number]).strip().isalnum()
        self._alike = {marked: torch.from_numpy(able & (self._marked == marked)).to(device) for marked in (False, True)}

    def beside(self, was: int) -> Tensor:
        """[vocabulary] whether each token can take the place of one."""
        able = self._alike[bool(self._marked[was])].clone()
        able[was] = False
        return able


@torch.inference_mode()
def _guessed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: _Words, copies: Sequence[Copy]
) -> Iterator[str]:
    """The texts of some copies with their words replaced."""
    device = next(model.parameters()).device
    longest = max(len(copy.ids) for copy in copies)
    ids = np.full((len(copies), longest), tokenizer.pad_token_id or 0)
    mask = np.zeros_like(ids)
    for row, copy in enumerate(copies):
        ids[row, : len(copy.ids)], mask[row, : len(copy.ids)] = copy.ids, 1
    inputs = {"input_ids": torch.from_numpy(ids).to(device), "attention_mask": torch.from_numpy(mask).to(device)}
    logits = model(**inputs).logits.float()
    for row, copy in enumerate(copies):
        new = [
            _drawn(logits[row, place], words.beside(was), draw)
            for place, was, draw in zip(copy.places.tolist(), copy.was.tolist(), copy.draws.tolist(), strict=True)
        ]
        yield _written(copy, [tokenizer.decode([token]).strip() for token in new])


def _drawn(logits: Tensor, able: Tensor, draw: float) -> int:
    """One of the first guesses among the tokens that can be; `draw` from 0 to 1 goes through their probabilities."""
    first = logits.masked_fill(~able, -torch.inf).topk(min(GUESSES, int(able.sum())))
    shares = first.values.softmax(-1).cumsum(-1)
    return int(first.indices[min(int((shares < draw).sum()), len(shares) - 1)])


def _written(copy: Copy, words: Sequence[str]) -> str:
    """The copy's text with the new words in the places of the old."""
    text = copy.text
    for (start, end), word in reversed(list(zip(copy.spans.tolist(), words, strict=True))):
        gap = len(text[start:end]) - len(text[start:end].lstrip())
        text = text[: start + gap] + word + text[end:]
    return text
