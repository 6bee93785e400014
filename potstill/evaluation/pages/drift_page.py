# ruff: noqa: E501 - markup does not wrap like code
"""The page of `potstill drift`: the features that changed, with their distributions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from potstill.evaluation.drift import Drift
from potstill.evaluation.pages.sheet import HEAD, NARROW, SHEET, render
from potstill.inference.profile import Bins, Counts, Feature, Profile

TEMPLATE = (
    HEAD
    + """\
<title>{{ project }}: drift</title>
<style>
"""
    + SHEET
    + """\
:root { --then: #a9b4c2; }
@media (prefers-color-scheme: dark) { :root { --then: #56606d; } }
th, td { padding: .5rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr.drifts td { font-weight: 600; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: 2rem; }
figure { margin: 0; }
figcaption { font-size: .9rem; margin-bottom: .4rem; }
svg { display: block; width: 100%; height: 7rem; }
.then { fill: var(--then); } .now { fill: var(--accent); }
"""
    + NARROW
    + """\
</style>
</head>
<body>
<main>
<h1>{{ project }}: drift</h1>
<p>{{ drift.sentence }}</p>
<p class="soft">{{ "{:,}".format(drift.texts) }} served texts in {{ drift.windows }} windows{% if span %}, {{ span }}{% endif %}; {{ "{:,}".format(profile.texts) }} test texts. Model {{ drift.candidate[:12] }}.</p>

{% if drift.damaged %}
<p>Left out, since they are no windows of counts: {{ drift.damaged | join(", ") }}.</p>
{% endif %}

<h2>Features</h2>
<div class="wide">
<table class="stack">
<thead><tr><th scope="col"></th><th scope="col">PSI</th><th scope="col">by chance under</th><th scope="col">KS</th><th scope="col">by chance under</th></tr></thead>
<tbody>
{% for finding in drift.findings %}
<tr{% if finding.drifts %} class="drifts"{% endif %}><td>{{ finding.feature }}{% if finding.drifts %} drifts{% endif %}</td><td data-title="PSI">{{ "%.3f" % finding.psi }}</td><td data-title="by chance under">{{ "%.3f" % finding.psi_by_chance }}</td>
<td data-title="KS">{% if finding.ks is not none %}{{ "%.3f" % finding.ks }}{% endif %}</td><td data-title="by chance under">{% if finding.ks is not none %}{{ "%.3f" % finding.ks_by_chance }}{% endif %}</td></tr>
{% endfor %}
</tbody>
</table>
</div>

<h2>Distributions</h2>
<p class="soft">Share of the texts in each bin: <span style="color: var(--then)">■</span> test, <span style="color: var(--accent)">■</span> served. Ranges have equal shares of the test texts, the first and last lie beyond all of them.</p>
<div class="grid">
{% for chart in charts %}
<figure role="img" aria-label="{{ chart.title }}: shares of test and served texts"><figcaption>{{ chart.title }} <span class="soft">{{ chart.range }}</span></figcaption>
<svg viewBox="0 0 {{ chart.width }} 100" preserveAspectRatio="none">
{% for bar in chart.bars %}<rect class="{{ bar.kind }}" x="{{ bar.x }}" y="{{ "%.2f" % (100 - bar.height) }}" width="4" height="{{ "%.2f" % bar.height }}"/>
{% endfor %}</svg></figure>
{% endfor %}
</div>
</main>
</body>
</html>
"""
)


def render_drift(project: str, drift: Drift, profile: Profile, counts: Counts) -> str:
    """Render the page as one HTML file.

    Args:
        project: the project's name.
        drift: the verdict.
        profile: the profile of the test texts.
        counts: the counts of the served texts.
    """
    charts = [
        _chart(name, feature, bins, served.tolist())
        for name, feature in profile.features.items()
        if len(feature.bins) == 1
        for bins, served in zip(feature.bins, counts.bins[name], strict=True)
        if sum(bins.counts) and served.sum()
    ]
    return render(TEMPLATE, project=project, drift=drift, profile=profile, charts=charts, span=_span(drift))


def _chart(name: str, feature: Feature, bins: Bins, counts: Sequence[int]) -> dict[str, Any]:
    then = [count / sum(bins.counts) for count in bins.counts]
    now = [count / sum(counts) for count in counts]
    largest = max(*then, *now)
    bars = [
        {"kind": kind, "x": 10 * index + shift, "height": 100 * share / largest}
        for kind, shares, shift in (("then", then, 0), ("now", now, 4))
        for index, share in enumerate(shares)
    ]
    edges = f"{bins.edges[0]:.3g} to {bins.edges[-1]:.3g}" if bins.edges else ""
    return {"title": name, "range": ", ".join(feature.names) or edges, "width": 10 * len(then), "bars": bars}


def _span(drift: Drift) -> str:
    if drift.start is None or drift.end is None:
        return ""
    first, last = (f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC" for time in (drift.start, drift.end))
    return f"{first} to {last}"
