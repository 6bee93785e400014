# ruff: noqa: E501 - markup does not wrap like code
"""The report's template, in a module so that the package includes it."""

from potstill.evaluation.pages import records
from potstill.evaluation.pages.interval_tables import MACROS, SECTIONS, STYLE
from potstill.evaluation.pages.sheet import HEAD, NARROW, SHEET

TEMPLATE = (
    HEAD
    + """\
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<title>{{ project }}: evaluation of the student</title>
<style>
"""
    + SHEET
    + """\
html { scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
h2 { scroll-margin-top: 1rem; padding-top: 1.4rem; border-top: 1px solid var(--line); }
a { color: inherit; text-decoration-color: var(--edge); text-underline-offset: .2em; }
a:hover { text-decoration-color: currentColor; }
.verdict { border-left: 3px solid var(--edge); padding: .1rem 0 .1rem 1.2rem; margin: 1.8rem 0; }
.verdict.refused { border-color: var(--accent); }
.verdict .call { font-size: 1.2rem; line-height: 1.45; margin-bottom: .6rem; max-width: 46rem; }
.verdict.refused .call strong { color: var(--accent); }
.verdict p, .verdict ul { margin: .4rem 0; }
.verdict ul { padding-left: 1.2rem; max-width: 46rem; }
.verdict summary { color: var(--soft); }
.note { margin-top: .8rem; }
dl.run { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: .5rem 2rem; margin: 1.5rem 0; font-size: .85rem; }
dl.run div { display: grid; grid-template-columns: 5.5rem minmax(0, 1fr); }
dl.run dt { color: var(--soft); }
dl.run dd { margin: 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .85rem; color: var(--soft); margin: 1.5rem 0 0; }
.words td, td.words { white-space: normal; }
tfoot td { font-weight: 600; border-bottom: 0; }
.commands th { width: 9rem; text-align: left; vertical-align: baseline; padding-left: 0; }
.copy { display: flex; gap: .8rem; justify-content: space-between; align-items: baseline; }
.copy button { font-size: .78rem; padding: .1rem .5rem; min-width: 4.6rem; cursor: pointer; }
pre { font: .78rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: .6rem 0; max-height: 30rem; overflow: auto; }
.reason { margin: 1.1rem 0; max-width: 50rem; }
.reason p { max-width: none; margin: .15rem 0; overflow-wrap: anywhere; line-height: 1.75; }
.reason p.soft { font-size: .85rem; line-height: 1.4; }
mark { color: inherit; background: color-mix(in srgb, var(--accent) var(--weight), transparent); border-radius: 3px; padding: .1em 0; }
mark.against { background: none; border-bottom: 2px dashed color-mix(in srgb, var(--ink) var(--weight), transparent); border-radius: 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1px; margin: 1.8rem 0;
  background: var(--line); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.facts div { background: var(--paper); padding: 1rem 1.1rem; }
.facts strong { display: block; font-size: 1.7rem; line-height: 1.2; font-weight: 600; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: .85rem; }
th, td { padding: .5rem .6rem; border-bottom: 1px solid var(--line); }
td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
tr.ships td { font-weight: 600; }
tr.ships td:first-child::after { content: "candidate"; margin-left: .5rem; padding: .05rem .4rem; border-radius: 99px;
  font-size: .72rem; font-weight: 500; color: var(--accent); border: 1px solid currentColor; }
.prose td, .prose th { text-align: left; vertical-align: top; white-space: normal; }
.prose td:first-child { min-width: 18rem; overflow-wrap: anywhere; white-space: pre-line; }
.prose td:not(:first-child) { min-width: 6rem; overflow-wrap: break-word; }
.wrong { color: var(--accent); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--panel, 20rem)), 1fr)); gap: 1rem 1.5rem; align-items: start; }
.panels > * { min-width: 0; }
h3 { font-size: .9rem; font-weight: 600; margin: 1rem 0 .4rem; }
table.grid { width: auto; font-size: .8rem; }
table.grid th, table.grid td { border: 0; padding: .25rem .35rem; }
table.grid td { text-align: center; min-width: 2.6em; border: 1px solid var(--paper); }
table.grid tbody th { text-align: left; white-space: normal; color: var(--ink); max-width: 13rem; overflow-wrap: anywhere; }
table.grid thead th { text-align: center; }
table.grid b { font-weight: 500; color: var(--soft); margin-right: .35em; }
table.grid.small { font-size: .65rem; }
table.grid.small td { min-width: 1.3em; padding: .4rem 0; }
table.grid.small th { padding: 0 .2rem; }
.bars { display: grid; gap: 1.1rem; max-width: 44rem; }
.bars h3 { margin: 0 0 .2rem; overflow-wrap: anywhere; }
.bar { display: grid; grid-template-columns: 7rem 1fr 3rem; gap: .6rem; align-items: center; font-size: .8rem; color: var(--soft);
  font-variant-numeric: tabular-nums; }
.bar i { display: block; height: .6rem; border-radius: 2px; background: var(--line); }
.bar i::before { content: ""; display: block; height: 100%; width: var(--share); border-radius: 2px; background: var(--hue); }
figure { margin: 1rem 0; overflow-x: auto; }
figure.single { max-width: 30rem; }
figure svg { display: block; max-width: 100%; height: auto; color: var(--ink); }
figure svg text { font-family: inherit !important; }
code { font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.sums td:last-child { text-align: left; white-space: normal; color: var(--soft); }
"""
    + NARROW
    + STYLE
    + records.STYLE
    + """\
@media (max-width: 40rem) {
  table.stack tfoot { display: block; width: 100%; }
  .commands, .commands tbody, .commands tr, .commands th { display: block; width: 100%; }
  .commands td { display: block; padding-left: 0; }
  .commands th { border-bottom: 0; padding-bottom: 0; }
  h2 { margin-top: 2.2rem; padding-top: 1.1rem; }
  .bar { grid-template-columns: 5.5rem 1fr 3rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --raised: #fff; --ink: #111; --soft: #555; --line: #ddd; --edge: #bbb; --accent: #a85705; }
  body { font-size: 10pt; } main { padding: 0; max-width: none; } nav { display: none; }
  h2, h3 { break-after: avoid; } figure, tr, .reason { break-inside: avoid; }
  .wide, figure, pre { overflow: visible; max-height: none; }
}
</style>
</head>
<body>
"""
    + MACROS
    + records.MACRO
    + """\
{% macro listing(titles, rows, ships="") %}
<div class="wide" tabindex="0" role="region" aria-label="{{ titles | select | join(", ") }}">
<table class="stack">
<thead><tr>{% for title in titles %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr{% if ships and row[0] == ships %} class="ships"{% endif %}>{% for cell in row %}<td data-title="{{ titles[loop.index0] }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endmacro %}
{% macro panels(figures, words) %}
{% set others = figures.keys() | reject("in", shown) | list %}
<div class="panels" style="--panel: 15rem">
{% for model in shown if model in figures %}
<figure role="img" aria-label="{{ words }}, {{ titles.get(model, model) }}">{{ figures[model] | svg }}</figure>
{% endfor %}
</div>
{% if others %}
<details><summary>Other models</summary>
<div class="panels" style="--panel: 15rem">
{% for model in others %}
<figure role="img" aria-label="{{ words }}, {{ titles.get(model, model) }}">{{ figures[model] | svg }}</figure>
{% endfor %}
</div>
</details>
{% endif %}
{% endmacro %}
{% macro matrix(matrix) %}
<div><h3>{{ matrix.title }}</h3>
<div class="wide" tabindex="0" role="region" aria-label="Confusion of {{ matrix.title }}">
<table class="grid{% if not matrix.numbers %} small{% endif %}">
<thead><tr><th></th>{% for label, _ in matrix.rows %}<th scope="col" title="{{ label }}">{{ loop.index }}</th>{% endfor %}</tr></thead>
<tbody>
{% for label, cells in matrix.rows %}
<tr><th scope="row"><b>{{ loop.index }}</b>{{ label }}</th>{% for cell in cells %}<td style="background: {{ cell.shade }}"{% if not matrix.numbers %} title="{{ "{:,}".format(cell.count) }}"></td>{% else %}>{{ "{:,}".format(cell.count) }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
</div>
{% endmacro %}
<main>
<h1>{{ project }}: evaluation of the student</h1>
<p class="soft">{{ "{:,}".format(metrics.rows) }} test texts that neither training nor any choice has seen. The candidate to ship is {{ candidate }}.</p>
"""
    + """\
{{ slots.verdict | svg }}

<section class="facts">
<div><strong>{{ score[0] }}%</strong><span>{{ scoring.words }} ({{ score[1] }} to {{ score[2] }})</span></div>
{% if comparison.teacher_ratio is defined %}
<div><strong>{{ "%.1f" % (100 * comparison.teacher_ratio) }}%</strong><span>of the teacher's {{ scoring.words }}</span></div>
{% endif %}
<div><strong>{{ "%.1f" % comparison.speedup }}×</strong><span>the texts per second of the teacher's fastest form</span></div>
<div><strong>{{ "%.1f" % model.megabytes }} MB</strong><span>model file, teacher {{ "%.1f" % metrics.models.teacher.megabytes }} MB</span></div>
</section>

{{ slots.facts | svg }}

<nav aria-label="Contents">
<a href="#against">Against the others</a><a href="#models">Models</a><a href="#proof">Distillation</a>
{% if slices %}<a href="#slices">Slices</a>{% endif %}{% if behaviour %}<a href="#behaviour">Behaviour</a>{% endif %}{% if figures.coverage %}<a href="#abstention">Abstention</a>{% endif %}
{% if figures.reliability %}<a href="#calibration">Calibration</a>{% endif %}{% if precision %}<a href="#classes">Classes</a>{% endif %}
<a href="#rows">Rows</a>{% if attributions %}<a href="#words">Words</a>{% endif %}{% if cut %}<a href="#cut">Cut texts</a>{% endif %}
<a href="#training">Training</a><a href="#data">Data</a><a href="#lineage">Lineage</a>
</nav>

<h2 id="against">Against the others</h2>
{{ slots.rivals | svg }}

<h2 id="models">Models</h2>
{{ listing(headers, rows, candidate) }}
<p class="soft" style="margin-top: .8rem">{% if note %}{{ note }}. {% endif %}{% if form == "class" %}
Accuracy with its Wilson interval. ECE: expected calibration error after temperature scaling, {{ metrics.calibration_bins }} bins.
{% elif form == "labels" %}
Micro F1 with its bootstrap interval. Subset: texts whose every label is right.
{% elif form == "entities" %}
F1 by entity with its bootstrap interval: an entity counts where its type and both its ends are right (seqeval); what lies beyond the longest sequence counts as not found.
{% elif form == "span" %}
F1 of words with the best gold answer, and exact match, as SQuAD has them; intervals by bootstrap over the questions.
{% else %}
R² with its bootstrap interval: the share of the gold numbers' variance that is explained; their mean alone has 0. MSE in the numbers' own unit.
{% endif %}
Speed on the machine that made this page: one text at a time for p50 and p99, batches of 32 for texts/s; the teacher through <code>transformers.pipeline</code>,
the students from text to probabilities through the serving runtime. Compare the ratios: absolute numbers vary with the machine and its load.</p>
{% if details %}
<div style="margin: 1rem 0">
{{ listing([candidate, "value", "%g" % (100 * metrics.confidence) ~ "% interval"], details) }}
</div>
{% endif %}
<div class="panels">
<figure role="img" aria-label="Score with interval against size on disk">{{ figures.size | svg }}</figure>
<figure role="img" aria-label="Score with interval against latency">{{ figures.latency | svg }}</figure>
</div>

<h2 id="proof">Does distillation help?</h2>
{% for verdict in verdicts %}
<p>{{ verdict }}</p>
{% endfor %}
<p class="soft">A control has the student's layers and learns the gold labels alone, for as long as that helps. {{ controls[0] }} starts from the pretrained base: what one would have without a teacher.
{% if controls | length > 1 %}{{ controls[1] }} starts from the fine-tuned teacher, as the student does: what copying alone gives.{% endif %}
{% if metrics.proof.seeds | length > 1 %}The first seed's student is compared as it ships, those of further seeds as they were trained.{% endif %}

{% if form == "class" %}
{{ candidate }} agrees with the teacher on {{ "%.1f" % (100 * comparison.agreement) }}% of the texts; the mean divergence KL(teacher‖student) of the calibrated probabilities is {{ "%.4f" % comparison.kl }} nats.</p>
{% elif form == "entities" %}
{{ candidate }} agrees with the teacher on {{ "%.1f" % (100 * comparison.agreement) }}% of the tags; the mean divergence KL(teacher‖student) of a tag's calibrated probabilities is {{ "%.4f" % comparison.kl }} nats.</p>
{% elif form == "span" %}
{{ candidate }} gives the teacher's answer to {{ "%.1f" % (100 * comparison.agreement) }}% of the questions.</p>
{% elif form == "labels" %}
{{ candidate }} agrees with the teacher on {{ "%.1f" % (100 * comparison.agreement) }}% of the labels of all texts; the mean divergence KL(teacher‖student) of a text's calibrated probabilities is {{ "%.4f" % comparison.kl }} nats.</p>
{% else %}
{{ candidate }}'s numbers correlate with the teacher's at {{ "%.3f" % comparison.correlation }} (Pearson); they are {{ "%.3g" % comparison.rmse }} apart (root of the mean square).</p>
{% endif %}
{% if metrics.proof.seeds | length > 1 %}
<details><summary>Numbers by training seed</summary>
{{ listing(proof_titles, proof) }}
</details>
{% else %}
{{ listing(proof_titles, proof) }}
{% endif %}

"""
    + SECTIONS
    + """\
{% if figures.reliability %}
<h2 id="calibration">Calibration</h2>
<p class="soft">How often a model is right, by how sure it is. On the dashed line the two are equal.</p>
{{ panels(figures.reliability, "Reliability diagram") }}

{% endif %}
{% if precision %}
<h2 id="classes">Classes</h2>
<h3>Precision: how often a predicted class is right</h3>
{{ evidence("class", "gold", precision) }}
<h3>Recall: how many of a class are found</h3>
{{ evidence("class", "gold", recall) }}

{% endif %}
{% if figures.labels %}
<h2>Labels</h2>
<p class="soft">F1 of each label by itself.</p>
<div class="bars">
{% for label, bars in figures.labels %}
<div><h3>{{ label }}</h3>
{% for bar in bars %}
<div class="bar"><span>{{ bar.title }}</span><i style="--share: {{ "%.1f" % (100 * bar.value) }}%; --hue: {{ bar.colour }}"></i><span>{{ "%.3f" % bar.value }}</span></div>
{% endfor %}
</div>
{% endfor %}
</div>

{% endif %}
{% if figures.answers %}
<h2>Answers</h2>
<p class="soft">Answers over gold numbers, a point each text. On the dashed line the two are equal.</p>
{{ panels(figures.answers, "Answers over gold numbers") }}

{% endif %}
{% if figures.confusions %}
<h2>Confusion</h2>
<p class="soft">Gold classes down, predicted classes across by their numbers. A cell is a number of texts, its shade their share of the gold class.</p>
<div class="panels" style="--panel: {{ "17rem" if figures.confusions[0].rows | length <= 4 else "26rem" }}">
{% for found in figures.confusions if found.model in shown %}
{{ matrix(found) }}
{% endfor %}
</div>
{% if figures.confusions | rejectattr("model", "in", shown) | list %}
<details><summary>Other models</summary>
<div class="panels" style="--panel: {{ "17rem" if figures.confusions[0].rows | length <= 4 else "26rem" }}">
{% for found in figures.confusions if found.model not in shown %}
{{ matrix(found) }}
{% endfor %}
</div>
</details>
{% endif %}

{% endif %}
{% if figures.maps %}
<h2>Confusion</h2>
<p class="soft">Gold classes down, predicted classes across; the shade is the share of the gold class.</p>
{{ panels(figures.maps, "Confusion matrix") }}

{% endif %}
{{ slots.champion | svg }}

<h2 id="rows">Where teacher and candidate differ</h2>
{% if differing.rows %}
<p class="soft">{% if differing.total > differing.rows | length %}{{ differing.rows | length }} of {{ "{:,}".format(differing.total) }} such texts{% else %}All {{ differing.total }} such texts{% endif %}{% if form == "number" %}, the farthest apart first.{% elif form in ("entities", "span") %}.{% else %}, those on which both are surest first.{% endif %} A wrong answer is coloured.</p>
{{ records("Where teacher and candidate differ", differing, "teacher", candidate) }}
{% else %}
<p class="soft">They agree on every test text.</p>
{% endif %}

<h2 id="errors">The candidate's surest errors</h2>
{% if errors.rows %}
<p class="soft">{% if errors.total > errors.rows | length %}{{ errors.rows | length }} of {{ "{:,}".format(errors.total) }} errors{% else %}All {{ errors.total }} errors{% endif %}{% if form == "number" %}, the farthest off first.{% elif form == "span" %}.{% else %}, the surest first.{% endif %} Where the teacher is as sure of the same answer, the label may be wrong.</p>
{{ records("The candidate's surest errors", errors, "teacher", candidate) }}
{% else %}
<p class="soft">It is right on every test text.</p>
{% endif %}

{% if attributions %}
<h2 id="words">The words that answers rest on</h2>
<p class="soft">How much the {{ "answer" if form == "number" else "probability of the answer" }} of {{ candidate }} drops without a word: the more, the stronger the colour. A dashed line marks words without which it rises.</p>
{% for found in attributions %}
<div class="reason">
<p class="soft">{{ found.answer }}{% if form != "number" %} {{ "%.2f" % found.score }}{% endif %}, gold {{ found.gold }}</p>
{% set largest = namespace(value=1e-9) %}
{% for part in found.parts %}{% for word in part %}{% if (word.weight | abs) > largest.value %}{% set largest.value = word.weight | abs %}{% endif %}{% endfor %}{% endfor %}
{% for part in found.parts %}
<p>{% for word in part %}{% set share = (word.weight | abs) / largest.value %}{% if share >= 0.04 %}<mark{% if word.weight < 0 %} class="against"{% endif %} title="{{ "%+.3f" % word.weight }}" style="--weight: {{ "%.0f" % ((70 if word.weight < 0 else 34) * share) }}%">{{ word.text }}</mark>{% else %}{{ word.text }}{% endif %}{% endfor %}</p>
{% endfor %}
</div>
{% endfor %}

{% endif %}
{% if cut %}
<h2 id="cut">Texts that are cut</h2>
<p class="soft">{{ "%.1f" % (100 * metrics.truncation.share) }}% of the test texts are longer than {{ metrics.truncation.max_length }} tokens, and models read their beginning alone.</p>
{{ listing(cut[0], cut[1], candidate) }}

{% endif %}
<h2 id="training">Training</h2>
{% if figures.learning %}
<p class="soft">The dev score, whose best weights are kept, and the loss. Losses of different trainings are of different kinds.</p>
<div class="panels" style="--panel: 15rem">
{% for name, svg in figures.learning.items() %}
<figure role="img" aria-label="Learning curve, {{ name }}">{{ svg | svg }}</figure>
{% endfor %}
</div>
{% endif %}
{{ slots.costs | svg }}

<h2 id="data">Data</h2>
{{ listing(["split", "rows", "tokens", "rows cut at the sequence limit"], split_rows) }}
{% if metrics.vocabulary is defined %}
<p class="soft" style="margin-top: .8rem">The student has a trimmed vocabulary: {{ "{:,}".format(metrics.vocabulary.tokens) }} of {{ "{:,}".format(metrics.vocabulary.of) }} tokens, chosen by the train and transfer texts.
Split into shorter tokens than with the whole one:{% for name, share in metrics.vocabulary.changed.items() %} {{ "%.1f" % (100 * share.tokens) }}% of the tokens and {{ "%.1f" % (100 * share.rows) }}% of the rows of {{ name }}{{ "." if loop.last else "," }}{% endfor %}</p>
{% endif %}

{{ slots.validation | svg }}

<h2 id="lineage">Lineage</h2>
{{ slots.commands | svg }}
<p class="soft">sha256 of the manifests of what went in; <code>dvc.lock</code> and the run in MLflow name the rest.</p>
<div class="wide">
<table class="sums">
<tbody>
{% for path, sum in lineage.items() %}
<tr><td>{{ path }}</td><td><code>{{ sum }}</code></td></tr>
{% endfor %}
</tbody>
</table>
</div>
</main>
<script>{{ script | svg }}</script>
</body>
</html>
"""
)
