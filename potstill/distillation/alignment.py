"""Answers about tokens, carried from one tokenizer to another by the characters that tokens cover.

For teachers and students that split texts differently, on tasks that answer token by token (labels of tokens) or with a
place in the text (the start and the end of an answer). Both sides give the offsets of their tokens in the same text, as
tokenizers return them: [tokens, 2] first character and the one after the last; special tokens and padding are empty
(first = after). Pure functions; probabilities come in and go out, since a mean of logits is none of probabilities.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from potstill.errors import SignalError

Offsets = npt.NDArray[np.integer]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def overlaps(student: Offsets, teacher: Offsets) -> Floats:
    """[student tokens, teacher tokens] how many characters two tokens have in common.

    Raises:
        SignalError: offsets are not [tokens, 2] from a character to a later one or the same.
    """
    for owner, offsets in (("student", student), ("teacher", teacher)):
        if offsets.ndim != 2 or offsets.shape[1] != 2 or (offsets[:, 0] > offsets[:, 1]).any():
            raise SignalError(
                f"the {owner}'s offsets are {list(offsets.shape)}; they have to be [tokens, 2], each from the first "
                "character to the one after the last"
            )
    first = np.maximum(student[:, None, 0], teacher[None, :, 0])
    after = np.minimum(student[:, None, 1], teacher[None, :, 1])
    common: Floats = np.maximum(after - first, 0).astype(np.float64)
    return common


def aligned_tokens(probabilities: Floats, student: Offsets, teacher: Offsets) -> tuple[Floats, Bools]:
    """The teacher's answer for each of the student's tokens: the mean over its characters.

    Args:
        probabilities: [teacher tokens, classes] of the teacher.
        student: [student tokens, 2] offsets.
        teacher: [teacher tokens, 2] offsets.

    Returns:
        [student tokens, classes] probabilities, 0 where there are none, and [student tokens] whether a teacher's token
        covers any of its characters: special tokens and those behind the teacher's cut have no answer.

    Raises:
        SignalError: see `overlaps`; also probabilities of other tokens.
    """
    _check_tokens(probabilities, teacher)
    shared = overlaps(student, teacher)
    characters = shared.sum(axis=1, keepdims=True)
    return (shared / np.maximum(characters, 1)) @ probabilities, characters[:, 0] > 0


def aligned_places(
    probabilities: Floats, student: Offsets, teacher: Offsets, which: Literal["first", "last"]
) -> tuple[Floats, float]:
    """The teacher's distribution over where an answer starts or ends, over the student's tokens.

    A teacher's token passes its probability to the student's token that has its first (last) character. Where that is
    no token's, as the space that some tokenizers count in, the next one inside the teacher's token counts.

    Args:
        probabilities: [teacher tokens] that the answer starts (ends) there.
        student: [student tokens, 2] offsets.
        teacher: [teacher tokens, 2] offsets.
        which: `first` for starts, `last` for ends.

    Returns:
        [student tokens] probabilities, and what was lost: the probability of special tokens (no answer) and of tokens
        of which the student has no character. They add up to the sum that came in.

    Raises:
        SignalError: see `aligned_tokens`.
    """
    _check_tokens(probabilities, teacher)
    shared = overlaps(student, teacher) > 0
    order = shared if which == "first" else shared[::-1]
    places = order.argmax(axis=0)
    places = places if which == "first" else len(student) - 1 - places
    known = shared.any(axis=0)
    found = np.zeros(len(student), dtype=np.float64)
    np.add.at(found, places[known], probabilities[known])
    return found, float(probabilities[~known].sum())


def _check_tokens(probabilities: Floats, teacher: Offsets) -> None:
    if len(probabilities) != len(teacher):
        raise SignalError(
            f"the teacher's answers are about {len(probabilities)} tokens and its offsets about {len(teacher)}; "
            "give both of the same text"
        )
