"""Question answering between tokenizers: map a teacher's logits to the windows and tokens of its student.

Both models read the same characters of a context. The probability of a teacher's token moves to the student's token
with the character at which an answer would begin, or end, just as gold answers are mapped to tokens
(`labels.windows.answer_tokens`).
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
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.token_mapping import IMPOSSIBLE, MappedSource, map_outputs
from potstill.errors import SignalError
from potstill.labels.windows import NONE, NOWHERE

# Larger than the index of any character of a context.
_LAST = np.iinfo(np.int32).max
# Lower bound of a probability before its logarithm is taken.
_FLOOR = 1e-300


@dataclass(frozen=True)
class CharacterSpans:
    """The characters of a context that each token of each window covers, memory-mapped.

    Attributes:
        firsts: [windows + 1] where the tokens of each window start in the arrays below.
        starts: [tokens of all windows] first character; `NOWHERE` for a token that is not of the context.
        ends: [tokens of all windows] the character after the last one.
    """

    firsts: Ints
    starts: ArrayChunks
    ends: ArrayChunks

    def of(self, windows: Ints) -> tuple[Ints, Ints]:
        """Return starts and ends, each [windows, tokens of the longest window], with `NOWHERE` on padding."""
        lengths = self.firsts[windows + 1] - self.firsts[windows]
        columns = np.arange(int(lengths.max(initial=1)))
        real = columns[None, :] < lengths[:, None]
        positions = (self.firsts[windows][:, None] + columns[None, :])[real]
        starts = np.full(real.shape, NOWHERE, dtype=np.int64)
        ends = np.full(real.shape, NOWHERE, dtype=np.int64)
        starts[real] = self.starts[positions]
        ends[real] = self.ends[positions]
        return starts, ends

    def extent(self, window: int) -> tuple[int, int]:
        """Return the first character of a window and the one after its last; (0, 0) for a window without context."""
        starts, ends = (side[0][side[0] != NOWHERE] for side in self.of(np.array([window])))
        return (int(starts.min()), int(ends.max())) if len(starts) else (0, 0)


@dataclass(frozen=True)
class AnswerMapping:
    """For each window of a student the windows of a teacher that overlap with it.

    Attributes:
        student: characters of the student's windows.
        teacher: characters of the teacher's windows.
        firsts: [student's windows + 1] where the entries of each window start in `windows`.
        windows: [entries] rows of the teacher's dataset.
    """

    student: CharacterSpans
    teacher: CharacterSpans
    firsts: Ints
    windows: Ints

    def of(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return pairs of overlapping windows: [pairs] index in `rows`, and [pairs] row of the teacher's dataset."""
        counts = self.firsts[rows + 1] - self.firsts[rows]
        parts = [self.windows[self.firsts[row] : self.firsts[row + 1]] for row in rows.tolist()]
        return np.repeat(np.arange(len(rows)), counts), np.concatenate([*parts, np.empty(0, dtype=np.int64)])


def map_answers(student: Sequence[Path], teacher: Sequence[Path]) -> AnswerMapping:
    """Map a student's token files to a teacher's by the characters of each context.

    Args:
        student: files of the student's windows, one for each split.
        teacher: files of the teacher's windows, of the same splits in the same order.

    Raises:
        SignalError: the files are not of the same questions.
    """
    student_spans, student_questions = _open(student)
    teacher_spans, teacher_questions = _open(teacher)
    extents: dict[tuple[int, str], list[tuple[int, int, int]]] = {}
    for window, question in enumerate(teacher_questions):
        extents.setdefault(question, []).append((window, *teacher_spans.extent(window)))
    if extents.keys() != set(student_questions):
        raise SignalError(f"{student[0].parent} and {teacher[0].parent} are not of the same questions; run the "
                          "tokenize stage again")  # fmt: skip
    firsts = [0]
    windows: list[int] = []
    for window, question in enumerate(student_questions):
        start, end = student_spans.extent(window)
        overlapping = [other for other, begin, finish in extents[question] if begin < end and finish > start]
        # Without an overlap any window of the teacher will do: every answer in this window is beyond what it reads.
        windows += overlapping or [extents[question][0][0]]
        firsts.append(len(windows))
    return AnswerMapping(
        student_spans, teacher_spans, np.array(firsts, dtype=np.int64), np.array(windows, dtype=np.int64)
    )


def _open(files: Sequence[Path]) -> tuple[CharacterSpans, list[tuple[int, str]]]:
    """Open the files of windows: their characters, and the split and question of each window."""
    tables = [pa.ipc.open_stream(pa.memory_map(str(path))).read_all() for path in files]
    starts, ends = ([mapped_lists(table, side, np.int32) for table in tables] for side in ("starts", "ends"))
    lengths = np.concatenate([lengths for _, lengths in starts])
    firsts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    flats = [ArrayChunks([part for flat, _ in side for part in flat.parts]) for side in (starts, ends)]
    questions = [(split, name) for split, table in enumerate(tables) for name in table.column("id").to_pylist()]
    return CharacterSpans(firsts, *flats), questions


@dataclass(frozen=True)
class WindowMappedSource(MappedSource):
    """Maps a teacher's logits of windows to the windows of its student.

    Let p be the teacher's probabilities of one of its windows, for the start or the end of an answer, over its first
    token (no answer) and the tokens of the context. Let P be the probabilities over the tokens of a student's window.

    - A teacher's token begins at a character (for ends: ends with one), and its p moves to the student's token with
      that character: P(j) is the sum of p(i) over the tokens i that map to j. If the character is outside of the
      student's window, the answer is beyond it, so that P(none) = p(none) + p(beyond). All p are accounted for.
    - An answer with only one side inside the window counts as none, as for gold labels. If the other side has the
      larger probability beyond, P is scaled by r = (1 - beyond of the other side) / (1 - beyond), and P(none) takes the
      rest.

    The logits [tokens of the student's window, 2] are log P(j) - log P(none), and 0 for none, which is the first token.
    A loss softens them like a teacher's own. If several of the teacher's windows have a character, the one that is most
    certain of an answer there counts, because evaluation takes the best span over all windows.

    Attributes:
        mapping: maps the student's windows to the teacher's.
    """

    mapping: AnswerMapping

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Return logits [batch, student's sequence, ..., 2], IMPOSSIBLE where no answer can begin, or end."""
        owners, windows = self.mapping.of(batch.rows)
        teacher_rows, local_rows = np.unique(windows, return_inverse=True)
        pairs = _WindowPairs.of(self.mapping, batch.rows[owners], windows, batch.input_ids.shape[1])
        student_rows = torch.from_numpy(owners)

        def map_logits(teacher_logits: Tensor) -> Tensor:
            log_odds = pairs.log_odds(teacher_logits[torch.from_numpy(local_rows)])
            logits = log_odds.new_full((*batch.input_ids.shape, *log_odds.shape[2:]), IMPOSSIBLE)
            index = student_rows.reshape(-1, *[1] * (log_odds.dim() - 1)).expand_as(log_odds)
            logits = logits.scatter_reduce(0, index, log_odds, "amax")
            logits[:, NONE] = 0.0
            return logits

        return map_outputs(self.source(self.rows.batch(teacher_rows)), map_logits)


@dataclass(frozen=True)
class _WindowPairs:
    """Pairs of a student's and a teacher's window; arrays are [pairs, tokens of the teacher's longest window].

    Attributes:
        choices: whether a teacher's token can be an answer: its first token (no answer) and those of the context.
        tokens: [2, ...] for starts and ends, the student's token that a teacher's token maps to; 0 if there is none.
        within: [2, ...] whether there is one.
        length: tokens of the student's longest window.
    """

    choices: Tensor
    tokens: Tensor
    within: Tensor
    length: int

    @classmethod
    def of(cls, mapping: AnswerMapping, student_rows: Ints, teacher_rows: Ints, length: int) -> _WindowPairs:
        """Map the tokens of each pair of windows.

        Args:
            mapping: the characters of all windows.
            student_rows: [pairs] rows of the student's dataset.
            teacher_rows: [pairs] rows of the teacher's dataset.
            length: tokens of the student's longest window.
        """
        starts, ends = map(torch.from_numpy, mapping.student.of(student_rows))
        teacher_starts, teacher_ends = map(torch.from_numpy, mapping.teacher.of(teacher_rows))
        real = starts != NOWHERE
        # Searches below need sorted arrays. The context's tokens are contiguous: tokens before them have NOWHERE = -1,
        # and tokens after them get a number beyond all characters.
        after_context = ~real & (real.cumsum(dim=1) > 0)
        starts = starts.masked_fill(after_context, _LAST)
        ends = ends.masked_fill(after_context, _LAST)
        first = starts.masked_fill(~real, _LAST).amin(dim=1, keepdim=True)
        last = ends.masked_fill(~real, NOWHERE).amax(dim=1, keepdim=True)
        in_context = teacher_starts != NOWHERE
        # The first token that ends after the start's character, and the last token that starts before the end.
        start_tokens = torch.searchsorted(ends, teacher_starts, right=True)
        end_tokens = torch.searchsorted(starts, teacher_ends) - 1
        start_within = in_context & (teacher_starts >= first) & (teacher_starts < last)
        end_within = in_context & (teacher_ends > first) & (teacher_ends <= last)
        within = torch.stack([start_within, end_within])
        choices = in_context.clone()
        choices[:, NONE] = True
        return cls(choices, torch.stack([start_tokens, end_tokens]).masked_fill(~within, 0), within, length)

    def log_odds(self, logits: Tensor) -> Tensor:
        """Compute log P(j) - log P(none), IMPOSSIBLE where P is 0.

        Args:
            logits: [pairs, tokens, ..., 2] of the teacher.

        Returns:
            [pairs, length, ..., 2] in fp32.
        """
        masked = logits.double().masked_fill(~_expandable(self.choices, logits), -torch.inf)
        probabilities = masked.softmax(dim=1)
        sides = [self._mapped(probabilities[..., side], self.tokens[side], self.within[side]) for side in (0, 1)]
        within, beyond = (torch.stack(parts, dim=-1) for parts in zip(*sides, strict=True))
        inside = within.sum(dim=1, keepdim=True)
        not_beyond = (inside + probabilities[:, NONE : NONE + 1]).clamp(min=_FLOOR)
        scale = (not_beyond.flip(-1) / not_beyond).clamp(max=1.0)
        none = (beyond + (1 - scale) * inside).clamp(min=_FLOOR)
        log_odds = (within * scale).log() - none.log()
        return log_odds.clamp(min=IMPOSSIBLE).float()

    def _mapped(self, probabilities: Tensor, tokens: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
        """Map one side's probabilities [pairs, tokens, ...] to the student's tokens.

        Returns:
            [pairs, length, ...] probabilities of the student's tokens, and [pairs, 1, ...] the sum of all others.
        """
        mapped = probabilities.new_zeros((len(probabilities), self.length, *probabilities.shape[2:]))
        index = _expandable(tokens, probabilities).expand_as(probabilities)
        has_token = _expandable(within, probabilities)
        others = probabilities.masked_fill(has_token, 0.0).sum(dim=1, keepdim=True)
        return mapped.scatter_add(1, index, probabilities.masked_fill(~has_token, 0.0)), others


def _expandable(values: Tensor, other: Tensor) -> Tensor:
    """Reshape [pairs, tokens] to as many dimensions as another tensor, to expand along the further ones."""
    return values.reshape(*values.shape, *[1] * (other.dim() - values.dim()))
