"""The report in a real browser: on a phone and a laptop, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, browser, needs_browser
from tests.potstill.evaluation.sample_report import finished_page

pytestmark = [pytest.mark.slow, needs_browser]
# Text with less contrast than WCAG asks for, over all backgrounds on the way up. A canvas reads any notation of colour.
CONTRAST = """
const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const read = colour => {
  context.clearRect(0, 0, 1, 1); context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
};
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
const light = colour => colour.slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = element => {
  const layers = [];
  for (let part = element; part; part = part.parentElement) layers.push(read(getComputedStyle(part).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), poor = [];
let seen = 0;
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
  if (element.closest("script, option")) continue;
  const style = getComputedStyle(element), below = ground(element);
  const colour = over(read(element.closest("svg") ? style.fill : style.color), below);
  const [low, high] = [light(colour), light(below)].sort((a, b) => a - b);
  const ratio = (high + 0.05) / (low + 0.05);
  seen += 1;
  if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 90)}`);
}
return [seen, [...new Set(poor)]];
"""
# What is wider than the screen, unless it scrolls by itself.
WIDE = """
return [document.documentElement.scrollWidth > innerWidth ? "page" : "", ...[...document.querySelectorAll("main *")]
  .filter(part => !part.closest(".wide, .records, pre, svg") && part.getBoundingClientRect().right > innerWidth + 1)
  .map(part => part.outerHTML.slice(0, 90))].filter(Boolean);
"""
# Figures without a drawing.
EMPTY = """
document.querySelectorAll("details").forEach(part => { part.open = true; });
const figures = [...document.querySelectorAll("figure, table.grid, .forest, .bar i")];
return [figures.length, figures.filter(part => {
  const box = part.getBoundingClientRect(), svg = part.querySelector("svg");
  return !(box.width > 5 && box.height > 2) || (part.matches("figure") && !(svg?.querySelectorAll("path").length > 3));
}).map(part => part.outerHTML.slice(0, 90))];
"""


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(finished_page(True, False), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_everything_is_drawn_legible_and_on_the_screen(window: Browser, page: Path, width: int, dark: bool) -> None:
    window.open(page.as_uri(), width=width, dark=dark)
    figures, empty = window.run(EMPTY)
    assert figures > 20
    assert not empty
    assert window.run(WIDE) == []
    texts, poor = window.run(CONTRAST)
    assert texts > 500
    assert not poor
    assert window.complaints == []
    assert window.run("return document.title") == "tiny: evaluation of the student"  # no text of the data ran


def test_rows_are_found_and_sorted_by_keyboard(window: Browser, page: Path) -> None:
    window.open(page.as_uri(), width=1280, dark=False)
    shown = "return [...document.querySelector('[data-records] tbody').rows].filter(row => !row.hidden)"
    before = window.run(f"{shown}.length")
    words = window.run(f"{shown}[2].cells[0].textContent.trim().slice(-24)")
    window.run("document.querySelector('[data-find]').focus()")
    window.type(words)
    assert 0 < window.run(f"{shown}.length") < before
    assert window.run(f"{shown}.every(row => row.textContent.includes({words!r}))")
    assert window.run("return document.querySelector('output').value").endswith(f" of {before} rows")
    window.run("document.querySelector('[data-records] th:nth-child(4) button').focus()")
    window.press("Enter")
    column = f"{shown}.map(row => Number(row.cells[3].dataset.value))"
    assert window.run(column) == sorted(window.run(column))
    window.press("Enter")
    assert window.run(column) == sorted(window.run(column), reverse=True)
    window.press("Tab")
    assert window.run("return document.activeElement.textContent") == "change"
    window.run(
        "const find = document.querySelector('[data-find]'); find.value = ''; find.dispatchEvent(new Event('input'))"
    )
    choose = "show.value = 'lost'; show.dispatchEvent(new Event('change'))"
    window.run(f"const show = document.querySelector('[data-show]'); {choose}")
    assert set(window.run(f"{shown}.map(row => row.cells[4].textContent)")) == {"lost"}


def test_a_command_is_copied(window: Browser, page: Path) -> None:
    window.open(page.as_uri(), width=1280, dark=False)
    copied = "let text; navigator.clipboard.writeText = async value => { text = value; };"
    window.run(f"{copied} document.querySelector('.copy button').click(); window.copied = text;")
    assert window.run("return window.copied") == "potstill review potstill-tiny:abc"
    assert window.run("return document.querySelector('.copy button').textContent") == "Copied"
