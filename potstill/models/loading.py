"""Model folders in and out: safetensors only, no remote code, labels checked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.config import TaskKind
from potstill.errors import LabelCountError, ModelError, UnsafeFileError
from potstill.models.heads import HEADS, task_named

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Formats that can run code when they are opened.
UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt"}
# `model_type` of our own class.
STATIC = "potstill-static"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def check_folder(folder: Path) -> dict[str, Any]:
    """Refuse a model folder that is unsafe or incomplete; return its config.json.

    Raises:
        UnsafeFileError: it carries pickled weights.
        ModelError: config.json or the safetensors weights are missing.
    """
    unsafe = sorted(path.name for path in folder.rglob("*") if path.suffix.lower() in UNSAFE_SUFFIXES)
    if unsafe:
        raise UnsafeFileError(
            f"{folder} holds {unsafe[0]}, a pickle that can run code when it is opened; "
            "save the model as safetensors (model.save_pretrained) and remove that file"
        )
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} has no config.json; give a folder written by save_pretrained")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} has no .safetensors weights; save the model with model.save_pretrained")
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def load_classifier(
    folder: Path, labels: Sequence[str] | None = None, task: TaskKind = "single_label"
) -> PreTrainedModel:
    """A model with a task's head, such as a sequence classifier, in evaluation mode, fp32.

    Args:
        folder: a `save_pretrained` folder.
        labels: class names in index order, for a base model that gets a new head (initialised from torch's current
            seed); None takes the folder's own head.
        task: of a new head; a folder's own head says itself what it is.

    Raises:
        UnsafeFileError, ModelError: see `check_folder`; also a class transformers does not know.
    """
    import torch
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # it knows no setting in the environment
    config = check_folder(folder)
    if config.get("model_type") == STATIC:
        import potstill.models.static  # noqa: F401 - makes the class known to transformers
    kind = HEADS[task if labels is not None else saved_task(config) or task]
    head: dict[str, Any] = {}
    if labels is not None:
        names = {index: str(label) for index, label in enumerate(labels)}
        head = {
            "num_labels": len(labels),
            "id2label": names,
            "label2id": {name: index for index, name in names.items()},
        }
        head |= {} if kind.problem_type is None else {"problem_type": kind.problem_type}
    try:
        model = getattr(transformers, kind.auto).from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, local_files_only=True, trust_remote_code=False, **head
        )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise ModelError(f"{folder} cannot be loaded as a {kind.name}: {' '.join(str(error).split())[:300]}") from error
    loaded: PreTrainedModel = model.eval()
    return loaded


def load_words(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside a model.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{folder} has no tokenizer that can be loaded; save it there or give one: {reason}"
        ) from error
    loaded: PreTrainedTokenizerBase = found
    return loaded


def saved_task(config: Mapping[str, Any]) -> TaskKind | None:
    """The task of a saved model, by its config.json; None: a model without a head."""
    labels = len(config["id2label"]) if "id2label" in config else int(config.get("num_labels", 2))
    return task_named((config.get("architectures") or [""])[0], config.get("problem_type"), labels)


def load_masked_lm(folder: Path) -> PreTrainedModel:
    """A masked language model in evaluation mode, fp32.

    Raises:
        UnsafeFileError, ModelError: see `check_folder`; also one saved without its head for masked tokens, which
            transformers would make up.
    """
    from transformers import AutoModelForMaskedLM

    known = (check_folder(folder).get("architectures") or ["model without a head"])[0]
    if not known.endswith("ForMaskedLM"):
        raise ModelError(
            f"{folder} is a {known}, which answers nothing behind a mask; take a base that was saved with that head "
            "(...ForMaskedLM), or set general.masked_lm to null"
        )
    return _load(AutoModelForMaskedLM, folder, "a masked language model")


def load_encoder(folder: Path) -> PreTrainedModel:
    """A model without its head, in evaluation mode, fp32.

    Raises:
        UnsafeFileError, ModelError: see `check_folder`.
    """
    from transformers import AutoModel

    check_folder(folder)
    return _load(AutoModel, folder, "an encoder")


def _load(kind: Any, folder: Path, what: str) -> PreTrainedModel:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    options = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
    try:
        model: PreTrainedModel = kind.from_pretrained(folder, dtype=torch.float32, **options)
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise ModelError(f"{folder} cannot be loaded as {what}: {' '.join(str(error).split())[:300]}") from error
    return model.eval()


def check_labels(folder: Path, labels: Sequence[str], task: TaskKind = "single_label") -> list[int]:
    """Verify a fine-tuned teacher's label set and return, for each of our labels, its index in the teacher.

    Raises:
        LabelCountError: another task, the counts differ, or the names are real names and differ.
    """
    config = check_folder(folder)
    architecture = (config.get("architectures") or [""])[0]
    if not architecture.endswith(HEADS[task].suffix):
        raise LabelCountError(
            f"{folder} is a {architecture or 'model without a head'}, not a fine-tuned {HEADS[task].name}; "
            "set teacher.fine_tuned to false to fine-tune it"
        )
    if saved_task(config) != task:
        raise LabelCountError(
            f"the teacher in {folder} was fine-tuned for {saved_task(config)} (its problem_type and labels say so), "
            f"the data is for {task}; give a teacher of the same task or set teacher.fine_tuned to false"
        )
    if task == "regression":
        return [0]  # one output, whatever it is called
    names = [str(name) for _, name in sorted(config.get("id2label", {}).items(), key=lambda item: int(item[0]))]
    names = names or [f"LABEL_{index}" for index in range(int(config.get("num_labels", 2)))]
    return match_labels(names, labels, str(folder))


def match_labels(names: Sequence[str], labels: Sequence[str], where: str) -> list[int]:
    """For each of our labels its index among a teacher's names, letter case aside.

    Raises:
        LabelCountError: the counts differ, or the names are real names and differ.
    """
    wanted = [str(label) for label in labels]
    if len(names) != len(wanted):
        raise LabelCountError(
            f"the teacher in {where} has {len(names)} labels ({', '.join(names[:8])}), the data has {len(wanted)} "
            f"({', '.join(wanted[:8])}); give a teacher of the same task or set teacher.fine_tuned to false"
        )
    if unnamed(names):
        return list(range(len(names)))  # prepare.labels gives the order
    lower = [name.lower() for name in names]
    missing = [label for label in wanted if label.lower() not in lower]
    if missing:
        raise LabelCountError(
            f"the teacher in {where} does not know the label {missing[0]!r}; its labels are {', '.join(names[:8])}"
        )
    return [lower.index(label.lower()) for label in wanted]


def unnamed(names: Sequence[str]) -> bool:
    """Whether a teacher's labels never had names: those that transformers counts are none."""
    return all(name == f"LABEL_{index}" for index, name in enumerate(names))


