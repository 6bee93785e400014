"""The cost of the sequence limit: how many test texts are cut, and how models score on them and on whole texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.evaluation.summary import Answers, score_value
from potstill.scores.metrics import Flags, Ints, Labels

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A score on fewer texts says nothing.
_MIN_ROWS = 10


def cut_rows(texts: Sequence[Any], lengths: Ints, tokenizer: Tokenizer) -> Flags:
    """Return [rows] whether the tokenizer cuts a text, or a text of a pair.

    Args:
        texts: [rows] as users send them.
        lengths: [rows] tokens of each text after the cut.
        tokenizer: cuts at its own limit (`tokenization.load_tokenizer`).
    """
    flags = np.zeros(len(texts), dtype=bool)
    # Only a text that fills the limit can have been cut.
    full = np.flatnonzero(lengths == lengths.max(initial=0))
    encodings = tokenizer.encode_batch_fast([texts[row] for row in full.tolist()])
    flags[full] = [bool(encoding.overflowing) for encoding in encodings]
    return flags


def truncation(labels: Labels, models: Mapping[str, Answers], cut: Flags) -> dict[str, Any]:
    """Compute `truncation` of metrics.json: cut rows, their share, and each model's score on them and on whole texts.

    Scores are left out where there are too few rows of either kind.

    Args:
        labels: [rows, ...] gold labels in the task's form.
        models: name -> answers to those rows.
        cut: [rows], from `cut_rows`.
    """
    count = int(cut.sum())
    result: dict[str, Any] = {"rows": count, "share": count / max(len(cut), 1)}
    if min(count, len(cut) - count) < _MIN_ROWS:
        return result
    parts = {"cut": cut, "whole": ~cut}
    return result | {
        part: {
            name: score_value(labels[rows], replace(answers, logits=answers.logits[rows]))
            for name, answers in models.items()
        }
        for part, rows in parts.items()
    }
