"""Teachers that a caller from Python gives: loaded, checked, and with their labels in one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.data.tokens.in_memory import with_all_labels, with_tag_set_order
from potstill.errors import ModelError, SequenceLengthError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.models.loading import load_classifier
from potstill.pretrained.families import family_of, positions_of
from potstill.pretrained.heads import task_of
from potstill.pretrained.inspection import check_tokens, inspect_model, read_tokenizer
from potstill.pretrained.members import Weight, shares_by_label
from potstill.pretrained.output_names import match_labels, names_of_outputs
from potstill.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Teacher:
    """One of the teachers.

    Attributes:
        model: with the labels of all teachers.
        tokenizer: the model's.
        order: for each class of the first teacher its index in this one.
        weight: the weights of all add up to 1.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    order: list[int]
    weight: Weight


def load_teachers(
    sources: Sequence[Path | str | PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase | None,
    weights: Sequence[float] | None,
    max_length: int,
) -> list[Teacher]:
    """Load the teachers, each with the labels of all of them.

    Args:
        sources: `save_pretrained` folders or loaded models; the student starts from the first.
        tokenizer: of the loaded ones; None: that of the folder.
        weights: relative to each other; None: all the same.
        max_length: longest row in tokens.

    Raises:
        ModelError, SequenceLengthError: a teacher that does not fit the others, its tokenizer or the length.
    """
    if not sources:
        raise ModelError("there is no teacher; give a folder or a loaded model, or several")
    loaded = [_load_teacher(source, tokenizer) for source in sources]
    counts = [1.0] * len(loaded) if weights is None else list(weights)
    if len(counts) != len(loaded) or not all(0 < weight < float("inf") for weight in counts):
        raise ModelError(f"weights is {counts} of {len(loaded)} teachers; give each a number above 0")
    for model, _ in loaded:
        check_length(model, max_length)
    models, answered, labels = with_all_labels([with_tag_set_order(model) for model, _ in loaded])
    for number, names in enumerate(answered, 1):
        if names is not None:
            say(f"distill: teacher {number} answers {', '.join(names)}")
    shares = shares_by_label(counts, answered, labels)
    tokenizers = [tokenizer for _, tokenizer in loaded]
    teachers = [Teacher(*parts) for parts in zip(models, tokenizers, _orders(models), shares, strict=True)]
    _check_tokenizers(teachers)
    return teachers


def _load_teacher(
    teacher: Path | str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a fine-tuned model and its tokenizer, or take those that are given."""
    if not isinstance(teacher, (str, Path)):
        if tokenizer is None:
            raise ModelError("the teacher is a loaded model; give its tokenizer too: distill(..., tokenizer=...)")
        _check_head(type(teacher).__name__)
        family_of(teacher.config)
        model, own_tokenizer = teacher, tokenizer
    else:
        folder = Path(teacher)
        known = inspect_model(folder).saved.architecture
        _check_head(known or f"model without a head ({folder})")
        model = load_classifier(folder)
        own_tokenizer = read_tokenizer(folder) if tokenizer is None else tokenizer
    rows = len(model.get_input_embeddings().weight)
    check_tokens(1 + max(own_tokenizer.get_vocab().values()), rows, model.config.name_or_path or "memory")
    return model, own_tokenizer


def _orders(models: Sequence[PreTrainedModel]) -> list[list[int]]:
    """For each class of the first teacher, find its index in each of them."""
    names = [names_of_outputs(model) for model in models]
    origins = [model.config.name_or_path or "memory" for model in models]
    task = task_of(models[0])
    for model, origin in zip(models, origins, strict=True):
        if task_of(model) != task:
            raise ModelError(f"the teacher in {origin} is for {task_of(model)}, the first one for {task}")
    if not KINDS[task].has_classes:
        return [list(range(models[0].config.num_labels))] * len(models)  # outputs without names
    return [match_labels(labels, names[0], origin) for labels, origin in zip(names, origins, strict=True)]


def _check_head(name: str) -> None:
    """Refuse a class without the head of a task."""
    if not name.endswith(tuple(kind.head.suffix for kind in KINDS.values())):
        known = ", ".join(dict.fromkeys(kind.head.suffix for kind in KINDS.values()))
        raise ModelError(f"the teacher is a {name}; give a fine-tuned model (...{known})")


def _check_tokenizers(teachers: Sequence[Teacher]) -> None:
    """Refuse teachers of entities or answers that read other tokens than the first."""
    first, *others = teachers
    task, vocabulary = task_of(first.model), first.tokenizer.get_vocab()
    if KINDS[task].marks_spans and any(other.tokenizer.get_vocab() != vocabulary for other in others):
        raise ModelError(
            f"the teachers have several tokenizers, but those of a {task} task answer token by token, together; give "
            "teachers of one tokenizer"
        )


def check_length(model: PreTrainedModel, max_length: int, whose: str = "teacher") -> None:
    """Refuse rows that are longer than a model's positions, or have no room for a token."""
    positions = positions_of(model.config.to_dict())
    if max_length < 3 or (positions is not None and max_length > positions):
        raise SequenceLengthError(f"max_length is {max_length}; set it from 3 to the {whose}'s {positions} positions")
