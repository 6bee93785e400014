"""Summarizes the documents of a folder by the sentences that stand for the others, by the champion's vectors.

Run in a workspace with a champion: `python examples/summaries/summarize.py FOLDER --out SUMMARIES`. See README.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from potstill import environment
from potstill.artifacts import write_json, write_text
from potstill.errors import EmptyDataError, EncodingError, FetchError, FormatError, PotstillError
from potstill.inference.runtime import Student
from potstill.progress import progress, say

Vectors = npt.NDArray[np.float64]

SUFFIXES = (".txt", ".md")
# The similarities of all pairs of a document's sentences are held at once.
MAX_SENTENCES = 2000
# The share of the walk over similar sentences that begins anew at any sentence (Erkan and Radev 2004).
RESTART = 0.15

# A blank line, a heading, or the mark of an item of a list.
_PARAGRAPH_END = re.compile(r"\n\s*\n|^#.*$|^\s*[-*] ", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?:[。！？…]+|[.!?]+)[\"'”’」』）)\]】》]*")  # with the quotes and brackets that close
_OPENING = " \"'“‘「『（([【《"
# English abbreviations and initials, after which a sentence goes on.
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|vs|No|Fig|Inc|Ltd|Co|e\.g|i\.e|cf|al|approx)$")


@dataclass(frozen=True)
class Sentence:
    """A sentence of a summary.

    Attributes:
        number: of the sentence in its document, from 1.
        text: the sentence.
        centrality: how much it stands for the others; that of the most central sentence is 1.
        redundancy: its similarity to the nearest sentence that was chosen before it; 0 for the first.
    """

    number: int
    text: str
    centrality: float
    redundancy: float


def split_sentences(text: str) -> list[str]:
    """Split a text in Chinese or English, or both, into its sentences; headings of Markdown are left out."""
    paragraphs = (" ".join(part.split()) for part in _PARAGRAPH_END.split(text))
    return [sentence for paragraph in paragraphs for sentence in _sentences(paragraph)]


def _sentences(paragraph: str) -> Iterator[str]:
    start = 0
    for end in _SENTENCE_END.finditer(paragraph):
        if _ends_sentence(paragraph, end):
            yield paragraph[start : end.end()].strip()
            start = end.end()
    if rest := paragraph[start:].strip():
        yield rest


def _ends_sentence(paragraph: str, end: re.Match[str]) -> bool:
    """Whether a mark ends a sentence. Chinese marks do; English ones before a blank, unless the next word is small."""
    if end[0][0] in "。！？":
        return True
    after = paragraph[end.end() :]
    if after and end[0][0] != "…" and not after[0].isspace() and after[0].isascii():
        return False
    is_abbreviation = end[0][0] == "." and _ABBREVIATION.search(paragraph[: end.start()])
    return not is_abbreviation and not after.lstrip(_OPENING)[:1].islower()


def similarities(vectors: Vectors) -> Vectors:
    """Compute the similarities [sentences, sentences] of vectors [sentences, hidden], from 0 to 1.

    All vectors of an encoder point about the same way (Ethayarajh 2019), so the cosine of the least similar pair counts
    as 0.
    """
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    cosines = directions @ directions.T
    lowest = cosines.min()
    return np.asarray((cosines - lowest) / (1 - lowest)) if lowest < 1 - 1e-9 else np.ones_like(cosines)


def centralities(similar: Vectors) -> Vectors:
    """Compute how central each sentence is [sentences]: continuous LexRank (Erkan and Radev 2004), the largest is 1."""
    count = len(similar)
    steps = similar / similar.sum(axis=1, keepdims=True)
    rank = np.linalg.solve(np.eye(count) - (1 - RESTART) * steps.T, np.full(count, RESTART / count))
    return np.asarray(rank / rank.max())


def choose(similar: Vectors, central: Vectors, count: int, novelty: float) -> dict[int, float]:
    """Choose sentences by maximal marginal relevance (Carbonell and Goldstein 1998).

    Args:
        similar: [sentences, sentences] similarities.
        central: [sentences] centralities.
        count: most sentences.
        novelty: weight of how little a sentence repeats those before it, against its centrality; 0 to 1.

    Returns:
        Index of each chosen sentence -> its similarity to the nearest that was chosen before it.
    """
    chosen: dict[int, float] = {}
    nearest = np.zeros(len(central))
    while len(chosen) < min(count, len(central)):
        gain = (1 - novelty) * central - novelty * nearest
        gain[list(chosen)] = -np.inf
        best = int(gain.argmax())
        chosen[best] = float(nearest[best])
        nearest = np.maximum(nearest, similar[best])
    return chosen


def summarize(sentences: list[str], student: Student, count: int, novelty: float) -> list[Sentence]:
    """Choose the sentences of a document's summary, in the order of the document; see `choose` for the arguments."""
    similar = similarities(student.embed(sentences).astype(np.float64))
    central = centralities(similar)
    chosen = choose(similar, central, count, novelty)
    return [Sentence(i + 1, sentences[i], float(central[i]), chosen[i]) for i in sorted(chosen)]


