"""The parts that pages share, in a module so that the package includes them."""

from __future__ import annotations

from typing import Any

# The head of every page, up to its title.
HEAD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
"""

# Style of every page.
SHEET = """\
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --raised: #fff; --ink: #1d2127; --soft: #5d6570;
  --line: #e2e3e0; --edge: #c6c9c4; --accent: #a85705;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181c; --raised: #1d2025; --ink: #e4e6ea; --soft: #9fa7b2;
    --line: #2e3238; --edge: #444a53; --accent: #f0a04b;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; letter-spacing: -0.005em; margin: 3.2rem 0 .6rem; }
p { margin: 0 0 1rem; max-width: 44rem; }
.soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { font-weight: 500; color: var(--soft); text-align: right; vertical-align: bottom; line-height: 1.25; }
"""

# Style of every page's tables: on a narrow screen rows become lists, so that no column is out of sight. Cells name
# their column in `data-title`.
NARROW = """\
@media (max-width: 40rem) {
  main { padding: 1.75rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  table.stack, table.stack tbody, table.stack tr { display: block; width: 100%; }
  table.stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table.stack tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  table.stack td { display: flex; justify-content: space-between; gap: 1.25rem; padding: .12rem 0; border: 0;
    white-space: normal; overflow-wrap: anywhere; text-align: right; }
  table.stack td::before { content: attr(data-title); flex: none; max-width: 55%; text-align: left; color: var(--soft);
    font-weight: 400; }
  table.stack td:first-child { display: block; text-align: left; font-weight: 600; }
  table.stack td:first-child::before, table.stack td:empty { display: none; }
}
"""


def shortened(text: str, characters: int) -> str:
    """Cut a text that is longer than a number of characters, and mark the cut."""
    return text if len(text) <= characters else f"{text[:characters]} …"


def render(template: str, **values: Any) -> str:
    """Fill an HTML template: texts are escaped, the filter `svg` leaves a figure as it is, an unknown name raises.

    Args:
        template: a Jinja template.
        values: the names that it uses.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["svg"] = Markup
    return environment.from_string(template).render(**values)
