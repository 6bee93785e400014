#!/usr/bin/env python
"""Writes docs/ml-test-score.md from the items of `potstill score`."""

from __future__ import annotations

from pathlib import Path

from flows.commands.ml_test_score import PAGE, render_page

if __name__ == "__main__":
    (Path(__file__).resolve().parent.parent / PAGE).write_text(render_page(), encoding="utf-8")
