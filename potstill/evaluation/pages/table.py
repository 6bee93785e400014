"""The table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from potstill.evaluation.naming import MODELS, TITLES, candidate_of
from potstill.evaluation.notes import notes
from potstill.kinds.definitions.kind import Kind
from potstill.kinds.definitions.task_kinds import kind_in

if TYPE_CHECKING:
    from rich.table import Table

ABSENT = "–"


def headers(metrics: Mapping[str, Any]) -> list[str]:
    """Column titles, the interval's level included. Two lines each where that keeps the table within 80 columns."""
    kind = kind_in(metrics)
    level = f"{100 * metrics.get('confidence', 0.95):g}%"
    return [
        "",
        f"{kind.scoring.axis}\n({level} interval)",
        *(title for title, _ in kind.table_columns),
        "para-\nmeters",
        "\nMB",
        "p50\nms",
        "p99\nms",
        "\ntexts/s",
    ]


def rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """One row of strings for each model in metrics.json, in the order of `TITLES`; what it lacks is a dash."""
    models = metrics["models"]
    return [_row(title, models[name], kind_in(metrics)) for name, title in TITLES.items() if name in models]


def note(metrics: Mapping[str, Any]) -> str | None:
    """What the rows do not say (`notes.notes`); None where that is nothing."""
    return ". ".join(notes(metrics)) or None


def new_table(titles: Sequence[str], caption: str | None = None) -> Table:
    """Make an empty table for a terminal; columns without a title are aligned to the left."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    for title in titles:
        # Folded where the terminal is narrow: a number is never cut.
        table.add_column(title, justify="right" if title else "left", overflow="fold")
    return table


def render_table(metrics: Mapping[str, Any]) -> Table:
    """The content of reports/metrics.json as a table for a terminal; the model that ships is bold."""
    table = new_table(headers(metrics), note(metrics))
    ships = MODELS.get(candidate_of(metrics) or "")
    for row in rows(metrics):
        table.add_row(*row, style="bold" if row[0] == ships else None)
    return table


def _row(title: str, model: Mapping[str, Any], kind: Kind) -> list[str]:
    key = kind.scoring.key
    score = _percent(model.get(key))
    low, high = model.get(f"{key}_low"), model.get(f"{key}_high")
    if low is not None and high is not None:
        score += f" ({_percent(low)}–{_percent(high)})"
    return [
        title,
        score,
        *(_fixed(model.get(name), 3) for _, name in kind.table_columns),
        _parameters(model.get("parameters")),
        _fixed(model.get("megabytes"), 1),
        _milliseconds(model.get("p50_ms")),
        _milliseconds(model.get("p99_ms")),
        _fixed(model.get("texts_per_second"), 0),
    ]


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.1f}"


def _fixed(value: float | None, decimals: int) -> str:
    return ABSENT if value is None else f"{value:,.{decimals}f}"


def _milliseconds(value: float | None) -> str:
    """Three significant digits, since a teacher and a student differ by an order of magnitude."""
    return _fixed(value, 2 if value is not None and value < 10 else 1 if value is not None and value < 100 else 0)


def _parameters(count: int | None) -> str:
    if count is None:
        return ABSENT
    return f"{count / 1e6:.1f}M" if count >= 100_000 else f"{count:,}"
