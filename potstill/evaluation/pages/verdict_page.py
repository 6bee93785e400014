"""The gate's verdict on the report's page, which evaluate writes before the gate has judged."""

from __future__ import annotations

from potstill.evaluation.gates import Verdict
from potstill.evaluation.pages.sheet import render

# Stands in the page for the verdict.
PLACEHOLDER = "<!-- verdict -->"
_TEMPLATE = """\
<section class="verdict">
<p><strong>{{ heading }}</strong>{% if proof %} {{ proof }}.{% endif %}</p>
{% if wear %}<p>Mind that {{ wear }}.</p>{% endif %}
{% if failed %}
<ul>{% for check in failed %}<li>{{ check.sentence }}</li>{% endfor %}</ul>
{% endif %}
</section>
"""


def with_verdict(page: str, verdict: Verdict | None) -> str:
    """Return the page with the verdict in place of the placeholder.

    Args:
        page: from `render_report`.
        verdict: None where the gate has not judged yet.
    """
    failed = [check for check in verdict.checks if not check.passed] if verdict else []
    proof, wear = (verdict.proof, verdict.wear) if verdict else ("", "")
    block = render(_TEMPLATE, heading=_heading(verdict), proof=proof, wear=wear, failed=failed)
    return page.replace(PLACEHOLDER, block, 1)


def _heading(verdict: Verdict | None) -> str:
    if verdict is None:
        return "The gate has not judged this candidate yet."
    if verdict.passed:
        return f"The gate passed this candidate: all {len(verdict.checks)} checks hold."
    count = sum(not check.passed for check in verdict.checks)
    return f"The gate refused this candidate, so it does not ship: {count} of {len(verdict.checks)} checks failed."
