from __future__ import annotations

from pathlib import Path

import pytest

from potstill.artifacts import read_json
from potstill.config.params import Params
from potstill.training.forecast import Speed, forecast, measure_speed, scratch_config
from potstill.training.plan import DataSize

# Seconds of the whole recipe on 2026-11-22, on a machine with 67 GFLOP/s in fp32.
MEASURED = {"teacher": 412, "signals": 263, "distill": 367, "finetune": 145, "control": 990}
DEFAULT = DataSize(rows=7046, tokens=26.9, outputs=2, transfer=41_169)
BERT = {
    "model_type": "bert",
    "vocab_size": 30_522,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
}


def test_the_forecast_of_the_whole_recipe_is_within_a_factor(whole_recipe: Params) -> None:
    found = forecast(whole_recipe, DEFAULT, BERT, Speed(67, "fp32"))
    assert set(found) == set(MEASURED)
    for stage, seconds in MEASURED.items():
        assert 1 / 1.6 < 60 * found[stage].minutes / seconds < 1.6, stage
    assert found["teacher"].steps == pytest.approx(194, rel=0.05)
    assert found["distill"].steps == pytest.approx(539, rel=0.1)


def test_a_faster_machine_and_a_finished_teacher_take_less(whole_recipe: Params) -> None:
    slow, fast = (forecast(whole_recipe, DEFAULT, BERT, Speed(rate, "fp32")) for rate in (67, 670))
    assert all(fast[stage].minutes < slow[stage].minutes for stage in slow)
    teacher = whole_recipe.teacher.model_copy(update={"fine_tuned": True})
    assert "teacher" not in forecast(
        whole_recipe.model_copy(update={"teacher": teacher}), DEFAULT, BERT, Speed(67, "fp32")
    )


def test_the_speed_is_measured_once_and_saved_for_the_stages(default_params: Params, tmp_path: Path) -> None:
    remembered = tmp_path / "precision.json"
    config = scratch_config(default_params) | {"hidden_size": 64, "intermediate_size": 256}
    first = measure_speed(default_params, config, remembered)
    kept = read_json(remembered)
    assert first.gflops > 0
    assert measure_speed(default_params, config, remembered) == first
    assert read_json(remembered) == kept
