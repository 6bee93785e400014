"""The perturbations by name, and the tests that they make of test rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
from numpy.random import Generator

from potstill.config.behaviour_params import TESTS_OF_LANGUAGE, Behaviour, Language, TestName
from potstill.evaluation.behaviour import chinese, typography, wording
from potstill.evaluation.behaviour.cases import BehaviourTest, Case
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind

if TYPE_CHECKING:
    from potstill.inference.runtime import Label, Text

Perturbation = Callable[[str, Generator], str | None]
PERTURBATIONS: dict[TestName, Perturbation] = {
    "typo_swap": typography.swap_letters,
    "typo_key": typography.hit_next_key,
    "typo_drop": typography.drop_letter,
    "typo_double": typography.double_letter,
    "case_lower": typography.lower_case,
    "case_upper": typography.upper_case,
    "case_title": typography.title_case,
    "punctuation_dropped": typography.drop_punctuation,
    "punctuation_end": typography.end_with_full_stop,
    "punctuation_doubled": typography.double_punctuation,
    "space_doubled": typography.double_spaces,
    "space_around": typography.pad_with_spaces,
    "space_stripped": typography.strip_spaces,
    "negation": wording.negate,
    "names": wording.swap_names,
    "numbers": wording.change_numbers,
    "neutral_url": wording.add_address,
    "neutral_before": wording.add_sentence_before,
    "neutral_after": wording.add_sentence_after,
    "width_full": chinese.widen,
    "width_half": chinese.narrow,
    "script": chinese.change_script,
    "character_doubled": chinese.double_character,
}


def language_of(texts: Sequence[Text]) -> Language:
    """Choose the language whose tests fit some texts: zh if enough of all their characters are Chinese, else en."""
    return "zh" if chinese.is_chinese("".join(map(_first, texts))) else "en"


def chosen_tests(behaviour: Behaviour, task: TaskKind, language: Language) -> list[TestName]:
    """Choose the perturbations to try: those that params name, or all that language and task have."""
    if behaviour.tests is not None:
        return list(dict.fromkeys(behaviour.tests))
    return [
        name
        for name in TESTS_OF_LANGUAGE[language]
        if name not in KINDS[task].unfit_perturbations and (name != "negation" or behaviour.negated_labels)
    ]


def perturbed_tests(
    texts: Sequence[Text],
    labels: Sequence[Label] | None,
    names: Sequence[TestName],
    behaviour: Behaviour,
    *,
    seed: int,
) -> list[BehaviourTest]:
    """Make tests of test rows. Each takes the first rows, in a drawn order, that its perturbation applies to.

    Args:
        texts: [rows]; of a pair, the first text is changed.
        labels: [rows] gold classes by name, which only `negation` reads.
        names: perturbations, as `chosen_tests` gives them.
        behaviour: number of rows, labels to negate.
        seed: seed of the order and of all changes; the change of a row does not depend on the other rows.
    """
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    return [_perturbed_test(texts, labels, name, behaviour, order, seed) for name in names]


def _perturbed_test(
    texts: Sequence[Text],
    labels: Sequence[Label] | None,
    name: TestName,
    behaviour: Behaviour,
    order: Sequence[int],
    seed: int,
) -> BehaviourTest:
    cases: list[Case] = []
    for row in order:
        if len(cases) == behaviour.rows:
            break
        label = None
        if name == "negation":
            assert labels is not None, "negation needs gold labels"
            label = labels[row]
            if str(label) not in map(str, behaviour.negated_labels):
                continue
        changed = perturb(texts[row], name, np.random.default_rng([seed, crc32(name.encode()), row]))
        if changed is not None:
            cases.append(Case(texts[row], changed, label))
    if name == "negation":
        return BehaviourTest(name, "DIR", tuple(cases), "falls")
    return BehaviourTest(name, "INV", tuple(cases))


def perturb(text: Text, name: TestName, random: Generator) -> Text | None:
    """Change a text, or the first text of a pair; None where the perturbation does not apply."""
    changed = PERTURBATIONS[name](_first(text), random)
    return changed if changed is None or isinstance(text, str) else (changed, text[1])


def _first(text: Text) -> str:
    return text if isinstance(text, str) else text[0]
