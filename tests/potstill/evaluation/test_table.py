from __future__ import annotations

from typing import Any

from rich.console import Console

from potstill.evaluation.pages.table import render_table, rows

METRICS: dict[str, Any] = {
    "shipped": "int8",
    "confidence": 0.9,
    "models": {
        "teacher": {
            "accuracy": 0.861, "accuracy_low": 0.8453, "accuracy_high": 0.8755, "macro_f1": 0.8609, "ece": 0.0213,
            "parameters": 22_713_986, "megabytes": 90.88, "p50_ms": 9.83, "p99_ms": 12.41, "texts_per_second": 151.2,
        },
        "int8": {"accuracy": 0.853, "parameters": 940, "megabytes": 17.9, "p50_ms": 1.1, "texts_per_second": 1210.0},
    },
}  # fmt: skip


def test_the_cells() -> None:
    assert rows(METRICS) == [
        ["Teacher", "86.1 (84.5–87.5)", "0.861", "0.021", "22.7M", "90.9", "9.83", "12.4", "151"],
        ["Student INT8", "85.3", "–", "–", "940", "17.9", "1.10", "–", "1,210"],
    ]


def _text(width: int) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115
    with console.file:
        console.print(render_table(METRICS))
        return console.export_text()


def test_it_fits_a_terminal_and_says_the_level() -> None:
    text = _text(80)
    assert "(90% interval)" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "86.1 (84.5–87.5)" in text


def test_a_narrow_terminal_cuts_no_number() -> None:
    assert "…" not in _text(60)
