"""A teacher's answers to questions, carried to the windows and tokens of a student that splits contexts otherwise.

Both read the same characters of a context, so what the teacher says of a token goes to the student's token that has the
character where an answer would begin, or end. It is how a gold answer becomes tokens (`data.windows.answer_tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from potstill.data.tokens.batches import ArrayChunks, Batch, Ints, mapped_lists
from potstill.data.tokens.windows import NONE, NOWHERE
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.token_mapping import NEVER, AcrossTokens, carried
from potstill.errors import SignalError

# Behind every character of a context.
_BEHIND = np.iinfo(np.int32).max
# What a share that is too small to be told from 0 counts, so that it has a logarithm.
_LEAST = 1e-300


@dataclass(frozen=True)
class Characters:
    """The characters of a context that the tokens of windows stand for, mapped.

    Attributes:
        firsts: [windows + 1] where in the arrays below the tokens of each window start.
        starts: [tokens of all windows] first character, `NOWHERE` where a token is not of the context.
        ends: [tokens of all windows] the character after the last.
    """

    firsts: Ints
    starts: ArrayChunks
    ends: ArrayChunks

    def of(self, windows: Ints) -> tuple[Ints, Ints]:
        """[windows, tokens of the longest] starts and ends, `NOWHERE` on padding too."""
        lengths = self.firsts[windows + 1] - self.firsts[windows]
        columns = np.arange(int(lengths.max(initial=1)))
        real = columns[None, :] < lengths[:, None]
        places = (self.firsts[windows][:, None] + columns[None, :])[real]
        found = np.full((2, *real.shape), NOWHERE, dtype=np.int64)
        found[0][real], found[1][real] = self.starts[places], self.ends[places]
        return found[0], found[1]

    def extent(self, window: int) -> tuple[int, int]:
        """First character of a window, and the one after its last; (0, 0) where it has none."""
        starts, ends = (side[0][side[0] != NOWHERE] for side in self.of(np.array([window])))
        return (int(starts.min()), int(ends.max())) if len(starts) else (0, 0)


@dataclass(frozen=True)
class AnswerPlaces:
    """Which windows of a teacher see something of each of a student's, and the characters of both.

    Attributes:
        ours: of the student's windows.
        theirs: of the teacher's.
        firsts: [student's windows + 1] where in `windows` those of each start.
        windows: rows of the teacher's dataset.
    """

    ours: Characters
    theirs: Characters
    firsts: Ints
    windows: Ints

    def of(self, rows: Ints) -> tuple[Ints, Ints]:
        """[pairs] which of these rows of the student's, and the teacher's row that sees something of it."""
        counts = self.firsts[rows + 1] - self.firsts[rows]
        parts = [self.windows[self.firsts[row] : self.firsts[row + 1]] for row in rows.tolist()]
        return np.repeat(np.arange(len(rows)), counts), np.concatenate([*parts, np.empty(0, dtype=np.int64)])


def answer_places(student: Sequence[Path], teacher: Sequence[Path]) -> AnswerPlaces:
    """Join two sets of token files, written of the same questions and contexts, by the characters of each context.

    Args:
        student: files of the student's windows, split after split.
        teacher: files of the teacher's, of the same splits.

    Raises:
        SignalError: they are not of the same questions.
    """
    (ours, mine), (theirs, known) = (_opened(files) for files in (student, teacher))
    seen: dict[tuple[int, str], list[tuple[int, int, int]]] = {}
    for window, question in enumerate(known):
        seen.setdefault(question, []).append((window, *theirs.extent(window)))
    if seen.keys() != set(mine):
        raise SignalError(f"{student[0].parent} and {teacher[0].parent} are not of the same questions; run the "
                          "tokenize stage again")  # fmt: skip
    firsts, windows = [0], []
    for window, question in enumerate(mine):
        start, end = ours.extent(window)
        sees = [other for other, begin, finish in seen[question] if begin < end and finish > start]
        # Where none does, to any of them an answer here would be beyond what it reads: none.
        windows += sees or [seen[question][0][0]]
        firsts.append(len(windows))
    return AnswerPlaces(ours, theirs, np.array(firsts, dtype=np.int64), np.array(windows, dtype=np.int64))


def _opened(files: Sequence[Path]) -> tuple[Characters, list[tuple[int, str]]]:
    """The windows' characters, and of each its split and question."""
    tables = [pa.ipc.open_stream(pa.memory_map(str(path))).read_all() for path in files]
    starts, ends = ([mapped_lists(table, side, np.int32) for table in tables] for side in ("starts", "ends"))
    lengths = np.concatenate([own for _, own in starts])
    firsts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flats = [ArrayChunks([part for flat, _ in side for part in flat.parts]) for side in (starts, ends)]
    questions = [(split, one) for split, table in enumerate(tables) for one in table.column("id").to_pylist()]
    return Characters(firsts, *flats), questions


@dataclass(frozen=True)
class AcrossWindows(AcrossTokens):
    """A source that answers a student's windows with what the teacher says of the same characters in its own.

    Of one window of the teacher's, for either side (start, end), with p [tokens of the teacher's window] its
    probabilities over the first token (no answer) and those of the context, and P [tokens of the student's window]:

    - The student's token that has the character where a teacher's token begins (for ends: with which it ends) gets that
      token's p: P(j) = sum of p(i) over the i that j has. What is not within the student's window is an answer beyond
      it, and none in it: P(none) = p(none) + p(beyond). So no probability is lost, and none is made.
    - An answer of which one side alone is within is none, as among gold labels: where the other side's share beyond is
      the larger, P is scaled by r = (1 - beyond of the other) / (1 - beyond), and P(none) takes the rest.

    The logits, [tokens of the student's window, 2], are log P(j) - log P(none), and 0 for none, which is the first
    token; a loss softens them as a teacher's own. Where several windows of the teacher's see a character, the one that
    is surest of an answer there counts, as evaluation takes the best span over all windows.

    Attributes:
        places: which of the teacher's windows see what of the student's.
    """

    places: AnswerPlaces

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """[batch, sequence of the student, ..., 2] logits; NEVER on a token where no answer can begin, or end."""
        owners, windows = self.places.of(batch.rows)
        asked, local = np.unique(windows, return_inverse=True)
        pairs = _Pairs.of(self.places, batch.rows[owners], windows, batch.input_ids.shape[1])
        shape, rows = batch.input_ids.shape, torch.from_numpy(owners)

        def carry(logits: Tensor) -> Tensor:
            odds = pairs.odds(logits[torch.from_numpy(local)])
            found = odds.new_full((*shape, *odds.shape[2:]), NEVER)
            index = rows.reshape(-1, *[1] * (odds.dim() - 1)).expand_as(odds)
            found = found.scatter_reduce(0, index, odds, "amax")
            found[:, NONE] = 0.0
            return found

        return carried(self.source(self.rows.batch(asked)), carry)


@dataclass(frozen=True)
class _Pairs:
    """Windows of a student, each beside one of the teacher's, [pairs, tokens of the teacher's longest].

    Attributes:
        known: whether a token of the teacher's is a choice: its first one, or of the context.
        tokens: [2, ...] of the starts and of the ends, the student's token that has it; 0 where there is none.
        within: [2, ...] whether there is one.
        length: tokens of the student's longest window.
    """

    known: Tensor
    tokens: Tensor
    within: Tensor
    length: int

    @classmethod
    def of(cls, places: AnswerPlaces, ours: Ints, theirs: Ints, length: int) -> _Pairs:
        """The pairs of these rows of both datasets."""
        starts, ends = map(torch.from_numpy, places.ours.of(ours))
        begins, finishes = map(torch.from_numpy, places.theirs.of(theirs))
        real = starts != NOWHERE
        # The context's tokens are neighbours: before them lies -1, behind them what is beyond all characters.
        behind = ~real & (real.cumsum(dim=1) > 0)
        starts, ends = starts.masked_fill(behind, _BEHIND), ends.masked_fill(behind, _BEHIND)
        first = starts.masked_fill(~real, _BEHIND).amin(dim=1, keepdim=True)
        last = ends.masked_fill(~real, NOWHERE).amax(dim=1, keepdim=True)
        answers = begins != NOWHERE
        # The first token that ends behind the character, and the last that starts before the end.
        found = torch.searchsorted(ends, begins, right=True), torch.searchsorted(starts, finishes) - 1
        inside = answers & (begins >= first) & (begins < last), answers & (finishes > first) & (finishes <= last)
        within = torch.stack(inside)
        known = answers.clone()
        known[:, NONE] = True
        return cls(known, torch.stack(found).masked_fill(~within, 0), within, length)

    def odds(self, logits: Tensor) -> Tensor:
        """[pairs, length, ..., 2] log P(j) - log P(none), NEVER where P is 0, of logits [pairs, tokens, ..., 2]."""
        shares = logits.double().masked_fill(~_like(self.known, logits), -torch.inf).softmax(dim=1)
        sides = [self._carried(shares[..., side], self.tokens[side], self.within[side]) for side in (0, 1)]
        within, outside = (torch.stack(parts, dim=-1) for parts in zip(*sides, strict=True))
        inside = within.sum(dim=1, keepdim=True)
        seen = (inside + shares[:, NONE : NONE + 1]).clamp(min=_LEAST)
        kept = (seen.flip(-1) / seen).clamp(max=1.0)
        none = (outside + (1 - kept) * inside).clamp(min=_LEAST)
        odds = (within * kept).log() - none.log()
        return odds.clamp(min=NEVER).float()

    def _carried(self, shares: Tensor, tokens: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
        """Of one side's shares [pairs, tokens, ...]: [pairs, length, ...] where tokens meet, and the sum elsewhere."""
        found = shares.new_zeros((len(shares), self.length, *shares.shape[2:]))
        index, meet = _like(tokens, shares).expand_as(shares), _like(within, shares)
        outside = shares.masked_fill(meet, 0.0).sum(dim=1, keepdim=True)
        return found.scatter_add(1, index, shares.masked_fill(~meet, 0.0)), outside


def _like(values: Tensor, other: Tensor) -> Tensor:
    """[pairs, tokens] with as many dimensions as another, to be expanded along the further ones."""
    return values.reshape(*values.shape, *[1] * (other.dim() - values.dim()))
