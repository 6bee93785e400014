# ruff: noqa: E501 - markup does not wrap like code
"""The report's template, in a module so that the package includes it."""

from potstill.evaluation.pages.evidence import MACROS, SECTIONS, STYLE
from potstill.evaluation.pages.sheet import HEAD, NARROW, SHEET
from potstill.evaluation.pages.verdict_page import PLACEHOLDER

TEMPLATE = (
    HEAD
    + """\
<title>{{ project }}: evaluation of the student</title>
<style>
"""
    + SHEET
    + """\
.verdict { border-left: 3px solid var(--accent); padding: .1rem 0 .1rem 1rem; margin: 1.2rem 0; }
.verdict p, .verdict ul { margin: .2rem 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1px; margin: 2rem 0;
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
.prose td:first-child { min-width: 20rem; overflow-wrap: anywhere; white-space: pre-line; }
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
figure svg { display: block; max-width: 100%; height: auto; color: var(--ink); }
figure svg text { font-family: inherit !important; }
code { font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.sums td:last-child { text-align: left; white-space: normal; color: var(--soft); }
"""
    + NARROW
    + STYLE
    + """\
@media print { main { padding: 0; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
</style>
</head>
<body>
"""
    + MACROS
    + """\
{% macro listing(titles, rows, ships="") %}
<div class="wide">
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
<div class="panels" style="--panel: 15rem">
{% for model, svg in figures.items() %}
<figure role="img" aria-label="{{ words }}, {{ model }}">{{ svg | svg }}</figure>
{% endfor %}
</div>
{% endmacro %}
<main>
<h1>{{ project }}: evaluation of the student</h1>
<p class="soft">{{ "{:,}".format(metrics.rows) }} test texts that neither training nor any choice has seen. The candidate to ship is {{ candidate }}.</p>
"""
    + PLACEHOLDER
    + """

<section class="facts">
<div><strong>{{ score[0] }}%</strong><span>{{ scoring.words }} ({{ score[1] }} to {{ score[2] }})</span></div>
{% if comparison.teacher_ratio is defined %}
<div><strong>{{ "%.1f" % (100 * comparison.teacher_ratio) }}%</strong><span>of the teacher's {{ scoring.words }}</span></div>
{% endif %}
<div><strong>{{ "%.1f" % comparison.speedup }}×</strong><span>the texts per second of the teacher's fastest form</span></div>
<div><strong>{{ "%.1f" % model.megabytes }} MB</strong><span>model file, teacher {{ "%.1f" % metrics.models.teacher.megabytes }} MB</span></div>
</section>

<h2>Models</h2>
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

<h2>Does distillation help?</h2>
{% for verdict in verdicts %}
<p>{{ verdict }}</p>
{% endfor %}
<p class="soft">Both controls have the student's layers and learn the gold labels alone, for as long as that helps. {{ controls[0] }} starts from the pretrained base: what one would have without a teacher.
{{ controls[1] }} starts from the fine-tuned teacher, as the student does: what copying alone gives.
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
{{ listing(proof_titles, proof) }}

"""
    + SECTIONS
    + """\
{% if figures.reliability %}
<h2>Calibration</h2>
<p class="soft">How often a model is right, by how sure it is. On the dashed line the two are equal.</p>
{{ panels(figures.reliability, "Reliability diagram") }}

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
{% for matrix in figures.confusions %}
<div><h3>{{ matrix.title }}</h3>
<div class="wide">
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
{% endfor %}
</div>

{% endif %}
{% if figures.maps %}
<h2>Confusion</h2>
<p class="soft">Gold classes down, predicted classes across; the shade is the share of the gold class.</p>
{{ panels(figures.maps, "Confusion matrix") }}

{% endif %}
<h2>Where teacher and student disagree</h2>
{% if examples %}
{% if form == "number" %}
<p class="soft">The {{ examples | length }} texts on which they are farthest apart.</p>
{% elif form in ("entities", "span") %}
<p class="soft">The first {{ examples | length }} such texts. An answer that is not the gold one is coloured.</p>
{% else %}
<p class="soft">The {{ examples | length }} texts on which both are surest. A prediction that is not the gold label is coloured.</p>
{% endif %}
<div class="wide">
<table class="prose stack">
<thead><tr><th scope="col">text</th><th scope="col">gold</th><th scope="col">teacher</th><th scope="col">student</th></tr></thead>
<tbody>
{% for example in examples %}
<tr><td>{{ example.text }}</td><td data-title="gold">{{ example.gold }}</td>
{% if form == "number" %}
<td data-title="teacher">{{ example.teacher }}</td>
<td data-title="student">{{ example.student }}</td></tr>
{% elif form in ("entities", "span") %}
<td data-title="teacher"{% if example.teacher != example.gold %} class="wrong"{% endif %}>{{ example.teacher }}</td>
<td data-title="student"{% if example.student != example.gold %} class="wrong"{% endif %}>{{ example.student }}</td></tr>
{% else %}
<td data-title="teacher"{% if example.teacher != example.gold %} class="wrong"{% endif %}>{{ example.teacher }} {{ "%.2f" % example.teacher_probability }}</td>
<td data-title="student"{% if example.student != example.gold %} class="wrong"{% endif %}>{{ example.student }} {{ "%.2f" % example.student_probability }}</td></tr>
{% endif %}
{% endfor %}
</tbody>
</table>
</div>
{% else %}
<p class="soft">They agree on every test text.</p>
{% endif %}

<h2>Data</h2>
{{ listing(["split", "rows", "tokens", "rows cut at the sequence limit"], split_rows) }}
{% if metrics.vocabulary is defined %}
<p class="soft" style="margin-top: .8rem">The student has a trimmed vocabulary: {{ "{:,}".format(metrics.vocabulary.tokens) }} of {{ "{:,}".format(metrics.vocabulary.of) }} tokens, chosen by the train and transfer texts.
Split into shorter tokens than with the whole one:{% for name, share in metrics.vocabulary.changed.items() %} {{ "%.1f" % (100 * share.tokens) }}% of the tokens and {{ "%.1f" % (100 * share.rows) }}% of the rows of {{ name }}{{ "." if loop.last else "," }}{% endfor %}</p>
{% endif %}

<h2>Lineage</h2>
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
</body>
</html>
"""
)
