"""Which columns are the text and the label, where a user does not name them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from potstill.data.proposals.column_looks import different, is_long_text, listed
from potstill.data.proposals.look import ColumnLook
from potstill.errors import ParamsError

Columns = Mapping[str, ColumnLook]

# In the order in which they are taken.
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


def choose_text(columns: Columns, where: str, taken: Collection[str]) -> list[str]:
    """The column of texts, or both of a pair.

    Args:
        columns: all there are.
        where: the data, for messages.
        taken: columns that are something else.

    Raises:
        ParamsError: it is not clear which it is; the message has the columns.
    """
    readable = {name: at for name, at in columns.items() if at.kind in ("text", "words") and name not in taken}
    named = {name.strip().lower(): name for name in readable}
    for pair in _PAIRS:
        if all(name in named and columns[named[name]].kind == "text" for name in pair):
            return [named[name] for name in pair]
    for name in _TEXTS:
        if name in named:
            return [named[name]]
    known = [named[name] for name in _OTHER_TEXTS if name in named]
    long = [name for name, at in readable.items() if is_long_text(at)]
    candidates = known if len(known) == 1 and long in ([], known) else long
    if len(candidates) == 1:
        return candidates
    raise _unclear("text", "--text", columns, where, candidates)


def choose_label(columns: Columns, where: str, taken: Collection[str]) -> list[str]:
    """The column of labels, or all columns of 0 and 1 that are one label each; see `choose_text`."""
    left = {name: at for name, at in columns.items() if name not in taken and at.kind not in ("empty", "object")}
    named = {name.strip().lower(): name for name in left}
    for names in (_LABELS, _OTHER_LABELS):
        known = [named[name] for name in names if name in named]
        if known and (names is _LABELS or len(known) == 1):
            return known[:1]
    flags = [name for name, at in left.items() if at.kind == "integer" and set(at.values or "?") <= {"0", "1"}]
    if len(flags) > 1:
        return flags
    few = [name for name, at in left.items() if _names_classes(at)]
    if len(few) == 1:
        return few
    raise _unclear("label", "--label", columns, where, few)


def _names_classes(column: ColumnLook) -> bool:
    """Whether a column may hold names of classes: each several times."""
    if column.kind in ("labels", "tags", "spans", "answers"):
        return True
    return 1 < different(column) <= column.rows / 3 and not is_long_text(column)


def _unclear(what: str, option: str, columns: Columns, where: str, candidates: Sequence[str]) -> ParamsError:
    reason = f"{' and '.join(map(repr, candidates[:5]))} may each be it" if candidates else "no column looks like it"
    return ParamsError(f"{where}: name the {what} with {option}, as {reason}; it has {listed(columns.values())}")
