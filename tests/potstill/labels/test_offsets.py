from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from potstill.labels.offsets import (
    IGNORED,
    UNSEEN,
    has_own_token,
    token_labels,
    unit_classes,
    unit_states,
    unit_tokens,
)
from potstill.labels.tags import tag_set, units_of

TEXTS = ["He lives in New York, U.S. since 1998.", "naïve Zoë met 江泽民 in 北京 today", "the unbelievable river"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def tokenizer(kind: str) -> Any:
    """A small trained tokenizer that adds [CLS] and [SEP]."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    trained: Any
    trainer: Any
    if kind == "wordpiece":
        trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # type: ignore[call-arg]
        trained.normalizer = normalizers.BertNormalizer(lowercase=True)
        trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIAL, show_progress=False)
    elif kind == "unigram":
        trained = Tokenizer(models.Unigram())
        trained.normalizer = normalizers.NFKC()
        trained.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False)
    else:
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=False)
        trained.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=SPECIAL, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
    trained.train_from_iterator(TEXTS * 3, trainer)
    trained.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return trained


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bytes"])
def test_every_unit_has_the_token_that_starts_in_it(kind: str) -> None:
    words = tokenizer(kind)
    for text in TEXTS:
        encoding, units = words.encode(text), units_of(text)
        tokens = unit_tokens(encoding.offsets, encoding.special_tokens_mask, units)
        assert (tokens != UNSEEN).all()
        for unit, token in zip(units, tokens.tolist(), strict=True):
            start, end = encoding.offsets[token]
            assert start < unit.end
            assert end > unit.start
            earlier = [span for span in encoding.offsets[1:token] if span[1] > unit.start and span[0] < unit.end]
            assert earlier == []  # no token of the unit before it


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bytes"])
def test_tags_that_go_to_tokens_come_back(kind: str) -> None:
    """A perfect model gives back every tag, whatever the tokenizer: the round trip loses nothing."""
    words, names = tokenizer(kind), tag_set(["LOC", "PER"])
    for text in TEXTS:
        encoding, units = words.encode(text), units_of(text)
        tokens = unit_tokens(encoding.offsets, encoding.special_tokens_mask, units)
        # Entities of one unit, so that no token covers the end of one and the beginning of another.
        tags = [
            names.index("B-LOC") if index % 3 == 0 and own else 0 for index, own in enumerate(has_own_token(tokens))
        ]
        labels = token_labels(tokens, tags, len(encoding.ids))
        assert labels[0] == labels[-1] == IGNORED
        assert (labels != IGNORED).sum() == has_own_token(tokens).sum()
        back = unit_classes(labels[labels != IGNORED], unit_states(tokens))
        assert [tag for tag, own in zip(back, has_own_token(tokens), strict=True) if own] == [
            tag for tag, own in zip(tags, has_own_token(tokens), strict=True) if own
        ]


def test_further_pieces_and_special_tokens_carry_no_label() -> None:
    # [CLS] un ##believ ##able river [SEP]
    offsets, special = [(0, 0), (0, 2), (2, 8), (8, 12), (13, 18), (0, 0)], [1, 0, 0, 0, 0, 1]
    tokens = unit_tokens(offsets, special, units_of("unbelievable river"))
    assert tokens.tolist() == [1, 4]
    assert token_labels(tokens, [1, 2], 6).tolist() == [IGNORED, 1, IGNORED, IGNORED, 2, IGNORED]


def test_units_beyond_the_truncation_are_unseen_and_read_as_outside() -> None:
    offsets, special = [(0, 0), (0, 2), (3, 5), (0, 0)], [1, 0, 0, 1]
    tokens = unit_tokens(offsets, special, units_of("ab cd ef gh"))
    assert tokens.tolist() == [1, 2, UNSEEN, UNSEEN]
    assert token_labels(tokens, [1, 2, 1, 2], 4).tolist() == [IGNORED, 1, 2, IGNORED]
    assert unit_classes(np.array([1, 2]), unit_states(tokens)).tolist() == [1, 2, 0, 0]


def test_a_truncated_word_still_has_a_token() -> None:
    tokens = unit_tokens([(0, 0), (0, 2), (0, 0)], [1, 0, 1], units_of("unbelievable"))
    assert tokens.tolist() == [1]


def test_a_token_over_several_units_represents_the_first() -> None:
    """Digits tagged one by one, which a tokenizer takes together."""
    units = units_of("1998年", (1, 2, 3))
    tokens = unit_tokens([(0, 0), (0, 4), (4, 5), (0, 0)], [1, 0, 0, 1], units)
    assert tokens.tolist() == [1, 1, 1, 1, 2]
    assert token_labels(tokens, [1, 2, 2, 2, 2], 4).tolist() == [IGNORED, 1, 2, IGNORED]
    assert unit_classes(np.array([1, 0]), unit_states(tokens)).tolist() == [1, 2, 2, 2, 0]


def test_a_leading_space_in_a_token_is_no_other_unit() -> None:
    tokens = unit_tokens([(0, 2), (2, 5)], [0, 0], units_of("ab cd"))
    assert tokens.tolist() == [0, 1]


def test_nothing_to_align() -> None:
    assert unit_tokens([(0, 0), (0, 0)], [1, 1], units_of("a b")).tolist() == [UNSEEN, UNSEEN]
    assert unit_tokens([(0, 0), (0, 0)], [1, 1], []).tolist() == []
    none = np.array([], dtype=np.int64)
    assert unit_classes(none, np.array([-1, -1])).tolist() == [0, 0]
    assert unit_classes(none, none).tolist() == []
