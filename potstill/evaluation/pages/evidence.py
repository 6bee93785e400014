"""Slices, behavioural tests and abstention on the report's page: values for its tables, and their part of the template.

Intervals are drawn by style sheets and not as SVG, so that names wrap and have a font in every script.
"""
# ruff: noqa: E501 - markup does not wrap like code

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.evaluation.naming import TITLES
from potstill.kinds.definitions.task_kinds import kind_in

# Failures of each test that the page shows.
_SHOWN = 3
_WORDS = {"BEATS": "better", "LOSES": "worse", "NO DIFFERENCE": ""}


Axis = tuple[float, float]


@dataclass(frozen=True)
class Interval:
    """A number with its interval, as text and as positions on an axis in percent of its width.

    Attributes:
        text: the number and its interval.
        word: `better` or `worse`; empty where there is no difference beyond noise.
        is_difference: whether the axis has 0 in its middle.
        at: position of the number.
        low: position of the lower end.
        high: position of the upper end.
    """

    text: str
    word: str
    is_difference: bool
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Table:
    """Rows of intervals.

    Attributes:
        titles: of the columns with intervals.
        rows: name, number of rows or cases, and an interval, or None, for each column.
        absent: shown in place of None.
    """

    titles: list[str]
    rows: list[tuple[str, str, list[Interval | None]]]
    absent: str = "no cases"


def slice_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return the candidate's score on each slice and its difference to each rival; None without slices."""
    slices = metrics.get("slices", {}).get("slices", [])
    if not slices:
        return None
    rivals = list(slices[0]["rivals"])
    scores = min(part["low"] for part in slices), max(part["high"] for part in slices)
    axis = _symmetric(part["rivals"][rival] for part in slices for rival in rivals)
    rows: list[tuple[str, str, list[Interval | None]]] = [
        (
            part["name"],
            f"{part['rows']:,}",
            [
                _interval((part["score"], part["low"], part["high"]), scores),
                *(_difference(part["rivals"][rival], axis) for rival in rivals),
            ],
        )
        for part in slices
    ]
    return Table(["score, %", *(f"minus {TITLES[rival]}" for rival in rivals)], rows)


