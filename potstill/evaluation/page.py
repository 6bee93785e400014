# ruff: noqa: E501 - markup does not wrap like code
"""The report's template, as code so that it travels with the package as every module does."""

from potstill.evaluation.sheet import HEAD
from potstill.evaluation.verdict_page import PLACE

TEMPLATE = (
    HEAD
    + """\
<title>{{ project }}: evaluation of the student</title>
<style>
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1d2127; --soft: #5d6570; --line: #e2e3e0; --accent: #b45f06;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e4e6ea; --soft: #9aa2ad; --line: #2e3238; --accent: #f0a04b; }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; letter-spacing: -0.005em; margin: 3.2rem 0 .6rem; }
p { margin: 0 0 1rem; max-width: 44rem; }
.soft { color: var(--soft); }
.verdict { border-left: 3px solid var(--accent); padding: .1rem 0 .1rem 1rem; margin: 1.2rem 0; }
.verdict p, .verdict ul { margin: .2rem 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: 1px; margin: 2rem 0;
  background: var(--line); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.facts div { background: var(--paper); padding: 1rem 1.1rem; }
.facts strong { display: block; font-size: 1.7rem; line-height: 1.2; font-weight: 600; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { font-weight: 500; color: var(--soft); text-align: right; vertical-align: bottom; white-space: pre-line; line-height: 1.25; }
th, td { padding: .5rem .6rem; border-bottom: 1px solid var(--line); }
td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
tr.ships td { font-weight: 600; }
tr.ships td:first-child::after { content: "candidate"; margin-left: .5rem; padding: .05rem .4rem; border-radius: 99px;
  font-size: .72rem; font-weight: 500; color: var(--accent); border: 1px solid currentColor; }
.prose td, .prose th { text-align: left; vertical-align: top; white-space: normal; }
.prose td:first-child { min-width: 20rem; overflow-wrap: anywhere; white-space: pre-line; }
.prose td:not(:first-child) { white-space: nowrap; }
.wrong { color: var(--accent); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem; }
figure { margin: 1rem 0; overflow-x: auto; }
figure svg { display: block; max-width: 100%; height: auto; color: var(--ink); }
figure svg text { font-family: inherit !important; }
code { font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.sums td:last-child { text-align: left; white-space: normal; color: var(--soft); }
@media print { main { padding: 0; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<h1>{{ project }}: evaluation of the student</h1>
<p class="soft">{{ "{:,}".format(metrics.rows) }} test texts that neither training nor any choice has seen. The candidate to ship is {{ candidate }}.</p>
"""
    + PLACE
    + """

<section class="facts">
<div><strong>{{ score[0] }}%</strong><span>{{ scoring.words }} ({{ score[1] }} to {{ score[2] }})</span></div>
{% if comparison.teacher_ratio is defined %}
<div><strong>{{ "%.1f" % (100 * comparison.teacher_ratio) }}%</strong><span>of the teacher's {{ scoring.words }}</span></div>
{% endif %}
<div><strong>{{ "%.1f" % comparison.speedup }}×</strong><span>the teacher's texts per second</span></div>
<div><strong>{{ "%.1f" % model.megabytes }} MB</strong><span>model file, teacher {{ "%.1f" % metrics.models.teacher.megabytes }} MB</span></div>
</section>

<h2>Models</h2>
<div class="wide">
<table>
<thead><tr>{% for title in headers %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in rows %}
<tr{% if row[0] == candidate %} class="ships"{% endif %}>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
<p class="soft" style="margin-top: .8rem">{% if note %}{{ note }}. {% endif %}{% if task == "single_label" %}
Accuracy with its Wilson interval. ECE: expected calibration error after temperature scaling, {{ metrics.calibration_bins }} bins.
{% elif task == "multi_label" %}
Micro F1 with its bootstrap interval. Subset: texts whose every label is right.
{% elif task == "token_classification" %}
F1 by entity with its bootstrap interval: an entity counts where its type and both its ends are right (seqeval); what lies beyond the longest sequence counts as not found.
{% elif task == "question_answering" %}
F1 of words with the best gold answer, and exact match, as SQuAD has them; intervals by bootstrap over the questions.
{% else %}
R² with its bootstrap interval: the share of the gold numbers' variance that is explained; their mean alone has 0. MSE in the numbers' own unit.
{% endif %}
Speed on the machine that made this page: one text at a time for p50 and p99, batches of 32 for texts/s; the teacher through <code>transformers.pipeline</code>,
the students from text to probabilities through the serving runtime. Compare the ratios: absolute numbers vary with the machine and its load.</p>
{% if details %}
<div class="wide" style="margin: 1rem 0">
<table>
<thead><tr><th scope="col">{{ candidate }}</th><th scope="col">value</th><th scope="col">{{ "%g" % (100 * metrics.confidence) }}% interval</th></tr></thead>
<tbody>
{% for name, value, low, high in details %}
<tr><td>{{ name }}</td><td>{{ "%.4f" % value }}</td><td>{{ "%.4f" % low }} to {{ "%.4f" % high }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}
<div class="pair">
<figure role="img" aria-label="Score with interval against size on disk">{{ figures.size }}</figure>
<figure role="img" aria-label="Score with interval against latency">{{ figures.latency }}</figure>
</div>

<h2>Does distillation help?</h2>
{% for verdict in verdicts %}
<p>{{ verdict }}</p>
{% endfor %}
<p class="soft">Both controls have the student's layers and learn the gold labels alone, for as long as that helps. The pretrained one starts from the pretrained base: what one would have without a teacher.
The initialised one starts from the fine-tuned teacher, as the student does: what copying alone gives.
{% if metrics.proof.seeds | length > 1 %}The first seed's student is compared as it ships, those of further seeds as they were trained.{% endif %}

{% if task == "single_label" %}
{{ candidate }} agrees with the teacher on {{ "%.1f" % (100 * comparison.agreement) }}% of the texts; the mean divergence KL(teacher‖student) of the calibrated probabilities is {{ "%.4f" % comparison.kl }} nats.</p>
{% elif task == "token_classification" %}
{{ candidate }} agrees with the teacher on {{ "%.1f" % (100 * comparison.agreement) }}% of the tags; the mean divergence KL(teacher‖student) of a tag's calibrated probabilities is {{ "%.4f" % comparison.kl }} nats.</p>
{% elif task == "question_answering" %}
{{ candidate }} gives the teacher's answer to {{ "%.1f" % (100 * comparison.agreement) }}% of the questions.</p>
{% elif task == "multi_label" %}
{{ candidate }} agrees with the teacher on {{ "%.1f" % (100 * comparison.agreement) }}% of the labels of all texts; the mean divergence KL(teacher‖student) of a text's calibrated probabilities is {{ "%.4f" % comparison.kl }} nats.</p>
{% else %}
{{ candidate }}'s numbers correlate with the teacher's at {{ "%.3f" % comparison.correlation }} (Pearson); they are {{ "%.3g" % comparison.rmse }} apart (root of the mean square).</p>
{% endif %}
<div class="wide">
<table>
<thead><tr>{% for title in proof_titles %}<th scope="col">{{ title }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in proof %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>

{% if figures.reliability is defined %}
<h2>Calibration</h2>
<p class="soft">How often a model is right, by how sure it is. On the dashed line the two are equal.</p>
<figure role="img" aria-label="Reliability diagrams">{{ figures.reliability }}</figure>

{% endif %}
{% if figures.labels is defined %}
<h2>Labels</h2>
<p class="soft">F1 of each label by itself.</p>
<figure role="img" aria-label="F1 of each label">{{ figures.labels }}</figure>

{% endif %}
{% if figures.answers is defined %}
<h2>Answers</h2>
<p class="soft">Answers over gold numbers, a point each text. On the dashed line the two are equal.</p>
<figure role="img" aria-label="Answers over gold numbers">{{ figures.answers }}</figure>

{% endif %}
{% if figures.confusion is defined %}
<h2>Confusion</h2>
<p class="soft">Gold classes down, predicted classes across, number of texts in each cell.</p>
<figure role="img" aria-label="Confusion matrices">{{ figures.confusion }}</figure>

{% endif %}
<h2>Where teacher and student disagree</h2>
{% if examples %}
{% if task == "regression" %}
<p class="soft">The {{ examples | length }} texts on which they are farthest apart.</p>
{% elif task in ("token_classification", "question_answering") %}
<p class="soft">The first {{ examples | length }} such texts. An answer that is not the gold one is coloured.</p>
{% else %}
<p class="soft">The {{ examples | length }} texts on which both are surest. A prediction that is not the gold label is coloured.</p>
{% endif %}
<div class="wide">
<table class="prose">
<thead><tr><th scope="col">text</th><th scope="col">gold</th><th scope="col">teacher</th><th scope="col">student</th></tr></thead>
<tbody>
{% for example in examples %}
<tr><td>{{ example.text }}</td><td>{{ example.gold }}</td>
{% if task == "regression" %}
<td>{{ example.teacher }}</td>
<td>{{ example.student }}</td></tr>
{% elif task in ("token_classification", "question_answering") %}
<td{% if example.teacher != example.gold %} class="wrong"{% endif %}>{{ example.teacher }}</td>
<td{% if example.student != example.gold %} class="wrong"{% endif %}>{{ example.student }}</td></tr>
{% else %}
<td{% if example.teacher != example.gold %} class="wrong"{% endif %}>{{ example.teacher }} {{ "%.2f" % example.teacher_probability }}</td>
<td{% if example.student != example.gold %} class="wrong"{% endif %}>{{ example.student }} {{ "%.2f" % example.student_probability }}</td></tr>
{% endif %}
{% endfor %}
</tbody>
</table>
</div>
{% else %}
<p class="soft">They agree on every test text.</p>
{% endif %}

<h2>Data</h2>
<div class="wide">
<table>
<thead><tr><th scope="col">split</th><th scope="col">rows</th><th scope="col">tokens</th><th scope="col">rows cut at the sequence limit</th></tr></thead>
<tbody>
{% for name, split in splits.items() %}
<tr><td>{{ name }}</td><td>{{ "{:,}".format(split.rows) }}</td><td>{{ "{:,}".format(split.tokens) }}</td><td>{{ "{:,}".format(split.truncated) }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
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
