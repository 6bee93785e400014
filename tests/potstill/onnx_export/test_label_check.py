from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from potstill.errors import ParityError
from potstill.inference.runtime import Text, read_card
from potstill.models.loading import load_classifier
from potstill.onnx_export.label_check import LabelCheck, check_labels, onnx_run
from potstill.onnx_export.target_files import Source
from tests.students import write_finished
from tests.teachers import read_rows

pytestmark = pytest.mark.slow

TEXTS: list[Text] = [text for text, _ in read_rows()[:300]]


@pytest.fixture(scope="module")
def source(trained_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    workspace = tmp_path_factory.mktemp("check") / "workspace"
    write_finished(load_classifier(trained_teacher), trained_teacher, workspace, TEXTS)
    serving = workspace / "data/serving"
    return Source(serving, workspace / "data/export/student.fp32.onnx", read_card(serving))


@pytest.mark.parametrize(("wrong", "passes"), [(0, True), (1, True), (2, False)])
def test_one_answer_in_two_hundred_may_differ(source: Source, wrong: int, passes: bool) -> None:
    run = onnx_run(source.fp32)
    calls = iter(range(len(TEXTS)))

    def other(inputs: Mapping[str, Any]) -> Any:
        logits = run(inputs)
        return -logits if next(calls) < wrong else logits

    if passes:
        check = check_labels(other, source, TEXTS, "report it")
        assert (check.texts, check.agreement) == (300, 1 - wrong / 300)
    else:
        with pytest.raises(ParityError, match=r"^99\.33% of the answers to 300 dev texts .* 99\.5%, .*; report it$"):
            check_labels(other, source, TEXTS, "report it")


def test_an_answer_of_nan_is_none(source: Source) -> None:
    with pytest.raises(ParityError, match=r"^0\.00%"):
        check_labels(lambda inputs: np.full((1, 2), np.nan, np.float32), source, TEXTS, "report it")


def test_sentences() -> None:
    labels, numbers = LabelCheck(500, False, 0.998, 0.02), LabelCheck(500, True, 0.99987, 0.1)
    assert labels.agreement_sentence == "99.80% of the answers to 500 dev texts are those of the fp32 model"
    assert numbers.agreement_sentence == "the numbers of 500 dev texts correlate with the fp32 model's at 0.9999"
    assert numbers.difference_sentence == "the largest difference of a number from what ships was 0.100"
