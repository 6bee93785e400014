"""The columns that answers add to the rows of a file, with the names and the values that the service gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from potstill.inference.certainty import answer_confidence
from potstill.inference.profile import Answer
from potstill.inference.runtime import ModelCard

_SPAN = (("start", pa.int64()), ("end", pa.int64()))
_ENTITY = pa.struct([("type", pa.string()), *_SPAN, ("text", pa.string()), ("score", pa.float64())])
_REPLY = pa.struct([("answer", pa.string()), *_SPAN, ("score", pa.float64())])


@dataclass(frozen=True)
class AnswerColumns:
    """The columns of a model's answers.

    Attributes:
        card: the model card.
        version: name of the model, as the header X-Model-Version of the service gives it.
        abstain_below: the confidence below which the model abstains; None: it never does.
        prefix: of the columns' names.
    """

    card: ModelCard
    version: str
    abstain_below: float | None
    prefix: str

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        abstained = {} if self.abstain_below is None else {"abstained": pa.bool_()}
        types = {**self._answer_types(), **abstained, **self._reading_types(), "version": pa.string()}
        return pa.schema([(self.prefix + name, kind) for name, kind in types.items()])

    def table(self, answers: Sequence[Answer]) -> pa.Table:
        """Build the columns of answers: [answers] rows."""
        columns = self._answer_values(answers)
        if self.abstain_below is not None:
            columns.append([self.abstains(answer) for answer in answers])
        columns += [[getattr(answer, name) for answer in answers] for name in self._reading_types()]
        columns.append([self.version] * len(answers))
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self.schema, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def abstains(self, answer: Answer) -> bool:
        """Whether the model abstains from an answer."""
        return self.abstain_below is not None and answer_confidence(answer) < self.abstain_below

    def _answer_types(self) -> dict[str, pa.DataType]:
        form = self.card.form
        if form == "entities":
            return {"entities": pa.list_(_ENTITY)}
        if form == "span":
            return {"answers": pa.list_(_REPLY)}
        if form == "number":
            return {"score": pa.float64()}
        label = pa.int64() if self._has_numbers else pa.string()
        probabilities = pa.struct([(str(name), pa.float64()) for name in self.card.labels])
        if form == "labels":
            return {"labels": pa.list_(label), "probabilities": probabilities}
        return {"label": label, "probabilities": probabilities}

    def _answer_values(self, answers: Sequence[Any]) -> list[list[Any]]:
        """List the values of each column of `_answer_types`."""
        form = self.card.form
        if form == "entities":
            return [[list(map(asdict, answer.entities)) for answer in answers]]
        if form == "span":
            return [[[{name: getattr(answer, name) for name in _REPLY.names}] for answer in answers]]
        labels = [answer.label for answer in answers]
        if form == "number":
            return [labels]
        if not self._has_numbers:
            labels = [list(map(str, label)) if isinstance(label, list) else str(label) for label in labels]
        names = list(map(str, self.card.labels))
        return [labels, [dict(zip(names, answer.probabilities, strict=True)) for answer in answers]]

    @property
    def _has_numbers(self) -> bool:
        """Whether all labels are integers, which a column of labels then has too."""
        return all(isinstance(name, int) for name in self.card.labels)

    def _reading_types(self) -> dict[str, pa.DataType]:
        """The column that says how the model read the text: whether it was cut, or in how many windows."""
        return {"windows": pa.int64()} if self.card.form in ("entities", "span") else {"truncated": pa.bool_()}
