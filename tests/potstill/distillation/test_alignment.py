from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from potstill.distillation.alignment import aligned_places, aligned_tokens, overlaps
from potstill.errors import SignalError


def cuts(text: str, places: set[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Offsets of the pieces of a text cut at these places, between two special tokens."""
    ends = sorted({place for place in places if 0 < place < len(text)} | {0, len(text)})
    pieces = list(pairwise(ends))
    return np.array([(0, 0), *pieces, (0, 0)])


@some.composite
def both(draw: some.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    text = draw(some.text("abc ", min_size=1, max_size=12))
    sides = [cuts(text, draw(some.sets(some.integers(1, 11), max_size=6))) for _ in range(2)]
    random = np.random.default_rng(draw(some.integers(0, 99)))
    return sides[0], sides[1], random.dirichlet(np.ones(3), len(sides[1]))


@given(both())
def test_a_tokens_answer_is_the_mean_over_its_characters(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],  # type: ignore[type-arg]
) -> None:
    student, teacher, answers = case
    found, known = aligned_tokens(answers, student, teacher)
    # A plain reference: character by character.
    owner = {place: token for token, (first, after) in enumerate(teacher) for place in range(first, after)}
    for token, (first, after) in enumerate(student):
        characters = [answers[owner[place]] for place in range(first, after)]
        assert known[token] == bool(characters)
        wanted = np.mean(characters, axis=0) if characters else np.zeros(3)
        assert np.allclose(found[token], wanted)


@given(both())
def test_equal_tokens_keep_their_answers(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],  # type: ignore[type-arg]
) -> None:
    _, offsets, answers = case
    found, known = aligned_tokens(answers, offsets, offsets)
    assert np.allclose(found[known], answers[known])
    starts, lost = aligned_places(answers[:, 0], offsets, offsets, "last")
    assert np.allclose(starts[known], answers[known, 0])
    assert lost == pytest.approx(answers[~known, 0].sum())


@given(both())
def test_a_place_goes_to_the_token_with_its_character(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],  # type: ignore[type-arg]
) -> None:
    student, teacher, answers = case
    for which, end in (("first", 0), ("last", 1)):
        for token, (first, after) in enumerate(teacher):
            only = np.zeros(len(teacher))
            only[token] = answers[token, 0]
            found, lost = aligned_places(only, student, teacher, which)  # type: ignore[arg-type]
            assert found.sum() + lost == pytest.approx(answers[token, 0])
            if first == after:
                assert lost == pytest.approx(answers[token, 0])
                continue
            place = (first, after - 1)[end]
            (owner,) = [number for number, (begin, stop) in enumerate(student) if begin <= place < stop]
            assert found[owner] == pytest.approx(answers[token, 0])


def test_a_space_that_one_side_counts_in_and_a_cut_text() -> None:
    student = np.array([(0, 0), (0, 3), (4, 6), (0, 0)])  # "the ca", without the rest
    teacher = np.array([(0, 0), (0, 3), (3, 7), (7, 9), (0, 0)])  # "the", " cat", "ch"
    assert overlaps(student, teacher).tolist()[2] == [0, 0, 2, 0, 0]
    answers = np.eye(5)[:, :2] + np.array([[0, 0], [0, 0], [0.5, 0.5], [1, 0], [0, 0]])
    found, known = aligned_tokens(answers, student, teacher)
    assert known.tolist() == [False, True, True, False]
    assert found[1:3].tolist() == [[0, 1], [0.5, 0.5]]
    starts, lost = aligned_places(np.array([0.1, 0.2, 0.3, 0.4, 0.0]), student, teacher, "first")
    assert starts.tolist() == [0, 0.2, 0.3, 0]
    assert lost == pytest.approx(0.5)


@pytest.mark.parametrize("offsets", [np.zeros((3, 3), int), np.zeros(4, int), np.array([(2, 1)])])
def test_offsets_that_are_none(offsets: np.ndarray) -> None:  # type: ignore[type-arg]
    good = np.array([(0, 1)])
    with pytest.raises(SignalError, match="the student's offsets are"):
        overlaps(offsets, good)
    with pytest.raises(SignalError, match="the teacher's offsets are"):
        overlaps(good, offsets)
    with pytest.raises(SignalError, match="about 2 tokens and its offsets about 1"):
        aligned_tokens(np.zeros((2, 2)), good, good)
