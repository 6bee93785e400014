from __future__ import annotations

import ast

import pytest

from tests.chaos.trial_table import TRIALS, Trial
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.test.rpartition("::")[2])
def test_the_test_of_a_trial_exists(trial: Trial) -> None:
    path, _, name = trial.test.partition("::")
    definitions = ast.walk(ast.parse((REPOSITORY / path).read_text(encoding="utf-8")))
    assert name in {item.name for item in definitions if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
