from __future__ import annotations

import pytest

from potstill.errors import ModelError
from potstill.models.students.layer_choice import candidate_layers, default_layers
from potstill.studies.layer_probe import Probed, ranked


@pytest.mark.parametrize(
    ("available", "count", "expected"),
    [
        (1, None, [0]), (4, None, [0, 2]), (5, None, [0, 2]), (6, None, [0, 2, 4]), (12, None, [0, 2, 4, 6, 8, 10]),
        (12, 4, [0, 3, 6, 9]), (7, 4, [0, 1, 3, 5]), (3, 3, [0, 1, 2]),
    ],
)  # fmt: skip
def test_the_default_layers(available: int, count: int | None, expected: list[int]) -> None:
    assert default_layers(available, count) == expected


def test_the_usual_choices() -> None:
    assert candidate_layers(6, 3) == [(0, 2, 4), (1, 3, 5), (0, 2, 5), (0, 1, 2), (3, 4, 5), (0, 1, 5)]
    assert candidate_layers(12, 4)[:3] == [(0, 3, 6, 9), (2, 5, 8, 11), (0, 4, 7, 11)]
    assert candidate_layers(5, 1) == [(0,), (4,)]
    assert candidate_layers(4, 4) == [(0, 1, 2, 3)]


@pytest.mark.parametrize("available", range(1, 13))
def test_each_choice_is_of_the_layers_there_are(available: int) -> None:
    for count in range(1, available + 1):
        found = candidate_layers(available, count)
        assert len(set(found)) == len(found)
        for layers in found:
            assert len(set(layers)) == count
            assert list(layers) == sorted(layers)
            assert 0 <= layers[0] <= layers[-1] < available


@pytest.mark.parametrize("count", [0, 7])
def test_as_many_layers_as_there_are_not(count: int) -> None:
    with pytest.raises(ModelError, match=f"{count} layers cannot be chosen of 6; ask for 1 to 6"):
        candidate_layers(6, count)


def test_agreement_comes_first_and_then_nearness() -> None:
    one, two, three = (Probed((number,), *scores, 0.5, 1.0) for number, scores in enumerate(
        [(0.8, 0.1), (0.9, 0.3), (0.9, 0.2)]
    ))  # fmt: skip
    assert ranked([one, two, three]) == [three, two, one]
