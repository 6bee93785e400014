from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as some

from potstill.evaluation.gate_checks import Check
from potstill.evaluation.gates import Verdict
from potstill.evaluation.pages.plots import Cost, pareto
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.studies.pareto import Point, better_without_student, cheapest, dominates, front


def _point(name: str, score: float, ms: float, mb: float, *, passed: bool | None = True) -> Point:
    verdict = None if passed is None else Verdict((Check("scored", score, None, passed, "so"),))
    return Point(name, "layers", score, ms, mb, {}, verdict=verdict)


POINTS = [
    _point("teacher", 0.90, 12.0, 90.0, passed=None),
    _point("three", 0.89, 2.0, 19.0),
    _point("worse three", 0.88, 2.0, 19.0),
    _point("one", 0.80, 0.8, 14.0, passed=False),
    _point("static", 0.82, 0.1, 15.0),
]


def test_the_front_by_hand() -> None:
    assert [one.name for one in front(POINTS)] == ["static", "one", "three", "teacher"]


def test_the_cheapest_passes() -> None:
    point = cheapest(POINTS)
    assert point is not None
    assert point.name == "static"
    assert cheapest([one for one in POINTS if one.verdict is None or not one.verdict.passed]) is None
    even = [_point("large", 0.9, 1.0, 20.0), _point("small", 0.9, 1.0, 10.0)]
    small = cheapest(even)
    assert small is not None
    assert small.name == "small"


def test_what_needs_no_student_is_named_if_it_is_as_good_and_as_cheap() -> None:
    assert better_without_student(POINTS) == []
    tfidf = _point("tf-idf", 0.82, 0.1, 1.0, passed=None)
    slow = _point("quantized teacher", 0.9, 5.0, 23.0, passed=None)
    assert better_without_student([*POINTS, tfidf, slow]) == [tfidf]
    assert better_without_student([tfidf, slow]) == []  # no student passes, so the gates say what there is to say


numbers = some.floats(0.1, 10, allow_nan=False)


@given(some.lists(some.tuples(numbers, numbers, numbers), min_size=1, max_size=12))
def test_every_point_is_on_the_front_or_beaten_by_one_that_is(values: list[tuple[float, float, float]]) -> None:
    points = [_point(str(place), *value) for place, value in enumerate(values)]
    best = front(points)
    assert best
    for one in points:
        assert (one in best) != any(dominates(other, one) for other in best)


@pytest.mark.slow
def test_the_picture_is_svg_and_png() -> None:
    models = [Cost("teacher", "teacher", 0.9, 12, 90, True), Cost("3 layers", "layers", 0.88, 2, 19, True)]
    svg, png = pareto(
        [*models, Cost("static", "static", 0.8, 0.1, 15, False)], [(2.0, 19.0, 0.87)], KINDS["single_label"].scoring
    )
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "3 layers" in svg
    assert png.startswith(b"\x89PNG")
    again: Any = pareto(
        [*models, Cost("static", "static", 0.8, 0.1, 15, False)], [(2.0, 19.0, 0.87)], KINDS["single_label"].scoring
    )
    assert again == (svg, png)


@pytest.mark.parametrize("dots", [[], [(1.0, 2.0, 0.5)] * 3])
def test_a_picture_of_one_model(dots: list[tuple[float, float, float]]) -> None:
    drawn = pareto([Cost("teacher", "teacher", 0.9, 12, 90, True)], dots, KINDS["regression"].scoring)
    assert drawn[0].startswith("<svg")
