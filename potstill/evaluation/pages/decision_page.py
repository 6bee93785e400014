"""The parts of the report that are known after evaluate: the verdict, the champion, and the run.

Evaluate leaves a slot for each. The gate fills the slots, and register names the Bento.
"""
# ruff: noqa: E501 - markup does not wrap like code

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from potstill.evaluation.gates import Verdict
from potstill.evaluation.metrics_reading import finite, mapping
from potstill.evaluation.naming import MODELS, candidate_of
from potstill.evaluation.pages import interval_tables, records
from potstill.evaluation.pages.differences import Rows
from potstill.evaluation.pages.sheet import render
from potstill.evaluation.recommendation import recommend
from potstill.kinds.definitions.task_kinds import kind_in


def slot(name: str) -> str:
    """Return the placeholder of a part in the page."""
    return f"<!-- {name} -->"


PLACEHOLDER = slot("verdict")
_BENTO = slot("bento")
_SERVE = slot("serve")
# Marks the candidate's alias in commands. The alias moves on to the next candidate, and its Bento's tag, once known, does
# not.
_CANDIDATE = f"{slot('candidate')}challenger"


@dataclass(frozen=True)
class StageCost:
    """The cost of a stage: seconds in all, those of training and of inference, and optimiser steps."""

    stage: str
    seconds: float
    training: float
    inference: float
    steps: int | None


@dataclass(frozen=True)
class SplitProfile:
    """The texts of a split.

    Attributes:
        split: its name.
        rows: number of texts.
        characters: lengths that 10%, 50% and 90% of the texts do not exceed; empty for few texts.
        labels: label -> share.
    """

    split: str
    rows: int
    characters: Sequence[float]
    labels: Mapping[str, float]


@dataclass(frozen=True)
class Validation:
    """The validate stage's result: number of expectations, those that failed, and the profile of each split."""

    expectations: int
    failed: Sequence[str]
    splits: Sequence[SplitProfile]


@dataclass(frozen=True)
class RunFacts:
    """The facts that identify a run.

    Attributes:
        commit: git commit; None outside git.
        is_clean: whether the tree was that of the commit.
        teacher: its origin.
        licence: the teacher's; None where its folder names none.
        params: as YAML.
        params_sha256: of the resolved values.
        lock_sha256: of the environment's lock file.
        data: out -> DVC hash.
        removed: reason -> rows that prepare removed.
        costs: of each stage, in order.
        validation: None where there is no result.
    """

    commit: str | None
    is_clean: bool
    teacher: str
    licence: str | None
    params: str
    params_sha256: str
    lock_sha256: str
    data: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)
    costs: Sequence[StageCost] = ()
    validation: Validation | None = None


@dataclass(frozen=True)
class Decision:
    """The facts that the page's slots are filled with.

    Attributes:
        metrics: the content of reports/metrics.json; anything may be missing.
        verdict: None where the gate has not judged yet.
        champion: as `recommendation.recommend` takes it; None without a champion.
        rows: on which candidate and champion differ; None where they were not compared.
        facts: None before the gate.
    """

    metrics: Mapping[str, Any]
    verdict: Verdict | None = None
    champion: Mapping[str, Any] | None = None
    rows: Rows | None = None
    facts: RunFacts | None = None


def with_decision(page: str, decision: Decision) -> str:
    """Return the page with its slots filled; the Bento's stays open.

    Args:
        page: from `report.render_report`.
        decision: the facts; what is None is left out.
    """
    metrics = decision.metrics
    verdict = decision.verdict
    kind = kind_in(metrics)
    values = {
        "advice": recommend(metrics, None if verdict is None else verdict.passed, decision.champion),
        "heading": _heading(verdict),
        "proof": verdict.proof if verdict else "",
        "wear": verdict.wear if verdict else "",
        "checks": [(check, _interval(check.low, check.high)) for check in verdict.checks] if verdict else [],
        "rivals": interval_tables.rivals_table(metrics, decision.champion),
        "candidate": MODELS.get(candidate_of(metrics) or "", "Candidate"),
        "words": kind.scoring.words,
        "form": kind.form,
        "confidence": finite(metrics.get("confidence")) or 0.95,
        "champion": decision.champion,
        "rows": decision.rows,
        "slices": interval_tables.slice_table(decision.champion or {}),
        "facts": decision.facts,
        "measured": mapping(metrics.get("measured")),
        "bento": _BENTO,
        "serve": _SERVE,
    }
    for name, template in _TEMPLATES.items():
        if slot(name) in page:
            page = page.replace(
                slot(name), render(interval_tables.MACROS + records.MACRO + template, **values).strip(), 1
            )
    return page


