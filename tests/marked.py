"""Generated rows whose labels are places in their text, with rules that a tiny model learns."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.conftest import GLUE

PEOPLE = "doctor teacher soldier painter sister brother".split()  # noqa: SIM905
PLACES = "village island bridge market forest kitchen".split()  # noqa: SIM905
OTHERS = "movie story plot camera scene script music train window letter morning evening".split()  # noqa: SIM905


def tagged_row(generator: random.Random) -> tuple[list[str], list[str]]:
    """Words and BIO2 tags: people and places are entities, of a first word and often a second that is no first one."""
    words: list[str] = []
    tags: list[str] = []
    for _ in range(generator.randint(3, 6)):
        words.append(generator.choice(GLUE))
        tags.append("O")
        kind, names = generator.choice([("PER", PEOPLE), ("LOC", PLACES), ("O", OTHERS), ("O", OTHERS)])
        count = generator.randint(1, 2)
        half = len(names) // 2
        words += [generator.choice(names[:half]), generator.choice(names[half:])][:count]
        tags += ["O"] * count if kind == "O" else [f"B-{kind}", *[f"I-{kind}"] * (count - 1)]
    return words, tags


def tagged_rows(count: int, seed: int = 3) -> list[dict[str, Any]]:
    """Distinct rows: `tokens` and `tags`."""
    generator = random.Random(seed)
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < count:
        words, tags = tagged_row(generator)
        rows.setdefault(" ".join(words), {"tokens": words, "tags": tags})
    return list(rows.values())


def question_rows(count: int, seed: int = 5, words: int = 30) -> list[dict[str, Any]]:
    """Distinct rows: `question`, `context` and `answers`; the answer is the one place in the context."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        context = generator.choices([*OTHERS, *GLUE], k=words)
        place = generator.randrange(words)
        context[place] = generator.choice(PLACES)
        before = " ".join(context[:place])
        answer = {"text": [context[place]], "answer_start": [len(before) + bool(before)]}
        rows.append({"question": "the house", "context": " ".join(context), "answers": answer})
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