def shift_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return every model's score on the shift set, and the candidate's difference to it; None without a set."""
    shift = metrics.get("shift")
    if shift is None:
        return None
    key = kind_in(metrics).scoring.key
    scores = {
        name: [numbers[f"{key}{end}"] for end in ("", "_low", "_high")] for name, numbers in shift["models"].items()
    }
    axis = min(low for _, low, _ in scores.values()), max(high for _, _, high in scores.values())
    gains = _symmetric(shift["comparison"].values())
    rows: list[tuple[str, str, list[Interval | None]]] = [
        (
            title,
            f"{shift['rows']:,}",
            [
                _interval(scores[name], axis),
                _difference(shift["comparison"][name], gains) if name in shift["comparison"] else None,
            ],
        )
        for name, title in TITLES.items()
        if name in scores
    ]
    return Table(["score, %", "candidate minus it"], rows, absent="–")


def behaviour_table(metrics: Mapping[str, Any], candidate: str) -> Table | None:
    """Return each test's failure rates, and the candidate's difference to the others; None without tests."""
    tests = metrics.get("behaviour", {}).get("tests", {})
    if not tests:
        return None
    others = [name for name in next(iter(tests.values()))["models"] if name != candidate]
    axis = _symmetric(gain for test in tests.values() for gain in test["gains"].values())
    rows: list[tuple[str, str, list[Interval | None]]] = []
    for name, test in tests.items():
        direction = f", {test['direction']}" if test["direction"] else ""
        rates = [_rate(test["models"][model]) for model in (candidate, *others)]
        gains = [_difference(test["gains"][other], axis) if other in test["gains"] else None for other in others]
        rows.append((f"{name} ({test['kind']}{direction})", f"{test['models'][candidate]['rows']:,}", [*rates, *gains]))
    titles = [f"{TITLES[model]} fails, %" for model in (candidate, *others)]
    return Table([*titles, *(f"passes minus {TITLES[other]}" for other in others)], rows)


def _symmetric(comparisons: Iterable[Mapping[str, Any]]) -> Axis:
    """Return an axis around 0 that holds all intervals."""
    width = max([abs(compared[end]) for compared in comparisons for end in ("low", "high")] + [0.01])
    return -width, width


def _rate(failures: Mapping[str, Any]) -> Interval | None:
    if failures["failure_rate"] is None:
        return None
    return _interval([failures[f"failure_rate{end}"] for end in ("", "_low", "_high")], (0.0, 1.0))


def _interval(numbers: Sequence[float], axis: Axis) -> Interval:
    value, low, high = (f"{100 * number:.1f}" for number in numbers)
    return Interval(f"{value} ({low} to {high})", "", False, *(_percent(number, axis) for number in numbers))


def _difference(comparison: Mapping[str, Any], axis: Axis) -> Interval:
    numbers = [comparison[key] for key in ("difference", "low", "high")]
    value, low, high = (f"{100 * number:+.1f}" for number in numbers)
    word = _WORDS[comparison["outcome"]]
    return Interval(f"{value} ({low} to {high})", word, True, *(_percent(number, axis) for number in numbers))


def _percent(value: float, axis: Axis) -> float:
    low, high = axis
    return 100 * (value - low) / ((high - low) or 1.0)


@dataclass(frozen=True)
class Failure:
    """A failure of the candidate: the texts, one line for each text of a pair, and its answers."""

    before: str
    after: str
    expected: str
    answer_before: str
    answer_after: str


def failure_lists(
    failures: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], candidate: str
) -> dict[str, list[Failure]]:
    """Return the worst failures of the candidate by test, without tests that it passed."""
    lists = {
        test: [_failure(example) for example in models.get(candidate, ())[:_SHOWN]] for test, models in failures.items()
    }
    return {test: examples for test, examples in lists.items() if examples}


def _failure(example: Mapping[str, Any]) -> Failure:
    expected = example["expected"]
    return Failure(
        "" if example["original"] is None else _lines(example["original"]),
        _lines(example["text"]),
        "" if expected is None else _answer(expected, []),
        "" if example["original"] is None else _answer(example["before"], example["scores_before"]),
        _answer(example["after"], example["scores_after"]),
    )


def _lines(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else "\n".join(text)


def _answer(answer: Any, scores: Sequence[float]) -> str:
    """Write an answer with the probability of its class, where it has one."""
    if answer is None:
        return "none"
    if isinstance(answer, float):
        return f"{answer:.4g}"
    if isinstance(answer, list | tuple):
        return ", ".join(" ".join(map(str, item)) if isinstance(item, list) else str(item) for item in answer) or "none"
    return f"{answer} {max(scores):.2f}" if scores else str(answer)


STYLE = """\
.forest { display: block; position: relative; height: .8rem; min-width: 7rem; margin-top: .15rem; }
.forest::before { content: ""; position: absolute; top: .38rem; left: 0; right: 0; border-top: 1px solid var(--line); }
.forest.zero::after { content: ""; position: absolute; left: 50%; top: 0; bottom: 0; border-left: 1px dashed var(--soft); }
.forest i { position: absolute; top: .3rem; height: .2rem; left: var(--low); width: max(2px, calc(var(--high) - var(--low))); background: currentColor; }
.forest b { position: absolute; top: .1rem; left: calc(var(--at) - .3rem); width: .6rem; height: .6rem; border-radius: 50%; background: currentColor; }
.worse { color: var(--accent); font-weight: 600; }
.evidence td > span:first-child { white-space: nowrap; }
.evidence td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
details { margin: .4rem 0; border-bottom: 1px solid var(--line); padding-bottom: .4rem; }
summary { cursor: pointer; padding: .2rem 0; }
.change th { text-align: left; }
.change td { text-align: left; vertical-align: top; white-space: pre-wrap; overflow-wrap: anywhere; min-width: 6rem; }
@media (max-width: 40rem) {
  table.evidence td:not(:first-child) { display: grid; grid-template-columns: minmax(0, 1fr) auto; gap: 0 1.25rem; }
  table.evidence td::before { max-width: none; }
  table.evidence .forest { grid-column: 1 / -1; }
  table.change td { display: block; text-align: left; }
  table.change td::before { display: block; max-width: none; }
}
"""

MACROS = """\
{% macro evidence(first, count, table) %}
<div class="wide">
<table class="stack evidence">
<thead><tr><th scope="col">{{ first }}</th><th scope="col">{{ count }}</th>{% for title in table.titles %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, rows, cells in table.rows %}
<tr><td>{{ name }}</td><td data-title="{{ count }}">{{ rows }}</td>
{% for cell in cells %}
{% set title = table.titles[loop.index0] %}
{% if cell %}
<td data-title="{{ title }}"><span{% if cell.word %} class="{{ cell.word }}"{% endif %}>{{ cell.text }}{% if cell.word %} {{ cell.word }}{% endif %}</span>
<span class="forest{% if cell.is_difference %} zero{% endif %}{% if cell.word %} {{ cell.word }}{% endif %}" aria-hidden="true" style="--low: {{ "%.1f" % cell.low }}%; --high: {{ "%.1f" % cell.high }}%; --at: {{ "%.1f" % cell.at }}%"><i></i><b></b></span></td>
{% else %}
<td data-title="{{ title }}">{{ table.absent }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endmacro %}
"""

SECTIONS = """\
{% if slices %}
<h2>Slices</h2>
<p class="soft">The candidate's {{ scoring.words }} on parts of the test split, and its difference to the others on the same texts, in points, with {{ "%g" % (100 * metrics.confidence) }}% intervals.
"Better" and "worse" hold over all {{ metrics.slices.comparisons }} comparisons together: at most {{ "%g" % (100 * metrics.slices.false_discovery_rate) }}% of these words are expected to be wrong (Benjamini–Hochberg).</p>
{{ evidence("slice", "rows", slices) }}
{% if metrics.slices.not_judged %}
<p class="soft" style="margin-top: .8rem">Fewer than {{ metrics.slices.min_rows }} rows, not judged:{% for name, rows in metrics.slices.not_judged.items() %} {{ name }} ({{ rows }}){{ "." if loop.last else "," }}{% endfor %}</p>
{% endif %}

