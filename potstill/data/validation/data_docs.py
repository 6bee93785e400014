"""Reworks Great Expectations' Data Docs to be readable offline, with equal bytes for equal data."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_REMOTE = re.compile(
    r"""<script[^>]*\ssrc=["']https?://[^>]*>\s*</script>|<link[^>]*\shref=["']https?://[^>]*>|<img[^>]*\ssrc=["']https?://[^>]*>""",
    re.IGNORECASE,
)
_REMOTE_STYLE = re.compile(r"""url\(["']?https?://[^)]*\)""")
# The time at which a frame was loaded. The time of the run is fixed (1970) and part of the pages' addresses.
_TIME = re.compile(r"\b(?!1970)\d{8}T\d{6}\.\d{6}Z\b")
_SHEET = "static/styles/potstill.css"
_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 1rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top; }
.fa-check-circle::before { content: "\\2713 passed"; color: #17692f; }
.fa-times::before { content: "\\2717 failed"; color: #b00020; font-weight: bold; }
.navbar img, .modal, .walkthrough-links, .newsletter, form { display: none; }
"""


def make_reproducible(site: Path) -> None:
    """Rework a site that was just built, in place.

    Scripts, styles and pictures from other hosts are removed, so that no page connects anywhere, and a small style
    sheet is added. Times and unused pictures are removed, and random identifiers become numbers in the order of their
    appearance.
    """
    for page in sorted(site.rglob("*.html")):
        text = _REMOTE.sub("", page.read_text(encoding="utf-8"))
        text = _TIME.sub("-", _REMOTE_STYLE.sub("none", text))
        numbers: dict[str, str] = {}
        for identifier in _UUID.findall(text):
            numbers.setdefault(identifier, f"n{len(numbers)}")
        for identifier, number in numbers.items():
            text = text.replace(identifier, number)
        to_root = "../" * (len(page.relative_to(site).parts) - 1)
        text = text.replace("</head>", f'<link rel="stylesheet" href="{to_root}{_SHEET}">\n</head>', 1)
        page.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")
    for sheet in site.rglob("*.css"):
        sheet.write_text(_REMOTE_STYLE.sub("none", sheet.read_text(encoding="utf-8")), encoding="utf-8")
    for unused in ("static/fonts", "static/images"):
        shutil.rmtree(site / unused, ignore_errors=True)
    (site / _SHEET).parent.mkdir(parents=True, exist_ok=True)
    (site / _SHEET).write_text(_STYLE, encoding="utf-8")
