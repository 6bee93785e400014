from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from potstill.data.tokens.tokenization import load_tokenizer
from potstill.evaluation.notes import notes
from potstill.evaluation.summary import Answers
from potstill.evaluation.truncation import cut_rows, truncation


def test_only_texts_that_lose_tokens_are_cut(tiny_base: Path) -> None:
    tokenizer = load_tokenizer(tiny_base, 8)
    texts = ["the movie", "the movie the movie the movie", "the movie the movie the movie the movie"]
    lengths = np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(texts)], dtype=np.int64)
    assert lengths.tolist() == [4, 8, 8]
    assert cut_rows(texts, lengths, tokenizer).tolist() == [False, False, True]


def _answers(labels: np.ndarray[Any, Any], wrong: np.ndarray[Any, Any]) -> Answers:
    predictions = np.where(wrong, 1 - labels, labels)
    return Answers(np.eye(2, dtype=np.float32)[predictions], 1.0, 1, 1)


def test_each_model_is_scored_on_cut_and_on_whole_texts() -> None:
    labels, cut = np.arange(40) % 2, np.arange(40) < 20
    models = {"int8": _answers(labels, np.arange(40) < 10), "teacher": _answers(labels, np.zeros(40, dtype=bool))}
    result = truncation(labels, models, cut)
    assert result == {
        "rows": 20,
        "share": 0.5,
        "cut": {"int8": 0.5, "teacher": 1.0},
        "whole": {"int8": 1.0, "teacher": 1.0},
    }
    metrics = {"shipped": "int8", "models": {}, "truncation": {"max_length": 64, **result}}
    assert notes(metrics) == [
        "50.0% of the test texts are cut at 64 tokens: "
        "Student INT8 has 50.0% accuracy on those and 100.0% on the others"
    ]


def test_few_cut_texts_have_no_score_of_their_own() -> None:
    labels, cut = np.arange(40) % 2, np.arange(40) < 2
    result = truncation(labels, {"int8": _answers(labels, cut)}, cut)
    assert result == {"rows": 2, "share": 0.05}


def test_stages_of_few_steps_are_named() -> None:
    sentences = notes({"models": {}, "steps": {"teacher": 4, "distill": 7, "finetune": 0, "control": 400}})
    assert len(sentences) == 1
    assert "teacher (4), distill (7)" in sentences[0]
