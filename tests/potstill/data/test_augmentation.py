from __future__ import annotations

from potstill.data.augmentation import augment

TEXTS = ["one two three four five six seven eight nine ten", "a b c d e f g h", "short text"]
CHINESE = ["这部电影真的非常好看", "服务态度太差了不会再来"]


def is_run_of(part: str, text: str) -> bool:
    return part in text


def test_a_crop_is_a_run_of_its_texts_words() -> None:
    made = augment(TEXTS, crops=3, splices=0, seed=0)
    assert made
    for crop in made:
        assert any(is_run_of(crop, text) for text in TEXTS)
        assert len(crop.split()) >= 3
    assert not set(made) & set(TEXTS)
    assert len(set(made)) == len(made)


def test_a_splice_is_a_cut_of_one_text_and_a_cut_of_another() -> None:
    for splice in augment(TEXTS, crops=0, splices=4, seed=1):
        words = splice.split()
        assert any(
            any(is_run_of(" ".join(words[:at]), text) for text in TEXTS)
            and any(is_run_of(" ".join(words[at:]), text) for text in TEXTS)
            for at in range(2, len(words))
        )


def test_a_text_without_spaces_is_cut_between_characters() -> None:
    for crop in augment(CHINESE, crops=5, splices=0, seed=0):
        assert any(crop in text for text in CHINESE)
        assert 3 <= len(crop) < 11


def test_the_cuts_of_a_text_depend_on_it_and_the_seed_alone() -> None:
    first = augment(TEXTS, crops=1, splices=0, seed=5)
    assert augment(["a new row that moves no other", *TEXTS], crops=1, splices=0, seed=5)[-len(first) :] == first
    assert augment(TEXTS, crops=1, splices=0, seed=6) != first
