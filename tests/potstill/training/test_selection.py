from __future__ import annotations

import json
import math

import pytest

from potstill.training.selection import Score, Selection


def evaluations(selection: Selection, scores: list[Score]) -> tuple[list[bool], int]:
    """Return which evaluations were the best so far, and how many ran before patience ended."""
    better = []
    for score in scores:
        if selection.stopped:
            break
        better.append(selection.add(score))
    return better, len(better)


def test_weights_are_selected_by_score_then_agreement() -> None:
    better, _ = evaluations(Selection(None, 3), [(0.5, 0.9), (0.6, 0.1), (0.6, 0.1), (0.6, 0.2), (0.59, 1.0)])
    assert better == [True, True, False, True, False]


def test_patience_waits_for_a_gain_of_the_mean_over_the_window() -> None:
    # One lucky evaluation, then a slow rise: compared one by one, the rise is no gain.
    scores: list[Score] = [0.50, 0.80, 0.60, 0.65, 0.70, 0.75, 0.76]
    assert evaluations(Selection(3, 1), scores)[1] == 5
    assert evaluations(Selection(3, 2), scores)[1] == 7
    # Means of 2: 0.5, 0.65, 0.7, 0.625, 0.675, 0.725, 0.755.
    selection = Selection(2, 2)
    assert evaluations(selection, scores)[1] == 5
    assert (selection.best, selection.without_gain) == ((0.8, 0.0), 2)


def test_a_nan_score_is_no_gain() -> None:
    selection = Selection(2, 1)
    assert evaluations(selection, [0.5, math.nan, math.nan, 0.9])[1] == 3
    assert selection.best == (0.5, 0.0)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("cut", [0, 1, 3])
def test_selection_resumes_from_a_checkpoint(cut: int, window: int) -> None:
    scores: list[Score] = [0.5, 0.8, (0.6, 0.3), 0.65, 0.7]
    straight, resumed = Selection(2, window), Selection(2, window)
    before = Selection(2, window)
    evaluations(before, scores[:cut])
    resumed.restore(json.loads(json.dumps(before.state())))
    evaluations(resumed, scores[cut:])
    evaluations(straight, scores)
    assert resumed.state() == straight.state()