def summarize_folder(folder: Path, output: Path, student: Student, version: str, count: int, novelty: float) -> int:
    """Write `NAME.md` and `NAME.json` for each document of a folder, and return how many documents there were.

    Raises:
        FetchError: the folder is not there, or has no documents.
        EncodingError, EmptyDataError, FormatError: a document is not UTF-8, has no sentence, or too many.
        ModelError: the model has no embeddings of single texts.
    """
    documents = [path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES and path.is_file()]
    if not documents:
        raise FetchError(f"{folder}: no document there; name a folder of {' or '.join(SUFFIXES)} files")
    with progress("summarize", len(documents), "documents") as bar:
        for document in documents:
            sentences = _read_sentences(document)
            summary = summarize(sentences, student, count, novelty)
            name = document.relative_to(folder).as_posix()
            lines = "\n".join(f"- {sentence.text}" for sentence in summary)
            write_text(output / f"{name}.summary.md", f"# {name}\n\n{lines}\n")
            facts = {"document": name, "sentences": len(sentences), "model_version": version}
            write_json(output / f"{name}.summary.json", facts | {"summary": [asdict(item) for item in summary]})
            bar.advance(1)
    return len(documents)


def _read_sentences(document: Path) -> list[str]:
    try:
        sentences = split_sentences(document.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise EncodingError(f"{document} is not UTF-8; convert it (iconv -t UTF-8)") from error
    if not sentences:
        raise EmptyDataError(f"{document} has no sentence; leave it out")
    if len(sentences) > MAX_SENTENCES:
        raise FormatError(
            f"{document} has {len(sentences):,} sentences, more than {MAX_SENTENCES:,}; cut it into its chapters"
        )
    return sentences


def main() -> None:
    """Summarize the documents of a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help=f"documents: {' and '.join(SUFFIXES)} files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the summaries")
    parser.add_argument("--sentences", type=int, default=3, help="of a summary")
    parser.add_argument("--novelty", type=float, default=0.3, help="0: only what is central; 1: only what is new")
    parser.add_argument("--version", default="champion", help="number or alias of a registered version")
    arguments = parser.parse_args()
    environment.prepare()
    from flows.commands.predict_files import chosen_model
    from potstill.config.params_file import load_params
    from potstill.paths import PARAMS

    try:
        model = chosen_model(Path.cwd(), load_params(PARAMS), arguments.version)
        student = Student(model.serving)
        count = summarize_folder(
            arguments.folder, arguments.out, student, model.name, arguments.sentences, arguments.novelty
        )
    except PotstillError as error:
        print(f"summarize: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    say(f"{count} summaries are in {arguments.out}")


if __name__ == "__main__":
    main()
