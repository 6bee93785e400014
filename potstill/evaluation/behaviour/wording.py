"""Perturbations of what a text says: negation, names, numbers, neutral additions."""

from __future__ import annotations

import re
import string

from numpy.random import Generator

from potstill.evaluation.behaviour.chinese import is_chinese
from potstill.evaluation.behaviour.edits import unless_equal
from potstill.evaluation.behaviour.typography import full_stop

# --- negation ---------------------------------------------------------------------------------------------------------

_VERBS = "is|was|are|were|can|could|will|would|should|does|did"
_APOSTROPHE = "['\u2019]"
_VERB = re.compile(
    rf"\b(?:{_VERBS}|(?:it|he|she|there){_APOSTROPHE}s|i{_APOSTROPHE}m|(?:we|you|they){_APOSTROPHE}re)\b", re.IGNORECASE
)
_NEGATED = re.compile(
    rf"\b(?:(?P<verb>{_VERBS}|do)(?: not|n{_APOSTROPHE}t)|(?P<can>can{_APOSTROPHE}t|cannot)|won{_APOSTROPHE}t)\b", re.I
)
_OPINION = re.compile(r"\b(I|we|they|you) (?=(?:like|love|enjoy|recommend|trust|need|want|hate|regret)\b)", re.I)
# A second clause, a question or a word of degree, after which "not" no longer turns the meaning of the sentence.
_NOT_SIMPLE = re.compile(
    r"[.!?;:]\s+\S|\?|, and\b|\b(?:but|although|though|however|because|if|unless|while|except|that|which|who|whom|whose"
    r"|what|when|where|why|how|some|less|least|more|most|than|too|only|just|simply|never|no|none|nothing|nobody|neither|nor|hardly|barely|without)\b",
    re.IGNORECASE,
)
_MOST_WORDS = 20


def negate(text: str, random: Generator) -> str | None:
    """Add "not" to a simple English sentence, or remove it.

    None for all sentences but those of one clause with exactly one verb that a rule knows: is, was, are, were, can,
    could, will, would, should, does, did, the contracted forms, and opinions such as "I like".
    """
    if len(text.split()) > _MOST_WORDS or _NOT_SIMPLE.search(text):
        return None
    negations = len(re.findall(rf"\bnot\b|\bcannot\b|n{_APOSTROPHE}t\b", text, re.IGNORECASE))
    if negations:
        negated = list(_NEGATED.finditer(text))
        return _affirm(text, negated[0]) if len(negated) == negations == 1 else None
    verbs = list(_VERB.finditer(text))
    if len(verbs) == 1:
        return _insert(text, verbs[0].end(), " not") if not _asks(verbs[0]) else None
    opinions = list(_OPINION.finditer(text))
    return _insert(text, opinions[0].end(), "do not ") if not verbs and len(opinions) == 1 else None


def _asks(verb: re.Match[str]) -> bool:
    """Whether the verb is the first word, as in a question or a command; "it's" holds its subject."""
    return verb.start() == 0 and re.search(_APOSTROPHE, verb[0]) is None


def _insert(text: str, at: int, words: str) -> str:
    return text[:at] + words + text[at:]


def _affirm(text: str, negated: re.Match[str]) -> str | None:
    """Write the verb without its negation; None if it is the first word, as in a question or a command."""
    if negated.start() == 0:
        return None
    verb = negated["verb"] or ("can" if negated["can"] else "will")
    return text[: negated.start()] + verb + text[negated.end() :]


