"""Token classification between tokenizers: map a teacher's logits to the tokens of its student.

Units (words, see `labels.tags.units_of`) are defined by the characters of a text and are the same for both models. In
the tokens of each model, one token represents each unit (`labels.offsets`). The logits of a unit are therefore
moved from the teacher's token to the student's token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from potstill.data.tokens.batches import Batch, Ints, TokenDataset
from potstill.distillation.losses.means import mean_logits
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.providers import WrappedSource
from potstill.errors import SignalError
from potstill.labels.offsets import CUT, IGNORED, OWN, SHARED

# The logit of an impossible class: finite, but its softened probability is 0 at any temperature in use.
IMPOSSIBLE = -1e4


@dataclass(frozen=True)
class UnitMapping:
    """For each labelled token of a student the teacher's token that represents the same unit.

    Attributes:
        starts: [student's rows + 1] where the entries of each row start in the arrays below.
        rows: [entries] row of the teacher's dataset.
        tokens: [entries] token in that row that represents the unit; arbitrary if the teacher has none.
        kinds: [entries] how the teacher's tokens cover the unit: OWN, SHARED or CUT.
    """

    starts: Ints
    rows: Ints
    tokens: Ints
    kinds: Ints

    def of(self, rows: Ints) -> tuple[Ints, Ints, Ints]:
        """Select the teacher's rows, tokens and kinds of the entries of some of the student's rows, in that order."""
        entries = np.concatenate([np.arange(self.starts[row], self.starts[row + 1]) for row in rows.tolist()])
        return self.rows[entries], self.tokens[entries], self.kinds[entries]


def map_units(student: Sequence[Path], teacher: Sequence[Path]) -> UnitMapping:
    """Map a student's token files to a teacher's by the units of each text.

    Args:
        student: files of the student's tokens, one for each split.
        teacher: files of the teacher's tokens, of the same splits in the same order.

    Raises:
        SignalError: the files are not of the same texts.
    """
    starts = [0]
    entries = [np.empty((0, 3), dtype=np.int64)]
    first_row = 0
    for student_file, teacher_file in zip(student, teacher, strict=True):
        teacher_rows = list(_rows(teacher_file))
        teacher_units = _units_by_text(teacher_rows, first_row)
        passed: dict[str, int] = {}
        for text, kinds, _ in _rows(student_file):
            first = passed.get(text, 0)
            passed[text] = first + len(kinds)
            if text not in teacher_units or passed[text] > len(teacher_units[text]):
                raise SignalError(
                    f"{student_file} and {teacher_file} are not of the same texts; run the tokenize stage again"
                )
            entries.append(teacher_units[text][first : passed[text]][kinds == OWN])
            starts.append(starts[-1] + len(entries[-1]))
        first_row += len(teacher_rows)
    columns = np.concatenate(entries)
    return UnitMapping(np.array(starts, dtype=np.int64), columns[:, 0], columns[:, 1], columns[:, 2])


def _units_by_text(rows: Sequence[tuple[str, Ints, Ints]], first_row: int) -> dict[str, Ints]:
    """Text -> [units, 3] row number, token and kind of each of its units, over all rows of the text."""
    parts: dict[str, list[Ints]] = {}
    for number, (text, kinds, tokens) in enumerate(rows):
        units = np.stack([np.full(len(kinds), first_row + number), tokens, kinds], axis=1)
        parts.setdefault(text, []).append(units)
    return {text: np.concatenate(units) for text, units in parts.items()}


def _rows(path: Path) -> Iterator[tuple[str, Ints, Ints]]:
    """Yield the text of each row of a file, the kind of each unit, and the token that represents it."""
    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    columns = (table.column(name).to_pylist() for name in ("id", "units", "label"))
    for text, units, label in zip(*columns, strict=True):
        kinds = np.array(units, dtype=np.int64)
        labelled = np.flatnonzero(np.array(label, dtype=np.int64) != IGNORED)
        # A unit without its own token is represented by the token of the last unit that has one.
        latest = np.maximum(np.cumsum(kinds == OWN) - 1, 0)
        tokens = labelled[latest] if len(labelled) else np.zeros(len(kinds), dtype=np.int64)
        yield text, kinds, tokens


@dataclass(frozen=True)
class MappedSource(WrappedSource):
    """A source on a teacher's tokens that answers on a student's tokens.

    Attributes:
        rows: the teacher's rows.
    """

    rows: TokenDataset

    def supports(self, needs: Needs) -> bool:
        """Whether only logits are needed; states of different tokens cannot be compared."""
        return not needs


@dataclass(frozen=True)
class UnitMappedSource(MappedSource):
    """Maps a teacher's logits of units to the student's tokens.

    Logits are read as in `labels.offsets.unit_classes`: a unit that shares a token with an earlier one takes that
    token's logits with B turned into I, and a unit without a token is O.

    Attributes:
        mapping: maps the student's labelled tokens to the teacher's.
    """

    mapping: UnitMapping

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """Return logits [batch, student's sequence, ..., classes], 0 at tokens without a label."""
        assert batch.answers is not None
        rows, tokens, kinds = self.mapping.of(batch.rows)
        teacher_rows, local_rows = np.unique(rows, return_inverse=True)
        labelled, shared, cut = map(torch.from_numpy, (batch.answers, kinds == SHARED, kinds == CUT))

        def map_logits(teacher_logits: Tensor) -> Tensor:
            answers = teacher_logits[torch.from_numpy(local_rows), torch.from_numpy(tokens)].float().clone()
            answers[shared] = _continued(answers[shared])
            answers[cut] = IMPOSSIBLE
            answers[cut, ..., 0] = 0.0
            logits = torch.zeros((*labelled.shape, *answers.shape[1:]), device=answers.device)
            logits[labelled] = answers
            return logits

        return map_outputs(self.source(self.rows.batch(teacher_rows)), map_logits)


def map_outputs(outputs: Outputs, map_logits: Callable[[Tensor], Tensor]) -> Outputs:
    """Map the logits of a teacher to a student's tokens; for an ensemble, the logits of each member.

    Args:
        outputs: outputs on the teacher's tokens.
        map_logits: maps logits [teacher's rows, tokens, ..., outputs] to [student's rows, tokens, ..., outputs].
    """
    if outputs.ensemble is None:
        return Outputs(map_logits(outputs.logits))
    members = map_logits(outputs.ensemble.logits)
    mean = mean_logits(members, outputs.ensemble.weights)
    return Outputs(mean, ensemble=replace(outputs.ensemble, logits=members))


def _continued(logits: Tensor) -> Tensor:
    """Turn B into I in logits [..., classes], for units that cannot begin an entity (odd classes are B)."""
    continued = logits.clone()
    continued[..., 2::2] = torch.logaddexp(logits[..., 1::2], logits[..., 2::2])
    continued[..., 1::2] = IMPOSSIBLE
    return continued
