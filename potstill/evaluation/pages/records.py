"""Tables of test rows that a reader sorts and filters, and the page's only script.

Without the script the tables are whole and in their first order.
"""
# ruff: noqa: E501 - markup does not wrap like code

from __future__ import annotations

import base64
import hashlib

STYLE = """\
.tools { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: end; margin: .8rem 0; font-size: .85rem; }
.tools[hidden] { display: none; }
.tools label { display: grid; gap: .15rem; color: var(--soft); }
.tools input, .tools select, button { font: inherit; color: var(--ink); background: var(--raised); border: 1px solid var(--edge);
  border-radius: 6px; padding: .3rem .55rem; }
.tools input, .tools select { height: 2.2rem; }
.tools input { width: 14rem; max-width: 100%; }
.tools output { color: var(--soft); margin-left: auto; font-variant-numeric: tabular-nums; }
.records { max-height: 34rem; overflow: auto; border: 1px solid var(--line); border-radius: 8px; }
.records table { font-size: .85rem; }
.records thead th { position: sticky; top: 0; background: var(--paper); z-index: 1; }
.records th, .records td, .records th:first-child, .records td:first-child { padding: .5rem .7rem; }
.records tbody tr:last-child td { border-bottom: 0; }
th button { all: unset; cursor: pointer; color: var(--soft); font-weight: 500; }
th button::after { content: " ↕"; opacity: .6; }
th[aria-sort=ascending] button::after { content: " ↑"; opacity: 1; }
th[aria-sort=descending] button::after { content: " ↓"; opacity: 1; }
:is(button, input, select, summary, a, .wide, .records):focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.sure { color: var(--soft); margin-left: .35em; }
@media (max-width: 40rem) {
  .tools label, .tools input, .tools select { width: 100%; }
  .tools output { margin: 0; }
  .records table.stack thead { display: none; }
  .records table.stack tr { padding: .7rem; }
  .records table.stack td, .records table.stack td:first-child { padding: .12rem 0; }
  .records table.stack td:first-child { font-weight: 400; margin-bottom: .3rem; }
}
@media print { .records { max-height: none; overflow: visible; border: 0; } .tools, button { display: none !important; } }
"""

MACRO = """\
{% macro records(title, examples, rival, candidate, changes=true) %}
<div data-records>
<div class="tools" hidden>
<label>Find <input type="search" data-find></label>
{% if changes %}
<label>Show <select data-show><option value="">all rows</option>{% for change in ("gained", "lost", "both wrong", "both right") %}{% set count = examples.rows | selectattr("change", "equalto", change) | list | length %}{% if count %}<option value="{{ change }}">{{ change }} ({{ count }})</option>{% endif %}{% endfor %}</select></label>
{% endif %}
<label>Order <select data-order></select></label>
<output aria-live="polite"></output>
</div>
<div class="records" tabindex="0" role="region" aria-label="{{ title }}">
<table class="prose stack">
<thead><tr>{% for name in ("text", "gold", rival, candidate) %}<th scope="col">{{ name }}</th>{% endfor %}{% if changes %}<th scope="col">change</th>{% endif %}</tr></thead>
<tbody>
{% for row in examples.rows %}
<tr><td>{{ row.text }}</td><td data-title="gold">{{ row.gold }}</td>
<td data-title="{{ rival }}"{% if row.rival_probability is not none %} data-value="{{ "%.6f" % row.rival_probability }}"{% endif %}><span{% if row.change in ("gained", "both wrong") %} class="wrong"{% endif %}>{{ row.rival }}{% if row.rival_probability is not none %}<span class="sure">{{ "%.2f" % row.rival_probability }}</span>{% endif %}</span></td>
<td data-title="{{ candidate }}"{% if row.student_probability is not none %} data-value="{{ "%.6f" % row.student_probability }}"{% endif %}><span{% if row.change in ("lost", "both wrong") %} class="wrong"{% endif %}>{{ row.student }}{% if row.student_probability is not none %}<span class="sure">{{ "%.2f" % row.student_probability }}</span>{% endif %}</span></td>
{% if changes %}<td data-title="change">{{ row.change }}</td>{% endif %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
</div>
{% endmacro %}
"""

SCRIPT = """\
(() => {
  "use strict";
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const compare = (first, second) => {
    const numbers = [Number(first), Number(second)];
    return first !== "" && second !== "" && numbers.every(Number.isFinite)
      ? numbers[0] - numbers[1] : first.localeCompare(second);
  };
  for (const box of document.querySelectorAll("[data-records]")) {
    const [find, show, order] = ["find", "show", "order"].map(name => box.querySelector(`[data-${name}]`));
    const output = box.querySelector("output"), body = box.querySelector("tbody");
    const heads = [...box.querySelectorAll("th")], rows = [...body.rows];
    const texts = rows.map(row => row.textContent.toLowerCase());
    const filter = () => {
      const query = find.value.trim().toLowerCase();
      let shown = 0;
      rows.forEach((row, index) => {
        const fits = texts[index].includes(query) && (!show?.value || row.cells[row.cells.length - 1].textContent === show.value);
        row.hidden = !fits;
        shown += fits;
      });
      output.value = `${shown} of ${rows.length} rows`;
    };
    const sort = choice => {
      const [column, direction] = choice.split(" ").map(Number);
      const sorted = choice === "" ? rows : [...rows].sort((a, b) => direction * compare(value(a, column), value(b, column)));
      heads.forEach((head, index) => {
        if (choice !== "" && index === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      });
      order.value = choice;
      body.append(...sorted);
    };
    order.add(new Option("as listed", ""));
    heads.forEach((head, index) => {
      const button = document.createElement("button"), name = head.textContent;
      button.type = "button";
      button.textContent = name;
      button.addEventListener("click", () => sort(`${index} ${head.getAttribute("aria-sort") === "ascending" ? -1 : 1}`));
      head.replaceChildren(button);
      order.add(new Option(`${name} ↑`, `${index} 1`));
      order.add(new Option(`${name} ↓`, `${index} -1`));
    });
    find.addEventListener("input", filter);
    show?.addEventListener("change", filter);
    order.addEventListener("change", () => sort(order.value));
    box.querySelector(".tools").hidden = false;
    filter();
  }
  for (const code of document.querySelectorAll("[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${code.textContent}`);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    code.after(button);
  }
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
})();
"""

# The page runs this script alone: no other one, and nothing from elsewhere.
_SUM = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{_SUM}'"
