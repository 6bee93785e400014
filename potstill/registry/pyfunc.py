"""The student with MLflow's interface: `mlflow.pyfunc.load_model("models:/<project>@champion").predict(frame)`.

This is the loader module that a registered version names. It travels with the version, together with all modules that
it imports (`potstill.serving.core`). Its data is the serving folder, which is verified when it is loaded.
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
    """A student as a pyfunc model."""

    def __init__(self, student: Student) -> None:
        self._student = student

    def predict(self, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Predict each row.

        Args:
            model_input: column `text`; a model of pairs also needs `text_pair`.
            params: unused; there are none.

        Returns:
            Columns with the index of the input. single_label: `label`, and a column of probabilities for each label.
            multi_label: `labels` (a list), and the same columns of probabilities. regression: `score`.
            token_classification: `entities`, lists of type, start, end, text and score. question_answering: `answer`,
            `start`, `end` and `score`.
        """
        import pandas

        columns = ["text", "text_pair"] if self._student.card.pair else ["text"]
        values = model_input[columns].astype(str)
        texts = list(values.itertuples(index=False, name=None)) if self._student.card.pair else list(values["text"])
        form = self._student.card.form
        if form in ("entities", "span"):
            return pandas.DataFrame(self._span_rows(texts), index=model_input.index)
        answers = self._student.predict(texts)
        if form == "number":
            return pandas.DataFrame({"score": [answer.label for answer in answers]}, index=model_input.index)
        first = "labels" if form == "labels" else "label"
        names = [str(label) for label in self._student.card.labels]
        rows = [[_label_text(answer.label), *answer.probabilities] for answer in answers]
        return pandas.DataFrame(rows, columns=[first, *names], index=model_input.index)

    def _span_rows(self, texts: list[Any]) -> list[dict[str, Any]]:
        """Predict texts whose answers are spans, as one dictionary of columns a text."""
        if self._student.card.form == "entities":
            return [{"entities": [asdict(entity) for entity in row.entities]} for row in self._student.tag(texts)]
        columns = ("answer", "start", "end", "score")
        return [{name: getattr(reply, name) for name in columns} for reply in self._student.answer(texts)]


def _label_text(label: object) -> str | list[str]:
    return [str(item) for item in label] if isinstance(label, list) else str(label)


def _load_pyfunc(data_path: str) -> Classifier:
    """Load the model; MLflow calls this with the path of the serving folder."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from potstill.inference.runtime import Student

    return Classifier(Student(Path(data_path)))
