"""The columns that answers add to the rows of a file, with the names and the values that the service gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        abstained = {} if self.abstain_below is None else {"abstained": pa.bool_()}
        fields = {**self._answer_types(), **abstained, **self._reading_types(), "version": pa.string()}
        return pa.schema([(self.prefix + name, kind) for name, kind in fields.items()])

    def table(self, answers: Sequence[Answer]) -> pa.Table:
        """Build the columns of answers: [answers] rows."""
        values = {name: [row[name] for row in map(self._row, answers)] for name in self._answer_types()}
        columns = list(values.values())
        if self.abstain_below is not None:
            columns.append([answer_confidence(answer) < self.abstain_below for answer in answers])
        columns += [[getattr(answer, name) for answer in answers] for name in self._reading_types()]
        columns.append([self.version] * len(answers))
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        return pa.Table.from_arrays(arrays, schema=self.schema)

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

    @property
    def _has_numbers(self) -> bool:
        """Whether all labels are integers, which a column of labels then has too."""
        return all(isinstance(name, int) for name in self.card.labels)

    def _label(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._label(item) for item in value]
        return value if self._has_numbers else str(value)

    def _reading_types(self) -> dict[str, pa.DataType]:
        """The column that says how the model read the text: whether it was cut, or in how many windows."""
        return {"windows": pa.int64()} if self.card.form in ("entities", "span") else {"truncated": pa.bool_()}

    def _row(self, answer: Any) -> dict[str, Any]:
        form = self.card.form
        if form == "entities":
            return {"entities": [asdict(entity) for entity in answer.entities]}
        if form == "span":
            return {"answers": [{name: getattr(answer, name) for name in _REPLY.names}]}
        if form == "number":
            return {"score": answer.label}
        probabilities = dict(zip(map(str, self.card.labels), answer.probabilities, strict=True))
        return {"labels" if form == "labels" else "label": self._label(answer.label), "probabilities": probabilities}
