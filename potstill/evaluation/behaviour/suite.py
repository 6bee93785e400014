"""The tests that params ask for: perturbations of test rows, then the user's templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.config.behaviour_params import Behaviour, Language
from potstill.evaluation.behaviour.cases import BehaviourTest
from potstill.evaluation.behaviour.catalogue import chosen_tests, language_of, perturbed_tests
from potstill.evaluation.behaviour.templates import read_templates, template_tests
from potstill.kinds.task_names import TaskKind

if TYPE_CHECKING:
    from potstill.inference.runtime import Label, Text


@dataclass(frozen=True)
class Suite:
    """The language of the texts, and the tests in the order of every table."""

    language: Language
    tests: list[BehaviourTest]


def make_suite(
    behaviour: Behaviour,
    task: TaskKind,
    labels: Sequence[Label],
    texts: Sequence[Text],
    gold: Sequence[Label] | None,
    *,
    pair: bool,
    seed: int,
) -> Suite:
    """Make all tests.

    Args:
        behaviour: params.
        task: kind of task.
        labels: the model's labels.
        texts: [rows] of the test split.
        gold: [rows] gold classes by name; None for tasks but single_label.
        pair: whether a text is two texts.
        seed: seed of the rows that are drawn, of their changes and of the cases of large templates.

    Raises:
        ParamsError: a template does not fit; see `read_templates`.
    """
    language = language_of(texts) if behaviour.language == "auto" else behaviour.language
    names = chosen_tests(behaviour, task, language)
    tests = perturbed_tests(texts, gold, names, behaviour, seed=seed)
    if behaviour.templates is not None:
        file = read_templates(Path(behaviour.templates), task, labels, pair=pair)
        tests += template_tests(file, rows=behaviour.rows, seed=seed)
    return Suite(language, tests)