def label_order(answered: Sequence[str], labels: Sequence[str]) -> list[int]:
    """For each of our labels its index among those that a teacher answers; -1: it does not."""
    places = {label: index for index, label in enumerate(answered)}
    return [places.get(label, -1) for label in labels]


def reorder_labels(model: PreTrainedModel, order: Sequence[int], labels: Sequence[str]) -> None:
    """Put the rows of the output layer into our label order, in place, and name them.

    Args:
        model: has such a layer.
        order: for each of our labels its row; -1: none, its logit is 0 then.
        labels: their names.
    """
    import torch

    layer = output_layer(model)
    index = torch.tensor(list(order))
    with torch.no_grad():
        has = index >= 0
        layer.weight = torch.nn.Parameter(layer.weight[index] * has.unsqueeze(-1))
        layer.bias = torch.nn.Parameter(layer.bias[index] * has)
    layer.out_features = model.num_labels = len(labels)
    model.config.id2label = {position: str(label) for position, label in enumerate(labels)}
    model.config.label2id = {str(label): position for position, label in enumerate(labels)}


def output_layer(model: PreTrainedModel) -> Any:
    """The linear layer that gives the logits."""
    import torch

    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    matching = [module for module in linear if module.out_features == model.config.num_labels]
    if not matching:
        raise ModelError(f"{type(model).__name__} has no linear output layer of {model.config.num_labels} labels")
    return matching[-1]


def save_model(model: PreTrainedModel, folder: Path, tokenizer: Path) -> None:
    """Write weights (safetensors), config and the tokenizer's files as a normal `save_pretrained` folder.

    Factorized token embeddings become one table again, in the model too.
    """
    from potstill.models.factorized import merge

    merge(model)
    model.save_pretrained(folder)
    copy_tokenizer_files(tokenizer, folder)


def copy_tokenizer_files(tokenizer: Path, folder: Path) -> None:
    """Put the files of a tokenizer beside a model."""
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, folder / name)
