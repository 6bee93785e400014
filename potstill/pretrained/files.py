"""The files of a model folder: which are opened, which are ignored, and which are refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from potstill.errors import ModelError, UnsafeFileError

# Formats that can run code when they are opened.
UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt"}
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
# Files that contain a vocabulary; a tokenizer has at least one of them.
VOCABULARIES = [
    name for name in TOKENIZER_FILES if not name.endswith(("_config.json", "_map.json", "added_tokens.json"))
]
ADAPTER = "adapter_config.json"
# Files that training leaves in a model folder, and weights in the formats of other frameworks. Globs of paths relative
# to the folder; `*` also matches a slash.
NEVER_OPENED = (
    *("checkpoint-*/*", "global_step*/*", "runs/*", "logs/*", "wandb/*", "mlruns/*", "lightning_logs/*"),
    *("*optimizer*", "*scheduler*", "*rng_state*", "*random_states*", "*training_args*", "*trainer_state*"),
    *("scaler.*", "sampler*", "dataloader*", "custom_checkpoint*", "*.tfevents.*"),
    *("*.onnx", "*.onnx_data", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.gguf", "openvino/*", "coreml/*"),
)
# Names that libraries give to files of pickled weights.
_PICKLED_WEIGHTS = re.compile(r"(pytorch_model|adapter_model|model)([-_.].*)?")


def opened_files(names: Iterable[str]) -> list[str]:
    """Select the files of a model folder that are read.

    Leftovers of training are ignored, and so are pickles that are no weights. Pickled weights are selected so that they
    can be refused: those with the name of a weights file, and every pickle if the folder has no safetensors.

    Args:
        names: relative POSIX paths of all files of the folder.
    """
    candidates = [name for name in names if not any(fnmatch(name, glob) for glob in NEVER_OPENED)]
    has_safetensors = any("/" not in name and name.endswith(".safetensors") for name in candidates)
    return [name for name in candidates if not _is_pickle(name) or not has_safetensors or _is_pickled_weights(name)]


def refuse_pickled_weights(folder: Path) -> None:
    """Refuse a model folder whose weights are pickles.

    Raises:
        UnsafeFileError: it contains such a file.
    """
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    names = [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]
    unsafe = next((name for name in opened_files(names) if _is_pickle(name)), None)
    if unsafe is not None:
        raise UnsafeFileError(unsafe_sentence(unsafe))


def unsafe_sentence(name: str) -> str:
    """The error message for a file that can run code when it is opened."""
    return (
        f"{name} is (or holds) a pickle, which can run code when it is opened; "
        "save weights as safetensors and tables as CSV, JSONL or Parquet, and remove that file"
    )


def refuse_adapter(folder: Path, where: str) -> None:
    """Refuse a folder that contains an adapter instead of a whole model.

    Raises:
        ModelError: the folder has an adapter's config.
    """
    if not (folder / ADAPTER).exists():
        return
    config = read_object(folder / ADAPTER, where)
    base = config.get("base_model_name_or_path") or "its base model"
    kind = "LoRA adapter" if str(config.get("peft_type", "")).upper() == "LORA" else "adapter"
    raise ModelError(
        f"{where} is a {kind} of {base} ({ADAPTER}), not a whole model; merge it and give the merged folder: "
        "peft.AutoPeftModelForSequenceClassification.from_pretrained(ADAPTER).merge_and_unload().save_pretrained(FOLDER)"
        ", with the tokenizer saved there too"
    )


def copy_tokenizer_files(tokenizer: Path, folder: Path) -> None:
    """Copy the files of a tokenizer into the folder of a model."""
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copyfile(tokenizer / name, folder / name)


def read_object(path: Path, where: str) -> dict[str, Any]:
    """Read a JSON file of a model folder that contains an object.

    Args:
        path: the file.
        where: name of the model, for the error message.

    Raises:
        ModelError: the file is not JSON, or its value is not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{path.name} of {where} cannot be read: {reason}; save the model again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} of {where} is no JSON object; save the model again")
    return value


def _is_pickle(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in UNSAFE_SUFFIXES


def _is_pickled_weights(name: str) -> bool:
    path = PurePosixPath(name)
    return len(path.parts) == 1 and _PICKLED_WEIGHTS.fullmatch(path.stem) is not None
