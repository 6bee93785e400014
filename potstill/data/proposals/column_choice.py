"""Chooses the columns of text and label that a user does not name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from potstill.data.proposals.column_summaries import describe_columns, distinct_count, is_long_text
from potstill.data.proposals.table_summaries import ColumnSummary
from potstill.errors import ParamsError

Columns = Mapping[str, ColumnSummary]

# Names of columns, in the order of preference.
_PAIRS = (
    ("question", "context"), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"),
    ("question1", "question2"), ("text1", "text2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"),
    ("query", "passage"), ("query", "document"), ("question", "answer"), ("question", "sentence"),
    ("claim", "evidence"),
)  # fmt: skip
_TEXTS = ("text", "tokens", "words")
_OTHER_TEXTS = (
    "sentence", "review", "review_text", "content", "body", "comment", "document", "message", "tweet", "utterance",
    "query", "question", "description", "sms", "abstract", "post", "article", "title", "headline",
)  # fmt: skip
_LABELS = ("label", "labels", "ner_tags", "tags", "entities", "spans", "answers", "accept")
_OTHER_LABELS = (
    "class", "category", "categories", "target", "sentiment", "intent", "topic", "emotion", "tag", "gold_label",
    "stars", "rating", "score", "y",
)  # fmt: skip


def choose_text(columns: Columns, location: str, excluded: Collection[str]) -> list[str]:
    """Choose the column of texts, or both of a pair.

    Args:
        columns: all columns.
        location: the data, for messages.
        excluded: columns that are known to be something else.

    Raises:
        ParamsError: no choice is clear. The message lists the columns.
    """
    readable = {
        name: column for name, column in columns.items() if column.kind in ("text", "words") and name not in excluded
    }
    named = {name.strip().lower(): name for name in readable}
    for pair in _PAIRS:
        if all(name in named and columns[named[name]].kind == "text" for name in pair):
            return [named[name] for name in pair]
    for name in _TEXTS:
        if name in named:
            return [named[name]]
    known = [named[name] for name in _OTHER_TEXTS if name in named]
    long = [name for name, column in readable.items() if is_long_text(column)]
    candidates = known if len(known) == 1 and long in ([], known) else long
    if len(candidates) == 1:
        return candidates
    raise _unclear("text", "--text", columns, location, candidates)


def choose_label(columns: Columns, location: str, excluded: Collection[str]) -> list[str]:
    """Choose the column of labels, or all columns of 0 and 1 if each of them is a label. See `choose_text`."""
    candidates = {
        name: column
        for name, column in columns.items()
        if name not in excluded and column.kind not in ("empty", "object")
    }
    named = {name.strip().lower(): name for name in candidates}
    for names in (_LABELS, _OTHER_LABELS):
        known = [named[name] for name in names if name in named]
        if known and (names is _LABELS or len(known) == 1):
            return known[:1]
    flags = [name for name, column in candidates.items() if _holds_flags(column)]
    if len(flags) > 1:
        return flags
    classes = [name for name, column in candidates.items() if _may_hold_classes(column)]
    if len(classes) == 1:
        return classes
    raise _unclear("label", "--label", columns, location, classes)


def _holds_flags(column: ColumnSummary) -> bool:
    return column.kind == "integer" and bool(column.values) and set(column.values or ()) <= {"0", "1"}


def _may_hold_classes(column: ColumnSummary) -> bool:
    """Whether a column may hold names of classes, each several times."""
    if column.kind in ("labels", "tags", "spans", "answers"):
        return True
    return 1 < distinct_count(column) <= column.rows / 3 and not is_long_text(column)


def _unclear(what: str, option: str, columns: Columns, location: str, candidates: Sequence[str]) -> ParamsError:
    reason = f"{' and '.join(map(repr, candidates[:5]))} may each be it" if candidates else "no column looks like it"
    return ParamsError(
        f"{location}: name the {what} with {option}, as {reason}; it has {describe_columns(columns.values())}"
    )
