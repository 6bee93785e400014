"""Teacher and student as users run them, from raw texts to answers, for speed comparisons."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from potstill.artifacts import read_json, write_json, write_manifest
from potstill.evaluation.latency import BATCH
from potstill.inference.runtime import CARD, MODEL, TOKENIZER, Student, Text, windowed_work
from potstill.kinds.definitions.question_answering import reply
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.labels.windows import Windower
from potstill.models.loading import load_classifier
from potstill.pretrained.families import tells_texts_apart
from potstill.pretrained.inspection import read_tokenizer


def teacher_pipeline(
    folder: Path, max_length: int, task: TaskKind = "single_label", stride: int = 0
) -> Callable[[list[Any]], object]:
    """Return the teacher in `transformers.pipeline`, as it is usually run; on CPU, where the students run too.

    Args:
        folder: a `save_pretrained` folder with its tokenizer.
        max_length: tokens after which a text is cut, as for the student.
        task: the kind of task.
        stride: tokens that neighbouring windows share, for entities and questions.
    """
    from transformers import pipeline

    model = load_classifier(folder)
    tokenizer = read_tokenizer(folder)
    if not tells_texts_apart(model.config.to_dict()):  # some tokenizers give segment ids that such a model refuses
        names = tokenizer.model_input_names
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
    if KINDS[task].form == "span":
        return _question_teacher(model, tokenizer, max_length, stride)
    if KINDS[task].form == "entities":
        tokenizer.model_max_length = max_length
        tag = pipeline(
            "token-classification", model=model, tokenizer=tokenizer, device="cpu",
            aggregation_strategy="simple", stride=stride,
        )  # fmt: skip
        return lambda texts: tag(texts[0]) if len(texts) == 1 else tag(texts, batch_size=BATCH)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def call(texts: list[Text]) -> object:
        inputs = [text if isinstance(text, str) else {"text": text[0], "text_pair": text[1]} for text in texts]
        if len(inputs) == 1:  # a single input skips the data loader of a list
            return classify(inputs[0], truncation=True, max_length=max_length)
        return classify(inputs, batch_size=BATCH, truncation=True, max_length=max_length)

    return call


def _question_teacher(model: Any, tokenizer: Any, max_length: int, stride: int) -> Callable[[list[Any]], object]:
    """Answer questions as transformers' former pipeline did: windows, in batches, and the best span."""
    import torch

    windower = Windower(tokenizer.backend_tokenizer, max_length, stride)

    def call(questions: list[tuple[str, str]]) -> object:
        rows = windower([question for question, _ in questions], [context for _, context in questions])
        work = windowed_work(
            rows, lambda index, values: reply(questions[index][1], rows[index], values, no_answer=False)
        )
        logits: list[Any] = []
        for start in range(0, len(work.rows), BATCH):
            batch = work.rows[start : start + BATCH]
            encoded = {"input_ids": [window.ids for window in batch]}
            if tells_texts_apart(model.config.to_dict()):
                encoded["token_type_ids"] = [window.type_ids for window in batch]
            inputs = tokenizer.pad(encoded, return_tensors="pt")
            with torch.inference_mode():
                output = model(**inputs)
            span_logits = torch.stack([output.start_logits, output.end_logits], dim=-1).numpy()
            logits += [values[: len(window.ids)] for values, window in zip(span_logits, batch, strict=True)]
        return work.finish(logits)

    return call


def served_student(model: Path, variant: str, serving: Path, folder: Path) -> Student:
    """Load an exported student into the serving runtime, whether it ships or not.

    Args:
        model: the ONNX file.
        variant: `fp32` or `int8`.
        serving: the serving folder, for tokenizer and card.
        folder: a new folder in which a serving folder is laid out around `model`; needed only while it loads.
    """
    folder.mkdir(parents=True)
    (folder / MODEL).symlink_to(model.resolve())
    shutil.copyfile(serving / TOKENIZER, folder / TOKENIZER)
    write_json(folder / CARD, {**read_json(serving / CARD), "variant": variant})
    write_manifest(folder)
    return Student(folder)
