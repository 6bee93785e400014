"""Intervals on the report's page: other models, slices, behavioural tests, classes; and their part of the template.

Intervals are drawn by style sheets and not as SVG, so that names wrap and have a font in every script.
"""
# ruff: noqa: E501 - markup does not wrap like code

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from potstill.evaluation.metrics_reading import (
    finite,
    mapping,
    percent_interval,
    signed_interval,
    signed_points,
    with_bounds,
)
from potstill.evaluation.naming import TITLES, candidate_of
from potstill.evaluation.pages.sheet import shortened
from potstill.kinds.definitions.task_kinds import kind_in

# Failures of each test that the page shows.
_SHOWN = 3
# Characters of a text of such a failure.
_CHARACTERS = 2000
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


# Name, number of rows or cases, or a cost, and an interval, or None, for each column.
TableRow = tuple[str, str, list[Interval | None]]


@dataclass(frozen=True)
class Table:
    """A table of intervals.

    Attributes:
        titles: of the columns with intervals.
        rows: in the order of the page.
        leads: whether the first row is the one that the others are compared with.
    """

    titles: list[str]
    rows: list[TableRow]
    leads: bool = False


def rivals_table(metrics: Mapping[str, Any], champion: Mapping[str, Any] | None) -> Table:
    """Return each model's score, and the candidate's difference to it on the same rows.

    Args:
        metrics: the content of reports/metrics.json; what is missing is left out.
        champion: its score, `version` and `comparison`, which is the candidate's score minus its score; None without.
    """
    candidate = candidate_of(metrics) or ""
    scoring = kind_in(metrics).scoring
    models = mapping(metrics.get("models"))
    rivals = dict(mapping(mapping(metrics.get("comparison")).get("rivals")))
    titles = {name: TITLES.get(name, name) for name in (*TITLES, *models) if name in models}
    entries = {name: mapping(models[name]) for name in titles}
    if champion is not None and finite(champion.get(scoring.key)) is not None:
        version = champion.get("version")
        titles["champion"] = f"Champion, version {version}" if version else "Champion"
        entries["champion"] = champion
        rivals["champion"] = mapping(champion.get("comparison"))
    order = [name for name in (candidate, "champion") if name in titles]
    order += [name for name in titles if name not in order]
    scores = {name: [finite(entries[name].get(key)) for key in with_bounds(scoring.key)] for name in order}
    compared = {name: facts for name, facts in rivals.items() if finite(mapping(facts).get("high")) is not None}
    bounds = [number for numbers in scores.values() for number in numbers if number is not None]
    axis = _padded(min(bounds, default=0.0), max(bounds, default=1.0))
    gains = _symmetric(compared.values())
    rows: list[TableRow] = [
        (
            titles[name],
            _milliseconds(entries[name].get("p50_ms")),
            [_score(scores[name], axis), _difference(compared[name], gains) if name in compared else None],
        )
        for name in order
    ]
    return Table([f"{scoring.words}, %", "candidate minus it"], rows, leads=candidate in titles)


def _milliseconds(value: Any) -> str:
    number = finite(value)
    return "–" if number is None else f"{number:.3g}"


def _score(numbers: Sequence[float | None], axis: Axis) -> Interval | None:
    value, low, high = numbers
    if value is None:
        return None
    if low is None or high is None:
        position = _percent(value, axis)
        return Interval(f"{100 * value:.1f}", "", False, position, position, position)
    return _interval((value, low, high), axis)


def class_table(metrics: Mapping[str, Any], measure: str) -> Table | None:
    """Return precision or recall of each class, of the candidate and the teacher; None for a task without classes."""
    classes = metrics.get("classes") or {}
    if not classes:
        return None
    models = list(next(iter(classes.values()))["models"])
    rows: list[TableRow] = [
        (label, f"{scores['gold']:,}", [_share(scores["models"][model], measure) for model in models])
        for label, scores in classes.items()
    ]
    return Table([f"{TITLES.get(model, model)}, %" for model in models], rows)


def _share(numbers: Mapping[str, Any], key: str) -> Interval | None:
    """Draw a share on an axis from 0 to 1; None where there is none."""
    if numbers[key] is None:
        return None
    return _interval([numbers[name] for name in with_bounds(key)], (0.0, 1.0))


def cut_table(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]]] | None:
    """Return titles and rows: each model's score on texts that are cut and on whole ones; None without such numbers."""
    truncation = metrics.get("truncation") or {}
    if "cut" not in truncation:
        return None
    titles = [
        "",
        f"cut texts ({truncation['rows']:,}), %",
        f"whole texts ({metrics['rows'] - truncation['rows']:,}), %",
        "loss",
    ]
    rows = []
    for name, title in TITLES.items():
        if name in truncation["cut"]:
            cut_score = truncation["cut"][name]
            whole_score = truncation["whole"][name]
            loss = signed_points(whole_score - cut_score)
            rows.append([title, f"{100 * cut_score:.1f}", f"{100 * whole_score:.1f}", loss])
    return titles, rows