{% endif %}
{% if shift %}
<h2>Another domain</h2>
<p class="soft">{{ scoring.words }} on {{ "{:,}".format(metrics.shift.rows) }} rows of the shift set, from which nothing learnt, with {{ "%g" % (100 * metrics.confidence) }}% intervals. They are not among the test rows.</p>
{{ evidence("model", "rows", shift) }}

{% endif %}
{% if behaviour %}
<h2>Behaviour</h2>
<p class="soft">How often an answer changes although the change of the text should not matter (INV), does not move as it should (DIR), or is not the right one (MFT). Test texts with a small change, and templates of your own.</p>
{{ evidence("test", "cases", behaviour) }}
{% if failures %}
<h3>Worst failures of {{ candidate }}</h3>
{% for test, examples in failures.items() %}
<details><summary>{{ test }}</summary>
<table class="stack change">
<thead><tr><th scope="col">text</th><th scope="col">changed text</th><th scope="col">answer</th><th scope="col">answer to the change</th></tr></thead>
<tbody>
{% for example in examples %}
<tr><td>{{ example.before or example.after }}</td><td data-title="changed text">{{ example.after if example.before else "–" }}</td>
<td data-title="answer">{{ example.answer_before or "–" }}</td><td data-title="answer to the change">{{ example.answer_after }}{% if example.expected %} (about {{ example.expected }}){% endif %}</td></tr>
{% endfor %}
</tbody>
</table>
</details>
{% endfor %}
{% endif %}

{% endif %}
{% if figures.coverage %}
<h2>Answering only where it is sure</h2>
<p>{{ abstention }}.</p>
<figure role="img" aria-label="Accuracy over coverage">{{ figures.coverage | svg }}</figure>

{% endif %}
"""
