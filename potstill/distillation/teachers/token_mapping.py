"""A teacher's answers about the units of texts, carried to the tokens of a student that splits texts otherwise.

Both cut a text into the same units (`data.tags.units_of`), by its characters; in either's tokens a unit has one token
that speaks for it (`data.alignment`). So the answer to a unit goes from token to token, whatever the tokenizers are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from potstill.data.tokens.batches import Batch, Ints, TokenDataset
from potstill.data.tokens.offsets import CUT, IGNORED, OWN, SHARED
from potstill.distillation.teachers.mean_answers import mean_logits
from potstill.distillation.teachers.outputs import LOGITS, Needs, Outputs
from potstill.distillation.teachers.providers import Source
from potstill.errors import SignalError

# The logit of a class that cannot be: softened at any T it leaves nothing, and is finite.
NEVER = -1e4


@dataclass(frozen=True)
class UnitPlaces:
    """Where a teacher answers what the tokens of a student are asked.

    Attributes:
        starts: [student rows + 1] where in the arrays below each row's answers start.
        rows: [answers of all the student's rows] row of the teacher's dataset.
        tokens: [answers] the token of that row that speaks for the unit; any where the teacher has none.
        seen: [answers] how the teacher sees the unit: OWN, SHARED or CUT.
    """

    starts: Ints
    rows: Ints
    tokens: Ints
    seen: Ints

    def of(self, rows: Ints) -> tuple[Ints, Ints, Ints]:
        """Rows, tokens and sight of the answers of some of the student's rows, in that order."""
        places = np.concatenate([np.arange(self.starts[row], self.starts[row + 1]) for row in rows.tolist()])
        return self.rows[places], self.tokens[places], self.seen[places]


def unit_places(student: Sequence[Path], teacher: Sequence[Path]) -> UnitPlaces:
    """Join two sets of token files, written of the same texts, by the units of each text.

    Args:
        student: files of the student's tokens, split after split.
        teacher: files of the teacher's, of the same splits.

    Raises:
        SignalError: they are not of the same texts.
    """
    starts, found, before = [0], [np.empty((0, 3), dtype=np.int64)], 0
    for ours, theirs in zip(student, teacher, strict=True):
        rows = list(_rows(theirs))
        answers: dict[str, list[Ints]] = {}
        for number, (text, seen, tokens) in enumerate(rows):
            told = np.stack([np.full(len(seen), before + number), tokens, seen], axis=1)
            answers.setdefault(text, []).append(told)
        known = {text: np.concatenate(parts) for text, parts in answers.items()}
        passed: dict[str, int] = {}
        for text, seen, _ in _rows(ours):
            first = passed.get(text, 0)
            passed[text] = first + len(seen)
            if text not in known or passed[text] > len(known[text]):
                raise SignalError(f"{ours} and {theirs} are not of the same texts; run the tokenize stage again")
            found.append(known[text][first : passed[text]][seen == OWN])
            starts.append(starts[-1] + len(found[-1]))
        before += len(rows)
    whole = np.concatenate(found)
    return UnitPlaces(np.array(starts, dtype=np.int64), whole[:, 0], whole[:, 1], whole[:, 2])


def _rows(path: Path) -> list[tuple[str, Ints, Ints]]:
    """Of each row of a file: its text, how each unit is seen, and the token that speaks for it."""
    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    found = []
    columns = (table.column(name).to_pylist() for name in ("id", "units", "label"))
    for text, units, label in zip(*columns, strict=True):
        seen = np.array(units, dtype=np.int64)
        asked = np.flatnonzero(np.array(label, dtype=np.int64) != IGNORED)
        spoken = np.maximum(np.cumsum(seen == OWN) - 1, 0)
        tokens = asked[spoken] if len(asked) else np.zeros(len(seen), dtype=np.int64)
        found.append((text, seen, tokens))
    return found


@dataclass(frozen=True)
class AcrossTokens:
    """A source that answers a student's tokens with what the teacher says in its own, which do not meet them.

    Attributes:
        source: answers to the teacher's token ids.
        rows: the teacher's rows.
    """

    source: Source
    rows: TokenDataset

    @property
    def name(self) -> str:
        """The source's."""
        return self.source.name

    def supports(self, needs: Needs) -> bool:
        """Logits alone: the tokens of the two do not meet."""
        return not needs


@dataclass(frozen=True)
class AcrossUnits(AcrossTokens):
    """A source that answers a student's tokens with what the teacher says of the same units in its own tokens.

    As `data.alignment.unit_classes` reads a model: a unit that shares a token with an earlier one has its answer, B
    turned into I, and a unit without a token is O.

    Attributes:
        places: where the answers to the student's rows are among the teacher's.
    """

    places: UnitPlaces

    def __call__(self, batch: Batch, needs: Needs = LOGITS) -> Outputs:
        """[batch, sequence of the student, ..., classes] logits, 0 where no answer is asked."""
        assert batch.answers is not None
        rows, tokens, seen = self.places.of(batch.rows)
        owners, local = np.unique(rows, return_inverse=True)
        asked, shared, nothing = map(torch.from_numpy, (batch.answers, seen == SHARED, seen == CUT))

        def carry(told: Tensor) -> Tensor:
            answers = told[torch.from_numpy(local), torch.from_numpy(tokens)].float().clone()
            answers[shared] = _continued(answers[shared])
            answers[nothing] = NEVER
            answers[nothing, ..., 0] = 0.0
            logits = torch.zeros((*asked.shape, *answers.shape[1:]), device=answers.device)
            logits[asked] = answers
            return logits

        return carried(self.source(self.rows.batch(owners)), carry)


def carried(told: Outputs, carry: Callable[[Tensor], Tensor]) -> Outputs:
    """What is said of a teacher's tokens as said of a student's: of each of several teachers, too.

    Args:
        told: on the teacher's tokens.
        carry: takes logits [teacher's rows, tokens, ..., outputs] to [student's rows, tokens, ..., outputs].
    """
    if told.ensemble is None:
        return Outputs(carry(told.logits))
    members = carry(told.ensemble.logits)
    return Outputs(mean_logits(members, told.ensemble.weights), ensemble=replace(told.ensemble, logits=members))


def _continued(logits: Tensor) -> Tensor:
    """[..., classes] logits of tags that cannot begin an entity: what was B is I (`tags.tag_set`: odd is B)."""
    found = logits.clone()
    found[..., 2::2] = torch.logaddexp(logits[..., 1::2], logits[..., 2::2])
    found[..., 1::2] = NEVER
    return found