def slice_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return the candidate's score on each slice and its difference to each rival; None without slices."""
    slices = metrics.get("slices", {}).get("slices", [])
    if not slices:
        return None
    rivals = list(slices[0]["rivals"])
    scores = _padded(min(part["low"] for part in slices), max(part["high"] for part in slices))
    axis = _symmetric(part["rivals"][rival] for part in slices for rival in rivals)
    rows: list[TableRow] = [
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
    return Table(["score, %", *(f"minus {TITLES.get(rival, rival)}" for rival in rivals)], rows)


def shift_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return every model's score on the shift set, and the candidate's difference to it; None without a set."""
    shift = metrics.get("shift")
    if shift is None:
        return None
    keys = with_bounds(kind_in(metrics).scoring.key)
    scores = {name: [numbers[key] for key in keys] for name, numbers in shift["models"].items()}
    axis = min(low for _, low, _ in scores.values()), max(high for _, _, high in scores.values())
    gains = _symmetric(shift["comparison"].values())
    rows: list[TableRow] = [
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
    return Table(["score, %", "candidate minus it"], rows)


def behaviour_table(metrics: Mapping[str, Any], candidate: str) -> Table | None:
    """Return each test's failure rates, and the candidate's difference to its rivals; None without tests."""
    tests = metrics.get("behaviour", {}).get("tests", {})
    if not tests:
        return None
    rivals = [name for name in next(iter(tests.values()))["models"] if name != candidate]
    axis = _symmetric(gain for test in tests.values() for gain in test["gains"].values())
    rows: list[TableRow] = []
    for name, test in tests.items():
        direction = f", {test['direction']}" if test["direction"] else ""
        rates = [_share(test["models"][model], "failure_rate") for model in (candidate, *rivals)]
        gains = [_difference(test["gains"][rival], axis) if rival in test["gains"] else None for rival in rivals]
        rows.append((f"{name} ({test['kind']}{direction})", f"{test['models'][candidate]['rows']:,}", [*rates, *gains]))
    titles = [f"{TITLES[model]} fails, %" for model in (candidate, *rivals)]
    return Table([*titles, *(f"passes minus {TITLES[rival]}" for rival in rivals)], rows)


def _padded(low: float, high: float) -> Axis:
    """Return an axis a little longer than from the lowest number to the highest."""
    margin = 0.04 * (high - low)
    return low - margin, high + margin


def _symmetric(comparisons: Iterable[Mapping[str, Any]]) -> Axis:
    """Return an axis around 0 that holds all intervals."""
    width = max([abs(compared[end]) for compared in comparisons for end in ("low", "high")] + [0.01])
    return -1.04 * width, 1.04 * width


def _interval(numbers: Sequence[float], axis: Axis) -> Interval:
    value, low, high = numbers
    text = f"{100 * value:.1f} ({percent_interval(low, high)})"
    return Interval(text, "", False, *(_percent(number, axis) for number in numbers))


def _difference(comparison: Mapping[str, Any], axis: Axis) -> Interval:
    numbers = [comparison[key] for key in ("difference", "low", "high")]
    difference, low, high = numbers
    text = f"{signed_points(difference)} ({signed_interval(low, high)})"
    word = _WORDS[comparison["outcome"]]
    return Interval(text, word, True, *(_percent(number, axis) for number in numbers))


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
    return shortened(text if isinstance(text, str) else "\n".join(text), _CHARACTERS)


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
.evidence td:nth-child(n+3) { min-width: 10rem; }
.evidence .lead td:first-child { font-weight: 600; }
details { margin: .4rem 0; padding-bottom: .4rem; }
details + details { border-top: 1px solid var(--line); padding-top: .4rem; }
summary { cursor: pointer; padding: .2rem 0; }
details > summary + * { margin-top: .6rem; }
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
<div class="wide" tabindex="0" role="region" aria-label="{{ first }}">
<table class="stack evidence">
<thead><tr><th scope="col">{{ first }}</th><th scope="col">{{ count }}</th>{% for title in table.titles %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for name, rows, cells in table.rows %}
<tr{% if table.leads and loop.first %} class="lead"{% endif %}><td>{{ name }}</td><td data-title="{{ count }}">{{ rows }}</td>
{% for cell in cells %}
{% set title = table.titles[loop.index0] %}
{% if cell %}
<td data-title="{{ title }}"><span{% if cell.word %} class="{{ cell.word }}"{% endif %}>{{ cell.text }}{% if cell.word %} {{ cell.word }}{% endif %}</span>
<span class="forest{% if cell.is_difference %} zero{% endif %}{% if cell.word %} {{ cell.word }}{% endif %}" aria-hidden="true" style="--low: {{ "%.1f" % cell.low }}%; --high: {{ "%.1f" % cell.high }}%; --at: {{ "%.1f" % cell.at }}%"><i></i><b></b></span></td>
{% else %}
<td data-title="{{ title }}">–</td>
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
{{ slots.champion_slices | svg }}
{% if slices %}
<h2 id="slices">Slices</h2>
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
<h2 id="behaviour">Behaviour</h2>
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
<h2 id="abstention">Answering only where it is sure</h2>
<p>{{ abstention }}.</p>
<figure role="img" aria-label="Accuracy over coverage" class="single">{{ figures.coverage | svg }}</figure>

{% endif %}
"""
