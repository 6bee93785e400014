"""Load and save model folders: safetensors only, no remote code, labels checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import LabelCountError, ModelError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.pretrained.files import copy_tokenizer_files
from potstill.pretrained.inspection import STATIC, Saved, check_masked_lm, head_settings, label_settings, read_saved
from potstill.pretrained.output_names import LabelMap, match_labels
from potstill.pretrained.weights import Fit, fit_of, load_state, one_line, quiet, refuse_misfit, unwrapped, weight_files
from potstill.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GENERAL_ADVICE = "take a base that was saved with that head (...ForMaskedLM), or set general.masked_lm to null"


def load_classifier(
    folder: Path, labels: Sequence[str] | None = None, task: TaskKind = "single_label"
) -> PreTrainedModel:
    """Load a model with a task's head, such as a sequence classifier, in fp32 and evaluation mode.

    Args:
        folder: a `save_pretrained` folder.
        labels: class names in index order, to give an encoder a new head, initialised from torch's current seed. None
            loads the head of the folder.
        task: task of a new head; the task of a saved head is read from the folder.

    Raises:
        UnsafeFileError, ModelError: see `read_saved`; also if transformers does not know the class, or weights are
            missing or belong to another model.
        LabelCountError: the label names in the folder are incomplete or contradict each other.
    """
    saved = read_saved(folder)
    if saved.family == STATIC:
        import potstill.models.students.static  # noqa: F401 - registers the class with transformers
    head_task = saved.task if labels is None else None
    kind = KINDS[head_task or task].head
    head = head_settings(saved, head_task)
    if labels is not None:
        head = label_settings(labels)
        head |= {} if kind.problem_type is None else {"problem_type": kind.problem_type}
    model, fit = _load(saved, folder, kind.auto, f"a {kind.name}", head)
    refuse_misfit(fit, saved.where, new_head=labels is not None)
    return model


def load_masked_lm(folder: Path, advice: str = _GENERAL_ADVICE) -> PreTrainedModel:
    """Load a masked language model in fp32 and evaluation mode.

    Args:
        folder: a `save_pretrained` folder.
        advice: what the user can do if the model has no masked-language-modelling head; part of the error message.

    Raises:
        UnsafeFileError, ModelError: see `read_saved`; also if the model was saved without that head, which
            transformers would initialise at random.
    """
    saved = read_saved(folder)
    model, fit = _load(saved, folder, "AutoModelForMaskedLM", "a masked language model")
    check_masked_lm(saved, fit, advice)
    refuse_misfit(fit, saved.where, new_head=False)
    return model


def load_encoder(folder: Path) -> PreTrainedModel:
    """Load a model without its head, in fp32 and evaluation mode.

    Raises:
        UnsafeFileError, ModelError: see `read_saved`; also if encoder weights are missing or belong to another model.
    """
    saved = read_saved(folder)
    model, fit = _load(saved, folder, "AutoModel", "an encoder")
    refuse_misfit(fit, saved.where, new_head=True)
    return model


def _load(
    saved: Saved, folder: Path, auto: str, what: str, head: Mapping[str, Any] | None = None
) -> tuple[PreTrainedModel, Fit]:
    """Load a folder with one of transformers' Auto classes. All loading of weights goes through this function."""
    import torch
    import transformers

    options: dict[str, Any] = {"dtype": torch.float32, "ignore_mismatched_sizes": True}
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **(head or {})
            )
            model, info = getattr(transformers, auto).from_pretrained(
                folder, config=config, use_safetensors=True, local_files_only=True, trust_remote_code=False,
                output_loading_info=True, **options,
            )  # fmt: skip
    except (ValueError, KeyError, OSError, RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(f"{saved.where} cannot be loaded as {what}: {one_line(error)}") from error
    fit = fit_of(model, info)
    _, wrappers = unwrapped(saved.tensors, model.base_model_prefix)
    if wrappers:
        say(f"the weights of {saved.where} are loaded without {', '.join(wrappers)} in front of their names")
        model, fit = load_state(config, auto, _weights(folder, saved.where), **options)
    loaded: PreTrainedModel = model.eval()
    return loaded, fit


def _weights(folder: Path, where: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: value for path in weight_files(folder, where) for name, value in load_file(path).items()}


def check_labels(
    folder: Path,
    labels: Sequence[str],
    task: TaskKind = "single_label",
    label_map: LabelMap | None = None,
    key: str = "teacher",
) -> list[int]:
    """Match a fine-tuned teacher's labels to the labels of the data.

    Args:
        folder: folder of the teacher.
        labels: labels of the data, in their order.
        task: task of the data.
        label_map: teacher's label -> label of the data; see `match_labels`.
        key: key of params that describes the teacher, for error messages.

    Returns:
        For each label of the data its index among the teacher's outputs.

    Raises:
        LabelNamesError: the teacher's labels have names, which differ from the data's.
        LabelCountError: the tasks or the numbers of labels differ.
    """
    saved = read_saved(folder)
    if not saved.architecture.endswith(KINDS[task].head.suffix):
        raise LabelCountError(
            f"{folder} is a {saved.architecture or 'model without a head'}, not a fine-tuned {KINDS[task].head.name}; "
            "set teacher.fine_tuned to false to fine-tune it"
        )
    if saved.task and KINDS[saved.task].one_output and KINDS[task].form == "class":
        raise LabelCountError(_one_output(saved, labels))
    if saved.task != task:
        raise LabelCountError(
            f"the teacher in {folder} was fine-tuned for {saved.task} (its problem_type and labels say so), "
            f"the data is for {task}; give a teacher of the same task or set teacher.fine_tuned to false"
        )
    if KINDS[task].form == "number":
        return [0]  # the name of the one output does not matter
    return match_labels(saved.names.names, labels, str(folder), label_map, key)


def _one_output(saved: Saved, labels: Sequence[str]) -> str:
    """The error message for a teacher with one output when the data has classes."""
    return (
        f"the teacher in {saved.where} has one output ({', '.join(saved.names.names)}), which is a number, but the "
        f"data has {len(labels)} classes ({', '.join(map(str, labels[:8]))}), each of which needs its own "
        "output; set teacher.fine_tuned to false to give its encoder a new head, or save it with two outputs, the "
        "first with weights of 0, or take prepare.task regression with labels that are numbers"
    )


def save_model(model: PreTrainedModel, folder: Path, tokenizer: Path) -> None:
    """Write weights (safetensors), config and tokenizer files as a `save_pretrained` folder.

    Factorized token embeddings are merged into one table first, in the model as well.
    """
    from potstill.models.students.factorized import merge

    merge(model)
    model.save_pretrained(folder)
    copy_tokenizer_files(tokenizer, folder)