def with_bento(page: str, tag: str) -> str:
    """Return the page with the Bento's tag, the command that serves it, and the tag in commands about the candidate."""
    shown = render("{{ tag }}", tag=tag)
    command = _COMMAND.format("Serve it", f"potstill serve --tag {shown}")
    return page.replace(f"{_BENTO}not packaged", shown).replace(_SERVE, command).replace(_CANDIDATE, shown)


def _heading(verdict: Verdict | None) -> str:
    if verdict is None:
        return "The gate has not judged this candidate yet."
    if verdict.passed:
        return f"The gate passed this candidate: all {len(verdict.checks)} checks hold."
    count = sum(not check.passed for check in verdict.checks)
    return f"The gate refused this candidate, so it does not ship: {count} of {len(verdict.checks)} checks failed."


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


_COMMAND = '<tr><th scope="row">{}</th><td><div class="copy"><code data-copy>{}</code></div></td></tr>'

_TEMPLATES = {
    "verdict": """\
<section class="verdict{% if heading.startswith("The gate refused") %} refused{% endif %}">
<p class="call"><strong>{{ advice.call }}.</strong> {{ advice.summary[:1] | upper }}{{ advice.summary[1:] }}.</p>
<p>{{ heading }}{% if proof %} {{ proof }}.{% endif %}</p>
{% if wear %}<p>Mind that {{ wear }}.</p>{% endif %}
{% if checks | rejectattr("0.passed") | list %}
<ul>{% for check, _ in checks if not check.passed %}<li>{{ check.sentence }}</li>{% endfor %}</ul>
{% endif %}
{% if advice.cautions %}
<p>Look first at</p>
<ul>
{% for caution in advice.cautions %}
<li>{{ caution }}</li>
{% endfor %}
</ul>
{% endif %}
{% if checks %}
<details><summary>All {{ checks | length }} checks</summary>
<div class="wide" tabindex="0" role="region" aria-label="All checks">
<table class="stack">
<thead><tr>{% for title in ("check", "result", "value", "interval", "rows", "limit") %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for check, interval in checks %}
<tr><td title="{{ check.sentence }}">{{ check.name }}</td><td data-title="result">{% if check.passed %}pass{% else %}<span class="worse">FAIL</span>{% endif %}</td><td data-title="value">{{ "%.4g" % check.value if check.value is not none else "–" }}</td><td data-title="interval">{{ interval or "–" }}</td><td data-title="rows">{{ "{:,}".format(check.rows) if check.rows is not none else "–" }}</td><td data-title="limit">{{ "%.4g" % check.limit if check.limit is not none else "–" }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
</details>
{% endif %}
</section>
""",
    "facts": """\
<dl class="run">
{% if measured %}
<div><dt>evaluated</dt><dd>{{ measured.get("at") }}</dd></div>
<div><dt>machine</dt><dd>{{ measured.get("machine") }}</dd></div>
{% endif %}
{% if facts %}
<div><dt>commit</dt><dd>{% if facts.commit %}<code>{{ facts.commit[:12] }}</code>{{ "" if facts.is_clean else " with uncommitted changes" }}{% else %}not in git{% endif %}</dd></div>
<div><dt>Bento</dt><dd>{{ bento | svg }}not packaged</dd></div>
<div><dt>params</dt><dd><code>{{ facts.params_sha256[:12] }}</code></dd></div>
<div><dt>teacher</dt><dd>{{ facts.teacher }}{% if facts.licence %}, {{ facts.licence }}{% endif %}</dd></div>
<div><dt>data</dt><dd>{% if facts.data.get("data/prepared") %}<code>{{ facts.data["data/prepared"][:12] }}</code>{% else %}not under DVC{% endif %}</dd></div>
<div><dt>champion</dt><dd>{% if champion %}{% if champion.get("version") %}version {{ champion.version }}{% else %}compared{% endif %}{% else %}none yet{% endif %}</dd></div>
{% endif %}
</dl>
""",
    "rivals": """\
{{ evidence("model", "ms a text", rivals) }}
<p class="soft note">{{ words[:1] | upper }}{{ words[1:] }} on the same test texts with {{ "%g" % (100 * confidence) }}% intervals; the difference by a paired bootstrap.
"Better" and "worse" mean that the whole interval is on one side of 0.{% if champion and champion.get("problem") %} The champion could not be compared: {{ champion.problem }}.{% endif %}</p>
""",
    "champion_slices": """\
{% if slices %}
<h2>Slices against the champion</h2>
{{ evidence("slice", "rows", slices) }}

{% endif %}
""",
    "champion": """\
{% if rows is not none %}
<h2 id="champion">Where champion and candidate differ</h2>
{% if rows.rows %}
<p class="soft">{% if rows.total > rows.rows | length %}{{ rows.rows | length }} of {{ "{:,}".format(rows.total) }} such texts{% else %}All {{ rows.total }} such texts{% endif %}{% if form == "number" %}, the farthest apart first{% elif form not in ("entities", "span") %}, those on which both are surest first{% endif %}. A wrong answer is coloured.</p>
{{ records("Where champion and candidate differ", rows, "champion", candidate) }}
{% else %}
<p class="soft">They agree on every test text.</p>
{% endif %}
{% endif %}
""",
    "costs": """\
{% if facts and facts.costs %}
<h3>Cost</h3>
<div class="wide">
<table class="stack">
<thead><tr>{% for title in ("stage", "seconds", "of it training", "of it inference", "optimiser steps") %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for cost in facts.costs %}
<tr><td>{{ cost.stage }}</td><td data-title="seconds">{{ "{:,.1f}".format(cost.seconds) }}</td><td data-title="of it training">{{ "{:,.1f}".format(cost.training) if cost.training else "–" }}</td><td data-title="of it inference">{{ "{:,.1f}".format(cost.inference) if cost.inference else "–" }}</td><td data-title="optimiser steps">{{ "{:,}".format(cost.steps) if cost.steps is not none else "–" }}</td></tr>
{% endfor %}
</tbody>
<tfoot><tr><td>all stages</td><td data-title="seconds">{{ "{:,.1f}".format(facts.costs | sum(attribute="seconds")) }}</td><td data-title="of it training">{{ "{:,.1f}".format(facts.costs | sum(attribute="training")) }}</td><td data-title="of it inference">{{ "{:,.1f}".format(facts.costs | sum(attribute="inference")) }}</td><td data-title="optimiser steps">–</td></tr></tfoot>
</table>
</div>
<p class="soft note">The last time that each stage ran here; a stage whose outs came from DVC's cache ran earlier, or elsewhere.</p>
{% endif %}
""",
    "validation": """\
{% if facts and facts.validation %}
{% set validation = facts.validation %}
<h3>Profile and validation</h3>
<p>{% if validation.failed %}<span class="worse">{{ validation.failed | length }} of {{ validation.expectations }} expectations failed:</span> {{ validation.failed | join("; ") }}.{% else %}All {{ validation.expectations }} expectations of the data hold.{% endif %}
{% if facts.removed %} Prepare removed {% for reason, count in facts.removed.items() %}{{ "{:,}".format(count) }} ({{ reason }}){{ "." if loop.last else ", " }}{% endfor %}{% endif %}</p>
<div class="wide">
<table class="stack">
<thead><tr>{% for title in ("split", "rows", "characters, 10%", "median", "90%", "labels") %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for split in validation.splits %}
<tr><td>{{ split.split }}</td><td data-title="rows">{{ "{:,}".format(split.rows) }}</td>{% for title in ("characters, 10%", "median", "90%") %}<td data-title="{{ title }}">{{ "{:,.0f}".format(split.characters[loop.index0]) if split.characters else "–" }}</td>{% endfor %}<td data-title="labels" class="words">{% for label, share in split.labels.items() %}{{ label }} {{ "%.1f" % (100 * share) }}%{{ "" if loop.last else " · " }}{% else %}–{% endfor %}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
""",
    "commands": """\
{% if facts %}
<table class="sums commands">
<tbody>
"""
    + _COMMAND.format("Review it", f"potstill review {_CANDIDATE}")
    + _COMMAND.format("Promote it", f'potstill promote {_CANDIDATE} --reason "..."')
    + _COMMAND.format("Refuse it", f'potstill veto {_CANDIDATE} --reason "..."')
    + """
{{ serve | svg }}
"""
    + _COMMAND.format("Verify its lineage", f"potstill trace {_CANDIDATE}")
    + _COMMAND.format("Roll back", 'potstill rollback --reason "..."')
    + """
{% if facts.commit %}
<tr><th scope="row">Make it again</th><td><div class="copy"><code data-copy>git checkout {{ facts.commit }} &amp;&amp; potstill run</code></div></td></tr>
{% endif %}
</tbody>
</table>
<details><summary>Params, all values</summary>
<pre class="wide" tabindex="0">{{ facts.params }}</pre>
</details>
<details><summary>DVC hashes and the lock file</summary>
<table class="sums">
<tbody>
<tr><td>requirements.lock</td><td><code>{{ facts.lock_sha256 }}</code></td></tr>
{% for path, sum in facts.data.items() %}
<tr><td>{{ path }}</td><td><code>{{ sum }}</code></td></tr>
{% endfor %}
</tbody>
</table>
</details>
{% endif %}
""",
}
SLOTS = tuple(_TEMPLATES)
