"""Trains a WordPiece tokenizer on texts, like BERT's, with the `tokenizers` library."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.errors import EmptyDataError, ParamsError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# In the order of their ids.
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_CONTINUES = "##"


def train_wordpiece(texts: Sequence[str], vocabulary: int, min_frequency: int, *, lowercase: bool) -> Tokenizer:
    """Train a BERT tokenizer. Its normalizer separates Chinese characters; words are divided into learned pieces.

    The same texts give the same tokenizer. The library's trainer does not ensure that: it numbers pieces of one
    character in no fixed order, and breaks ties by number. So these are numbered here first.

    Args:
        texts: the texts to train on.
        vocabulary: the most pieces, with special tokens.
        min_frequency: how often a character, or two adjacent pieces, must occur to become a piece.
        lowercase: remove capitals and accents, as the uncased BERT does.

    Raises:
        EmptyDataError: no character occurs often enough.
        ParamsError: the vocabulary is too small for the characters.
    """
    from tokenizers import trainers

    plain = _tokenizer({}, lowercase=lowercase)
    words = _words(plain, texts)
    alphabet, continuing = _characters(words, min_frequency)
    known = [*SPECIAL.values(), *continuing]
    if not alphabet:
        raise EmptyDataError(
            f"no character occurs {min_frequency} times in the texts of train and transfer; give more texts, or lower "
            "pretrain.min_frequency"
        )
    if len(known) + len(alphabet) > vocabulary:
        raise ParamsError(
            f"pretrain.vocabulary is {vocabulary:,}, but the texts have {len(known) + len(alphabet):,} characters that "
            f"occur {min_frequency} times or more, inside a word or at its start; raise it, or pretrain.min_frequency"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        min_frequency=min_frequency,
        special_tokens=known,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    plain.train_from_iterator(texts, trainer)
    return _tokenizer(plain.get_vocab(), lowercase=lowercase)


def save_tokenizer(tokenizer: Tokenizer, max_length: int, folder: Path) -> None:
    """Save a tokenizer as a folder that `transformers.AutoTokenizer` loads."""
    from transformers import PreTrainedTokenizerFast

    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=max_length, model_input_names=inputs, **SPECIAL
    ).save_pretrained(folder)


def _tokenizer(vocabulary: dict[str, int], *, lowercase: bool) -> Tokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=True, lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if vocabulary:
        tokenizer.add_special_tokens(list(SPECIAL.values()))
        start = SPECIAL["cls_token"]
        end = SPECIAL["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}",
            pair=f"{start} $A {end} $B:1 {end}:1",
            special_tokens=[(token, vocabulary[token]) for token in (start, end)],
        )
    return tokenizer


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """Count the words as the tokenizer splits them."""
    counts: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        counts.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    return counts


def _characters(words: Counter[str], min_frequency: int) -> tuple[list[str], list[str]]:
    """List the frequent characters, and the `##` forms of those that occur inside a word."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    alphabet = {character for character, count in counts.items() if count >= min_frequency}
    inside = {character for word in words for character in word[1:]} & alphabet
    return sorted(alphabet), [f"{_CONTINUES}{character}" for character in sorted(inside)]
