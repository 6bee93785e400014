from __future__ import annotations

import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from potstill.data.formats.schemes import as_bio2
from potstill.errors import LabelError
from potstill.labels.tags import (
    Entity,
    entities_of,
    inside,
    split_tag,
    tag_set,
    tags_of,
    types_named,
    units_of,
)


def pieces(text: str, cuts: tuple[int, ...] = ()) -> list[str]:
    return [text[start:end] for start, end in units_of(text, cuts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He lives in the U.S., I think", ["He", "lives", "in", "the", "U", ".", "S", ".", ",", "I", "think"]),
        ("我住在北京", list("我住在北京")),
        ("1998年Tom在上海", ["1998", "年", "Tom", "在", "上", "海"]),
        ("東京タワー", list("東京タワー")),
        ("हिन्दी naïve café", ["हिन्दी", "naïve", "café"]),
        ("  \t ", []),
        ("", []),
    ],
)
def test_units(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_a_unit_ends_where_someone_has_marked_an_end() -> None:
    assert pieces("antiUS now", (4, 6)) == ["anti", "US", "now"]
    assert pieces("antiUS now", (0, 10)) == ["antiUS", "now"]


def test_every_visible_character_is_in_exactly_one_unit() -> None:
    generator = random.Random(1)
    text = "".join(chr(generator.choice([*range(33, 0x500), *range(0x4E00, 0x4F00), 0x1F600])) for _ in range(500))
    covered = [position for start, end in units_of(text) for position in range(start, end)]
    assert covered == [position for position, character in enumerate(text) if not character.isspace()]


def test_bio1_becomes_bio2() -> None:
    assert as_bio2(["I-PER", "I-PER", "B-PER", "O", "I-LOC"], "BIO1", "row") == [
        "B-PER",
        "I-PER",
        "B-PER",
        "O",
        "B-LOC",
    ]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (
            "O I-LOC",
            r"rows.jsonl, line 3: 'I-LOC' \(word 2\) continues no LOC entity; in BIO2 an entity begins with B-",
        ),
        ("B-PER I-LOC", r"'I-LOC' \(word 2\) continues no LOC entity"),
        ("O LOC", r"'LOC' \(word 2\) is not a BIO tag; write O, B-TYPE or I-TYPE"),
        ("O B-", r"'B-' \(word 2\) is not a BIO tag"),
    ],
)
def test_invalid_bio2_is_refused_with_the_line(tags: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        as_bio2(tags.split(), "BIO2", "rows.jsonl, line 3")


def test_entities_are_those_of_seqeval_even_of_invalid_tags() -> None:
    generator = random.Random(2)
    names = ["O", "B-a", "I-a", "B-b", "I-b"]
    for _ in range(300):
        tags = generator.choices(names, k=generator.randint(0, 12))
        expected = [Entity(kind, start, end + 1) for kind, start, end in get_entities(tags)]
        assert entities_of(tags) == expected


def test_tags_spell_the_entities_they_are_made_of() -> None:
    entities = [Entity("a", 0, 2), Entity("a", 2, 3), Entity("b", 4, 6)]
    assert tags_of(entities, 7) == ["B-a", "I-a", "B-a", "O", "B-b", "I-b", "O"]
    assert entities_of(tags_of(entities, 7)) == entities
    assert [inside(tag) for tag in ("B-a", "I-a", "O")] == ["I-a", "I-a", "O"]


def test_a_type_may_have_dashes_of_its_own() -> None:
    assert split_tag("B-work-of-art") == ("B", "work-of-art")


def test_a_tag_set_has_both_tags_of_every_type_where_their_index_says_so() -> None:
    tags = tag_set(["PER", "LOC", "PER"])
    assert tags == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    assert [split_tag(tag)[0] for tag in tags] == ["O", *["B", "I"] * 2]
    assert types_named(tags) == ["PER", "LOC"]
