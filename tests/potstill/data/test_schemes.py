from __future__ import annotations

import pytest

from potstill.data.formats.schemes import Scheme, as_bio2, scheme_of
from potstill.errors import LabelError

BIO2 = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "O", "B-PER"]


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [
        ("BIO2", BIO2),
        ("BIO1", ["I-PER", "I-PER", "O", "I-LOC", "B-LOC", "O", "I-PER"]),
        ("BIOES", ["B-PER", "E-PER", "O", "S-LOC", "S-LOC", "O", "S-PER"]),
        ("BILOU", ["B-PER", "L-PER", "O", "U-LOC", "U-LOC", "O", "U-PER"]),
    ],
)
def test_a_scheme_is_found_and_converted(scheme: Scheme, tags: list[str]) -> None:
    assert scheme_of([tags]) == scheme
    assert as_bio2(tags, scheme, "row") == BIO2


def test_bmes_writes_m_within_an_entity() -> None:
    tags = ["B-NAME", "M-NAME", "E-NAME", "O"]
    assert scheme_of([tags]) == "BIOES"
    assert as_bio2(tags, "BIOES", "row") == ["B-NAME", "I-NAME", "I-NAME", "O"]


@pytest.mark.parametrize("tags", ["PER PER O LOC", "I-PER I-PER O I-LOC"])
def test_io_joins_neighbours_of_one_type(tags: str) -> None:
    assert as_bio2(tags.split(), "IO", "row") == ["B-PER", "I-PER", "O", "B-LOC"]


@pytest.mark.parametrize(
    ("scheme", "tags", "message"),
    [
        ("BIO2", "O I-PER", r"row: 'I-PER' \(word 2\) continues no PER entity"),
        ("BIOES", "S-PER E-PER", r"'E-PER' \(word 2\) continues no PER entity"),
        ("BIO2", "O E-PER", r"'E-PER' \(word 2\) is not a BIO tag"),
        ("BIO2", "O person-actor", "set prepare.label.scheme to IO"),
        ("BIO2", "O 3", r"prepare.label.names: \[O, B-TYPE, I-TYPE\]"),
    ],
)
def test_tags_that_are_not_of_the_scheme(scheme: Scheme, tags: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        as_bio2(tags.split(), scheme, "row")


def test_one_stray_tag_makes_no_scheme() -> None:
    assert scheme_of([["I-PER"], ["B-PER", "O"], ["B-LOC"]]) == "BIO2"
