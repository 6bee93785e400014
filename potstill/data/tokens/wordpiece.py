"""A WordPiece tokenizer of one's own texts, made by the `tokenizers` library as BERT's was."""

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
    """A BERT tokenizer: its normalizer (which sets every Chinese character apart), words cut into learned pieces.

    The same texts give the same tokenizer. The library's trainer alone does not: it numbers the pieces of one
    character as it meets them, in no fixed order, and breaks ties by number. So they are numbered here beforehand.

    Args:
        texts: what it is to read.
        vocabulary: pieces at most, special tokens included.
        min_frequency: how often a character, or two pieces side by side, have to occur to become one.
        lowercase: take capitals and accents away, as the uncased BERT does.

    Raises:
        EmptyDataError: no character occurs that often.
        ParamsError: the vocabulary has no room for the characters.
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
    """Write it as a folder that `transformers.AutoTokenizer` loads."""
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
        start, end = SPECIAL["cls_token"], SPECIAL["sep_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A {end}",
            pair=f"{start} $A {end} $B:1 {end}:1",
            special_tokens=[(token, vocabulary[token]) for token in (start, end)],
        )
    return tokenizer


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, as the tokenizer splits words."""
    counts: Counter[str] = Counter()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        counts.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    return counts


def _characters(words: Counter[str], min_frequency: int) -> tuple[list[str], list[str]]:
    """The characters that are frequent enough, and `##` forms of those among them that are inside a word."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    alphabet = {character for character, count in counts.items() if count >= min_frequency}
    inside = {character for word in words for character in word[1:]} & alphabet
    return sorted(alphabet), [f"{_CONTINUES}{character}" for character in sorted(inside)]