# --- names and numbers ------------------------------------------------------------------------------------------------


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# First names that are no other words, so that a capital at the beginning of a sentence does not deceive.
_WOMEN = _words(
    "Alice Amelia Andrea Angela Anna Barbara Catherine Charlotte Christine Deborah Diana Elizabeth Emily Emma Hannah "
    "Helen Isabella Jane Jennifer Jessica Julia Karen Katherine Laura Linda Lucy Margaret Maria Martha Mary Michelle "
    "Nancy Nicole Olivia Patricia Rachel Rebecca Samantha Sandra Sarah Sophia Stephanie Susan Teresa Victoria"
)
_MEN = _words(
    "Adam Alan Albert Alexander Andrew Anthony Benjamin Brian Carl Charles Christopher Daniel David Dennis Edward "
    "Eric Ethan Gary George Gregory Henry Jacob James Jason Jeffrey John Jonathan Joseph Kenneth Kevin Liam Martin "
    "Matthew Michael Nathan Nicholas Oliver Paul Peter Philip Raymond Richard Robert Ronald Ryan Samuel Scott Simon "
    "Stephen Steven Thomas Timothy Walter William"
)
_NAME = re.compile(rf"\b(?:{'|'.join(_WOMEN + _MEN)})\b")
# Digits that are no part of a word, an address, a date, a decimal or a rating.
_NUMBER = re.compile(
    r"(?<![A-Za-z0-9_.,:/$\u20ac\u00a3-])[0-9]+"
    r"(?![A-Za-z0-9_%/]|[.,:-]\d|\s*(?:stars?|points?|out of|of 10|percent)\b|\s*[\u661f\u9897\u5206\u6298])"
)


def swap_names(text: str, random: Generator) -> str | None:
    """Replace each first name by another that no one in the text has, of the same gender: Anna by Emily."""
    names = sorted(set(_NAME.findall(text)))
    if not names:
        return None
    replacements: dict[str, str] = {}
    for name in names:
        present = {*names, *replacements.values()}
        unused = [candidate for candidate in (_WOMEN if name in _WOMEN else _MEN) if candidate not in present]
        replacements[name] = str(random.choice(unused)) if unused else name
    changed = _NAME.sub(lambda match: replacements[match[0]], text)
    return unless_equal(text, changed)


def change_numbers(text: str, random: Generator) -> str | None:
    """Replace each number by another with as many digits, save those of ratings, prices, dates and addresses.

    Of long numbers only the last two digits change, so that years stay in their century.
    """

    def change(match: re.Match[str]) -> str:
        digits = match[0]
        head = digits[: max(len(digits) - 2, min(len(digits) - 1, 1))]
        changed = digits
        while changed == digits:
            changed = head + "".join(map(str, random.integers(not head, 10, len(digits) - len(head)).tolist()))
        return changed

    changed = _NUMBER.sub(change, text)
    return unless_equal(text, changed)


# --- neutral additions ------------------------------------------------------------------------------------------------

_NEUTRAL = (
    "I am writing this on a Tuesday.",
    "This text was posted on a website.",
    "I will add a few lines here.",
    "It is about three in the afternoon.",
)
_NEUTRAL_CHINESE = (
    "\u4eca\u5929\u662f\u661f\u671f\u4e8c\u3002",
    "\u8fd9\u6bb5\u8bdd\u5199\u5728\u4e0b\u5348\u3002",
    "\u6211\u5728\u7f51\u4e0a\u5199\u4e0b\u8fd9\u6bb5\u8bdd\u3002",
)


def add_address(text: str, random: Generator) -> str | None:
    """Add a web address at the end."""
    path = "".join(random.choice(list(string.ascii_lowercase + string.digits), size=8))
    return f"{text} https://example.com/{path}"


def add_sentence_before(text: str, random: Generator) -> str | None:
    """Put a neutral sentence before the text."""
    return _sentence(text, random) + ("" if is_chinese(text) else " ") + text


def add_sentence_after(text: str, random: Generator) -> str | None:
    """Put a neutral sentence after the text."""
    stop = full_stop(text) if text[-1:].isalnum() else ""
    return text + stop + ("" if is_chinese(text) or text[-1:].isspace() else " ") + _sentence(text, random)


def _sentence(text: str, random: Generator) -> str:
    return str(random.choice(_NEUTRAL_CHINESE if is_chinese(text) else _NEUTRAL))
