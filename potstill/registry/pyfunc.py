"""The student by MLflow's own interface: `mlflow.pyfunc.load_model("models:/<project>@champion").predict(frame)`.

The loader module that a registered version names. It travels with the version, with all that it imports
(`potstill.serving.core`); its data is the serving folder, verified when it is loaded.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from potstill.inference.runtime import Student


class Classifier:
    """Text in, the student's answer out."""

    def __init__(self, student: Student) -> None:
        self._student = student

    def predict(self, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """The answer for each row.

        Args:
            model_input: column `text`, for a model of pairs also `text_pair`.
            params: none are known.

        Returns:
            Column `label`, and a column of probabilities for each label; of several labels `labels`, lists of those
            that hold, in place of `label`; of numbers the one column `score`; of entities the one column `entities`,
            lists of type, start, end, text and score; of questions `answer`, `start`, `end`, `score`. The index of the
            input.
        """
        import pandas

        columns = ["text", "text_pair"] if self._student.card.pair else ["text"]
        values = model_input[columns].astype(str)
        texts = list(values.itertuples(index=False, name=None)) if self._student.card.pair else list(values["text"])
        kind = self._student.card.kind
        if kind in ("token_classification", "question_answering"):
            return pandas.DataFrame(self._marked(texts), index=model_input.index)
        answers = self._student.predict(texts)
        if kind == "regression":
            return pandas.DataFrame({"score": [answer.label for answer in answers]}, index=model_input.index)
        first = "labels" if kind == "multi_label" else "label"
        names = [str(label) for label in self._student.card.labels]
        rows = [[_named(answer.label), *answer.probabilities] for answer in answers]
        return pandas.DataFrame(rows, columns=[first, *names], index=model_input.index)

    def _marked(self, texts: list[Any]) -> list[dict[str, Any]]:
        """A row of columns for each text whose answer is a place in it."""
        if self._student.card.kind == "token_classification":
            return [{"entities": [asdict(entity) for entity in row.entities]} for row in self._student.tag(texts)]
        kept = ("answer", "start", "end", "score")
        return [{name: getattr(reply, name) for name in kept} for reply in self._student.answer(texts)]


def _named(label: object) -> str | list[str]:
    return [str(item) for item in label] if isinstance(label, list) else str(label)


def _load_pyfunc(data_path: str) -> Classifier:
    """What MLflow calls with the path of the serving folder."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from potstill.inference.runtime import Student

    return Classifier(Student(Path(data_path)))
