"""Each perturbation keeps what it promises, for any text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.config.behaviour_params import TEST_NAMES, TESTS_OF_LANGUAGE, Behaviour, TestName
from potstill.evaluation.behaviour.catalogue import PERTURBATIONS, chosen_tests, language_of, perturb, perturbed_tests
from potstill.evaluation.behaviour.chinese import HAN
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind

WORDS = st.sampled_from(
    [
        *("the", "film", "was", "not good", "is", "Anna's", "David", "isn't", "24", "5 stars", "3/10", "great,"),
        *(
            "(really)",
            "https://x.org/a-b",
            "it's",
            "这家",
            "很好。",
            "頭髮",
            "１２",
            "，don't",
            "24",
            "okay:",
            "STRAßE",
        ),
    ]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=30).map(" ".join) | st.text(st.characters(codec="utf-8"), max_size=60)
SEEDS = st.integers(0, 2**16)


def change(name: TestName, text: str, seed: int = 0) -> str | None:
    changed = perturb(text, name, np.random.default_rng(seed))
    assert changed is None or isinstance(changed, str)
    return changed


def changes(names: Sequence[TestName], text: str, seed: int = 0) -> Iterator[str]:
    """The changed texts of those perturbations that apply to a text."""
    return (changed for name in names if (changed := change(name, text, seed)) is not None)


def test_every_name_has_a_perturbation() -> None:
    assert tuple(PERTURBATIONS) == TEST_NAMES
    assert set(TESTS_OF_LANGUAGE["en"]) | set(TESTS_OF_LANGUAGE["zh"]) == set(TEST_NAMES)


@pytest.mark.parametrize("name", TEST_NAMES)
@given(text=TEXTS, seed=SEEDS)
def test_a_perturbation_never_gives_the_text_itself_and_repeats_by_seed(name: TestName, text: str, seed: int) -> None:
    changed = change(name, text, seed)
    assert changed != text
    assert changed == change(name, text, seed)


@given(text=TEXTS)
def test_case_changes_only_case(text: str) -> None:
    for changed in changes(["case_lower", "case_upper", "case_title"], text):
        assert len(changed) == len(text)
        assert [character.lower() for character in changed] == [character.lower() for character in text]


@given(text=TEXTS, seed=SEEDS)
def test_typos_stay_within_words(text: str, seed: int) -> None:
    for changed in changes(["typo_swap"], text, seed):
        assert sorted(changed) == sorted(text)
    for changed in changes(["typo_key"], text, seed):
        assert len(changed) == len(text)
    for changed in changes(["typo_drop"], text, seed):
        assert len(text) > len(changed) >= len(text) - 1 - len(text) // 40
    for changed in changes(["typo_double"], text, seed):
        assert re.sub(r"(.)\1+", r"\1", changed) == re.sub(r"(.)\1+", r"\1", text)
    for changed in changes(["typo_swap", "typo_key", "typo_drop", "typo_double"], text, seed):
        assert [word[:1] for word in changed.split()] == [word[:1] for word in text.split()]


@given(text=TEXTS)
def test_punctuation_changes_no_letter_or_digit(text: str) -> None:
    for changed in changes(["punctuation_dropped", "punctuation_end", "punctuation_doubled"], text):
        assert re.sub(r"[\W_]", "", changed) == re.sub(r"[\W_]", "", text)


@given(text=TEXTS)
def test_white_space_changes_no_word(text: str) -> None:
    for changed in changes(["space_doubled", "space_around", "space_stripped"], text):
        assert changed.split() == text.split()


@given(text=TEXTS, seed=SEEDS)
def test_tests_of_entities_move_no_character(text: str, seed: int) -> None:
    for name in sorted({*TEST_NAMES} - {*KINDS["token_classification"].unfit_perturbations}):
        for changed in changes([name], text, seed):
            assert changed.startswith(text) or len(changed) == len(text)


@given(text=TEXTS, seed=SEEDS)
def test_numbers_keep_their_length(text: str, seed: int) -> None:
    for changed in changes(["numbers"], text, seed):
        assert re.sub("[0-9]", "0", changed) == re.sub("[0-9]", "0", text)


@given(text=TEXTS, seed=SEEDS)
def test_additions_keep_the_text(text: str, seed: int) -> None:
    before, after, address = changes(["neutral_before", "neutral_after", "neutral_url"], text, seed)
    assert before.endswith(text)
    assert after.startswith(text)
    assert address.startswith(f"{text} https://example.com/")


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1))
def test_width_changes_back(text: str) -> None:
    (wide,) = changes(["width_full"], text)
    assert change("width_half", wide) == text


@given(text=TEXTS, seed=SEEDS)
def test_only_chinese_characters_are_doubled(text: str, seed: int) -> None:
    for changed in changes(["character_doubled"], text, seed):
        assert HAN.sub("", changed) == HAN.sub("", text)
        assert len(changed) - len(text) == -(-len(HAN.findall(text)) // 20)


@pytest.mark.parametrize(
    ("name", "text", "changed"),
    [
        ("negation", "The film is good.", "The film is not good."),
        ("negation", "The film isn't good.", "The film is good."),
        ("negation", "It’s a good film", "It’s not a good film"),
        ("negation", "I love this film", "I do not love this film"),
        ("negation", "I do not like it.", "I do like it."),
        ("negation", "It does not work.", "It does work."),
        ("negation", "You can't watch it", "You can watch it"),
        ("negation", "They won't regret it", "They will regret it"),
        ("negation", "Is it good?", None),
        ("negation", "Is it good", None),
        ("negation", "The film is long but good.", None),
        ("negation", "The film is good. The cast is bad.", None),
        ("negation", "The film is never dull.", None),
        ("negation", "It has holes, and it is dull.", None),
        ("negation", "A good film.", None),
        ("negation", "Do not watch this", None),
        ("numbers", "rated 5 stars, 3/10, 4.5, $20, a5, 50%", None),
        ("numbers", "评分5星", None),
        ("names", "Mark my words, he will rose.", None),
        (
            "punctuation_dropped",
            "Well, don't (ever) pay 1,000 :) at https://x.org/a,b!",
            "Well don't ever pay 1,000 :) at https://x.org/a,b!",
        ),
        ("punctuation_end", "A good film", "A good film."),
        ("punctuation_end", "服务很好", "服务很好。"),
        ("punctuation_end", "A good film!", None),
        ("punctuation_doubled", "Good, at 10:30 in x.y!", "Good,, at 10:30 in x.y!!"),
        ("punctuation_doubled", "很好，推荐。", "很好，，推荐。。"),
        ("case_title", "don't miss STRASSE", "Don't Miss STRASSE"),
        ("case_upper", "straße", "STRAßE"),
        ("width_full", "5星!", "５星！"),
        ("width_half", "好，５星。", "好,5星."),
        ("script", "头发干燥，服务很好", "頭髮乾燥，服務很好"),
        ("script", "頭髮乾燥，服務很好", "头发干燥，服务很好"),
        ("script", "plain ASCII", None),
    ],
)
def test_examples(name: TestName, text: str, changed: str | None) -> None:
    assert change(name, text) == changed


def test_years_stay_in_their_century() -> None:
    (changed,) = changes(["numbers"], "from 1987 on")
    assert re.fullmatch(r"from 19\d\d on", changed)


def test_names_are_swapped_everywhere_and_stay_apart() -> None:
    (changed,) = changes(["names"], "Anna met David. Anna's dog bit David.")
    match = re.fullmatch(r"(\w+) met (\w+)\. (\w+)'s dog bit (\w+)\.", changed)
    assert match is not None
    assert (match[1], match[2]) == (match[3], match[4])
    assert len({match[1], match[2], "Anna", "David"}) == 4


def test_the_first_text_of_a_pair_is_changed() -> None:
    pair = ("It is late.", "It is EARLY.")
    assert perturb(pair, "case_upper", np.random.default_rng(0)) == ("IT IS LATE.", "It is EARLY.")


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["服务很好 iPhone 也不错"], "zh"),
        (["a film about 北京"], "en"),
        ([("很好", "a long English text")], "zh"),
        ([], "en"),
    ],
)
def test_the_language_is_that_of_the_characters(texts: list[str | tuple[str, str]], language: str) -> None:
    assert language_of(texts) == language


@pytest.mark.parametrize("task", list(KINDS))
def test_tests_are_those_of_language_and_task(task: TaskKind) -> None:
    names = chosen_tests(Behaviour(), task, "en")
    assert "negation" not in names
    assert ("names" in names) is (task not in ("token_classification", "question_answering"))
    assert "script" in chosen_tests(Behaviour(), task, "zh")
    assert chosen_tests(Behaviour(tests=["names", "case_lower", "names"]), task, "zh") == ["names", "case_lower"]
    assert chosen_tests(Behaviour(tests=[]), task, "en") == []


def test_a_test_takes_the_drawn_rows_that_it_applies_to() -> None:
    texts = [f"The film {number} is good." if number % 4 else "Film" for number in range(40)]
    labels = ["positive" if number % 2 else "negative" for number in range(40)]
    behaviour = Behaviour(rows=8, negated_labels=["positive"])
    tests = perturbed_tests(texts, labels, ["negation", "case_lower", "numbers"], behaviour, seed=3)
    assert tests == perturbed_tests(texts, labels, ["negation", "case_lower", "numbers"], behaviour, seed=3)
    assert [(test.name, test.kind, test.direction, len(test.cases)) for test in tests] == [
        ("negation", "DIR", "falls", 8),
        ("case_lower", "INV", None, 8),
        ("numbers", "INV", None, 8),
    ]
    assert {case.expected for case in tests[0].cases} == {"positive"}
    assert tests[1].cases != perturbed_tests(texts, labels, ["case_lower"], behaviour, seed=4)[0].cases
    row = texts.index(tests[2].cases[0].text)
    random = np.random.default_rng([3, crc32(b"numbers"), row])
    assert tests[2].cases[0].changed == perturb(texts[row], "numbers", random)
