"""Teacher and student from raw texts to probabilities, each the way it is used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from potstill.artifacts import read_json, write_json, write_manifest
from potstill.evaluation.latency import BATCH
from potstill.models.loading import load_classifier
from potstill.serving.runtime import CARD, MODEL, TOKENIZER, Student, Text


def teacher_pipeline(folder: Path, max_length: int) -> Callable[[list[Text]], object]:
    """The teacher in `transformers.pipeline`, as one runs it today; on CPU, where the students run too.

    Args:
        folder: a `save_pretrained` folder with its tokenizer.
        max_length: tokens after which a text is cut, as for the student.
    """
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    classify = pipeline("text-classification", model=load_classifier(folder), tokenizer=tokenizer, device="cpu")

    def call(texts: list[Text]) -> object:
        inputs = [text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts]
        if len(inputs) == 1:  # without the data loader that a list goes through
            return classify(inputs[0], truncation=True, max_length=max_length)
        return classify(inputs, batch_size=BATCH, truncation=True, max_length=max_length)

    return call


def served_student(model: Path, variant: str, serving: Path, folder: Path) -> Student:
    """An exported student in the serving runtime, whether it is the one that ships or not.

    Args:
        model: the ONNX file.
        variant: `fp32` or `int8`.
        serving: the folder that ships, for tokenizer and card.
        folder: where to lay out the same around `model`; must not exist, and must outlive the loading only.
    """
    folder.mkdir(parents=True)
    (folder / MODEL).symlink_to(model.resolve())
    shutil.copyfile(serving / TOKENIZER, folder / TOKENIZER)
    write_json(folder / CARD, {**read_json(serving / CARD), "variant": variant})
    write_manifest(folder)
    return Student(folder)
