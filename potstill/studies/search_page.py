# ruff: noqa: E501 - markup does not wrap like code
"""The template of a search's page, in a module so that the package includes it."""

from potstill.evaluation.pages.sheet import HEAD, NARROW, SHEET

TEMPLATE = (
    HEAD
    + """\
<title>{{ project }}: what students cost</title>
<style>
"""
    + SHEET
    + """\
th, td { padding: .5rem .6rem; border-bottom: 1px solid var(--line); }
td { text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: nowrap; }
.words, th.words { text-align: left; }
tr.front td { font-weight: 600; }
tr.front td.words { font-weight: 400; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 1.5rem; }
.panels > * { min-width: 0; }
figure { margin: 1.5rem 0; overflow-x: auto; }
figure svg { display: block; max-width: 100%; height: auto; color: var(--ink); }
figure svg text { font-family: inherit !important; }
code { font: .8rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
"""
    + NARROW
    + """\
</style>
</head>
<body>
<main>
<h1>{{ project }}: what students cost</h1>
<p class="soft">{{ facts.trials | length }} trials, scored on {{ facts.judged_on }}; the best of each size and the static students measured as they would ship, on {{ "{:,}".format(facts.dev_rows) }} dev texts. The test split was not opened.</p>
<p>{% if facts.cheapest %}The cheapest student that passes the gates is <strong>{{ facts.cheapest }}</strong>.{% for name in facts.instead %} {{ name }} scores no less and is no slower and no larger: no student is needed.{% endfor %}{% else %}No student passes the gates.{% endif %}
Gates are judged on dev here, without those that need the controls or the champion.</p>
<div class="panels">
{% for figure in figures %}
<figure role="img" aria-label="{{ axis }} against {{ ["milliseconds", "megabytes"][loop.index0] }}">{{ figure | svg }}</figure>
{% endfor %}
</div>

<h2>Students</h2>
<div class="wide">
<table class="stack">
<thead><tr><th scope="col"></th><th scope="col">{{ axis }}</th><th scope="col">ms</th><th scope="col">MB</th><th scope="col">texts/s</th><th scope="col" class="words">gates</th><th scope="col" class="words">made by</th></tr></thead>
<tbody>
{% for point in facts.points %}
<tr{% if point.on_the_front %} class="front"{% endif %}><td data-title="">{{ point.name }}</td><td data-title="{{ axis }}">{{ "%.1f" % (100 * point.score) }}</td><td data-title="ms">{{ "%.3g" % point.milliseconds }}</td><td data-title="MB">{{ "%.1f" % point.megabytes }}</td><td data-title="texts/s">{{ "{:,.0f}".format(point.numbers.texts_per_second) }}</td>
<td class="words" data-title="gates">{{ point.gates.sentence if point.gates else "" }}</td>
<td class="words" data-title="made by">{% if point.set %}<code>potstill run {{ point.set | join(" ") }}</code>{% endif %}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
<p class="soft">Bold: nothing else scores as high, is as fast and as small. ms: median for one text; compare the ratios, absolute numbers vary with the machine and its load.</p>

<h2>Trials</h2>
<div class="wide">
<table class="stack">
<thead><tr><th scope="col">score, %</th><th scope="col" class="words">layers</th><th scope="col">temperature</th><th scope="col">alpha</th><th scope="col">learning rate</th><th scope="col" class="words">losses</th><th scope="col" class="words">state</th></tr></thead>
<tbody>
{% for trial in trials %}
<tr><td data-title="score, %">{% if trial.score is not none %}{{ "%.2f" % (100 * trial.score) }}{% endif %}</td><td class="words" data-title="layers">{{ trial.layers | join(", ") }}</td><td data-title="temperature">{{ "%g" % trial.temperature }}</td><td data-title="alpha">{{ "%g" % trial.alpha }}</td><td data-title="learning rate">{{ "%g" % trial.learning_rate }}</td><td class="words" data-title="losses">{{ trial.losses }}</td><td class="words" data-title="state">{{ trial.state }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
</main>
</body>
</html>
"""
)
