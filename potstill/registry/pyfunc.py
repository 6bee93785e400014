"""The student with MLflow's interface: `mlflow.pyfunc.load_model("models:/<project>@champion").predict(frame)`.

This is the loader module that a registered version names. It travels with the version, together with all modules that
it imports (`potstill.serving.core`). Its data is the serving folder, which is verified when it is loaded.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

ABSTAIN_BELOW = "abstain_below"
THREADS = "threads"
_REPLY = ("answer", "start", "end", "score")

if TYPE_CHECKING:
    import pandas

    from potstill.inference.runtime import Student


class Classifier:
    """A student as a pyfunc model.

    Args:
        student: the student.
        abstain_below: the confidence below which it abstains; None: it never does.
    """

    def __init__(self, student: Student, abstain_below: float | None = None) -> None:
        self._student = student
        self._abstain_below = abstain_below

    def predict(self, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> pandas.DataFrame:
        """Predict each row.

        Args:
            model_input: column `text`; a model of pairs also needs `text_pair`.
            params: unused; there are none.

        Returns:
            Columns with the index of the input. single_label: `label`, and a column of probabilities for each label.
            multi_label: `labels` (a list), and the same columns of probabilities. regression: `score`.
            token_classification: `entities`, lists of type, start, end, text and score. question_answering: `answer`,
            `start`, `end` and `score`. Of a model that may abstain the last column is `abstained`.
        """
        import pandas

        columns = ["text", "text_pair"] if self._student.card.pair else ["text"]
        values = model_input[columns].astype(str)
        texts = list(values.itertuples(index=False, name=None)) if self._student.card.pair else list(values["text"])
        answers = self._answers(texts)
        rows = [self._row(answer) for answer in answers]
        frame = pandas.DataFrame(rows, columns=self._columns(), index=model_input.index)
        if self._abstain_below is not None:
            from potstill.inference.certainty import answer_confidence

            frame["abstained"] = [answer_confidence(answer) < self._abstain_below for answer in answers]
        return frame

    def _answers(self, texts: list[Any]) -> list[Any]:
        form = self._student.card.form
        if form == "entities":
            return self._student.tag(texts)
        if form == "span":
            return self._student.answer(texts)
        return self._student.predict(texts)

    def _columns(self) -> list[str]:
        card = self._student.card
        if card.form == "span":
            return [*_REPLY]
        if card.form == "number":
            return ["score"]
        if card.form == "entities":
            return ["entities"]
        return ["labels" if card.form == "labels" else "label", *map(str, card.labels)]

    def _row(self, answer: Any) -> list[Any]:
        form = self._student.card.form
        if form == "span":
            return [getattr(answer, name) for name in _REPLY]
        if form == "number":
            return [answer.label]
        if form == "entities":
            return [[asdict(entity) for entity in answer.entities]]
        return [_label_text(answer.label), *answer.probabilities]


def _label_text(label: object) -> str | list[str]:
    return [str(item) for item in label] if isinstance(label, list) else str(label)


def _load_pyfunc(data_path: str, model_config: dict[str, Any] | None = None) -> Classifier:
    """Load the model.

    MLflow calls this with the path of the serving folder, and with the configuration that the version was saved with
    and that `load_model(..., model_config={"abstain_below": 0.9, "threads": 1})` may change.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from potstill.inference.runtime import Student

    config = model_config or {}
    return Classifier(Student(Path(data_path), config.get(THREADS, 0)), config.get(ABSTAIN_BELOW))
