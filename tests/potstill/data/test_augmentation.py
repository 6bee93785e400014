from __future__ import annotations

import pytest

from potstill.config.prepare_params import Augment
from potstill.data.augmentation import augment

TEXTS = ["one two three four five six seven eight nine ten", "a b c d e f g h", "short text"]
CHINESE = ["这部电影真的非常好看", "服务态度太差了不会再来"]


def is_run_of(part: str, text: str) -> bool:
    return part in text


def test_a_crop_is_a_run_of_its_texts_words() -> None:
    copies = augment(TEXTS, Augment(crops=3, splices=0, seed=0))
    assert copies
    for crop in copies:
        assert any(is_run_of(crop, text) for text in TEXTS)
        assert len(crop.split()) >= 3
    assert not set(copies) & set(TEXTS)
    assert len(set(copies)) == len(copies)


def test_a_splice_is_a_cut_of_one_text_and_a_cut_of_another() -> None:
    for splice in augment(TEXTS, Augment(crops=0, splices=4, seed=1)):
        words = splice.split()
        assert any(
            any(is_run_of(" ".join(words[:index]), text) for text in TEXTS)
            and any(is_run_of(" ".join(words[index:]), text) for text in TEXTS)
            for index in range(2, len(words))
        )


def test_a_text_without_spaces_is_cut_between_characters() -> None:
    for crop in augment(CHINESE, Augment(crops=5, splices=0, seed=0)):
        assert any(crop in text for text in CHINESE)
        assert 3 <= len(crop) < 11


def test_the_cuts_of_a_text_depend_on_it_and_the_seed_alone() -> None:
    first = augment(TEXTS, Augment(crops=1, splices=0, seed=5))
    assert (
        augment(["a new row that moves no other", *TEXTS], Augment(crops=1, splices=0, seed=5))[-len(first) :] == first
    )
    assert augment(TEXTS, Augment(crops=1, splices=0, seed=6)) != first


@pytest.mark.parametrize("token", ["[MASK]", "<mask>"])
def test_a_masked_copy_has_a_share_of_its_words_replaced_by_the_token(token: str) -> None:
    copies = augment(TEXTS, Augment(crops=0, splices=0, masks=2, share=0.3, mask_token=token))
    assert len(copies) > len(TEXTS)
    for copy in copies:
        words = copy.split()
        (original,) = [text for text in TEXTS if len(text.split()) == len(words)]
        changed = [word for word, was in zip(words, original.split(), strict=True) if word != was]
        assert changed == [token] * max(round(0.3 * len(words)), 1)


def test_a_shuffled_copy_has_the_same_words_in_spans() -> None:
    copies = augment(TEXTS, Augment(crops=0, splices=0, shuffles=3))
    assert len(copies) >= 3
    for copy in copies:
        (original,) = [text for text in TEXTS if sorted(text.split()) == sorted(copy.split())]
        words, was = copy.split(), original.split()
        neighbours = sum(
            was[index : index + 2] in [words[to : to + 2] for to in range(len(words))] for index in range(len(was))
        )
        assert 2 <= neighbours < len(was)  # spans of two words or more, in another order


def test_a_text_without_spaces_is_masked_and_shuffled_by_characters() -> None:
    copies = augment(CHINESE, Augment(crops=0, splices=0, masks=1, shuffles=1))
    masked = [text for text in copies if "[MASK]" in text]
    assert len(masked) == 2
    assert [len(text.replace("[MASK]", "")) for text in masked] == [len(text) - 3 for text in CHINESE]
    shuffled = [text for text in copies if "[MASK]" not in text]
    assert sorted(map(sorted, shuffled)) == sorted(map(sorted, CHINESE))


def test_further_kinds_leave_the_cuts_as_they_were() -> None:
    cuts = augment(TEXTS, Augment(crops=2, splices=2, seed=3))
    more = augment(TEXTS, Augment(crops=2, splices=2, masks=2, shuffles=2, seed=3))
    assert [text for text in more if text in cuts] == cuts
    assert len(more) > len(cuts)
