"""Inspect a model folder before anything is loaded, and refuse one that cannot be used.

Every model passes through this module: at `potstill init` and `potstill inspect`, in the stage ingest, in the Python
interface, and wherever a model is loaded. The same folder therefore gets the same error message everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from potstill.errors import ModelError
from potstill.kinds.definitions.task_kinds import KINDS
from potstill.kinds.task_names import TaskKind
from potstill.pretrained.families import FAMILIES, Family, position_offset, positions_of, unsupported
from potstill.pretrained.files import VOCABULARIES, read_object, refuse_adapter, refuse_pickled_weights
from potstill.pretrained.heads import task_named
from potstill.pretrained.output_names import OutputNames, output_names
from potstill.pretrained.weights import Fit, Tensor, compare, one_line, read_tensors, refuse_misfit

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# What a model is used for: as a teacher, with its saved head; as an encoder that gets a new head; or as a masked
# language model.
Use = Literal["teacher", "encoder", "masked_lm"]
# The `model_type` of this package's static student.
STATIC = "potstill-static"
_MASKED_LM = "AutoModelForMaskedLM"
GENERATOR_ADVICE = "name a masked language model with a fast tokenizer as ingest.generator"


@dataclass(frozen=True)
class Saved:
    """The config and tensor headers of a model folder, read without transformers.

    Attributes:
        where: name of the model for messages.
        config: content of config.json.
        tensors: shapes and types of its tensors, by name.
        outputs: rows of the output layer; None if its tensor is not known.
    """

    where: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    outputs: int | None

    @property
    def family(self) -> str:
        """The `model_type` of config.json."""
        return str(self.config.get("model_type"))

    @property
    def architecture(self) -> str:
        """The class that it was saved as; empty if config.json names none."""
        names = self.config.get("architectures") or [""]
        return str(names[0])

    @property
    def names(self) -> OutputNames:
        """The names of its outputs; see `output_names`."""
        return output_names(self.config, self.where, self.outputs)

    @property
    def task(self) -> TaskKind | None:
        """The task of its head; None if it has no supported head."""
        if not self.architecture.endswith(tuple(kind.head.suffix for kind in KINDS.values())):
            return None
        return task_named(self.architecture, self.config.get("problem_type"), len(self.names.names))


@dataclass(frozen=True)
class Inspection:
    """The result of inspecting a model folder.

    Attributes:
        saved: its config and tensor headers.
        layers: number of layers.
        width: hidden size.
        heads: attention heads of a layer.
        positions: maximum number of tokens of a text; None if there is no limit.
        vocabulary: rows of the token embeddings.
        tokens: one more than the highest token id of its tokenizer.
        fit: how well the weights match the class.
    """

    saved: Saved
    layers: int
    width: int
    heads: int
    positions: int | None
    vocabulary: int
    tokens: int
    fit: Fit

    @property
    def task(self) -> TaskKind | None:
        """The task of its head; None if it has no supported head."""
        return self.saved.task

    def has_head_of(self, task: TaskKind) -> bool:
        """Whether its head is of the kind that a task needs; the meaning of its outputs may differ."""
        return self.saved.architecture.endswith(KINDS[task].head.suffix)

    def lines(self) -> list[tuple[str, str]]:
        """Format the inspection as (property, value) pairs."""
        saved = self.saved
        head = "none: it is fine-tuned here" if self.task is None else f"{KINDS[self.task].head.name}, {self.task}"
        offset = position_offset(saved.config)
        counted = f", counted from row {offset}" if offset else ""
        tensors = list(saved.tensors.values())
        dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors}))
        removed = f"; {' '.join(self.fit.wrappers)} removed from their names" if self.fit.wrappers else ""
        rows = [
            ("model", saved.where),
            ("family", f"{saved.family} ({saved.architecture or 'no class named'})"),
            ("layers", f"{self.layers}, {self.width} wide, {self.heads} attention heads"),
            ("positions", f"{'no limit known' if self.positions is None else self.positions}{counted}"),
            ("vocabulary", f"{self.vocabulary:,} rows, {self.tokens:,} tokens of the tokenizer"),
            ("head", head),
        ]
        if self.task is not None and KINDS[self.task].has_classes:
            names = saved.names
            rows.append(("labels", f"{', '.join(names.names)} ({names.source or 'without names'})"))
        rows.append(("weights", f"{len(tensors)} tensors of {dtypes}{removed}"))
        if self.fit.unused:
            rows.append(("not used", ", ".join(self.fit.unused[:8])))
        return rows


def read_saved(folder: Path, where: str | None = None) -> Saved:
    """Read config.json and the headers of the weights, and refuse a folder that cannot be loaded safely.

    Args:
        folder: folder of the model.
        where: name of the model for messages; None: the path of the folder.

    Raises:
        UnsafeFileError: the weights are pickles.
        ModelError: the folder contains an adapter or quantized weights, or has no readable config.json or safetensors.
    """
    where = where or str(folder)
    refuse_pickled_weights(folder)
    refuse_adapter(folder, where)
    if not (folder / "config.json").exists():
        raise ModelError(
            f"{where} has no config.json and is no model folder; give a folder written by model.save_pretrained"
        )
    config = read_object(folder / "config.json", where)
    if "quantization_config" in config:
        raise ModelError(
            f"{where} has quantized weights (quantization_config in config.json), which cannot be trained or copied; "
            "give the model as it was before quantization"
        )
    tensors = read_tensors(folder, where)
    return Saved(where, config, tensors, _outputs(config, tensors))


def inspect_model(folder: Path, use: Use = "teacher", where: str | None = None) -> Inspection:
    """Inspect a model folder, and refuse a model that cannot be used.

    Args:
        folder: folder written by `save_pretrained`, with the tokenizer.
        use: what the model is used for.
        where: name of the model for messages; None: the path of the folder.

    Raises:
        UnsafeFileError, ModelError: see `read_saved`; also if the family is not supported, weights are missing or
            belong to another model, or the tokenizer is missing or has more tokens than the model has embeddings.
        LabelCountError: the label names are incomplete or contradict each other.
    """
    saved = read_saved(folder, where)
    if use != "masked_lm" and saved.family not in FAMILIES:
        raise ModelError(f"{saved.where}: {unsupported(saved.family)}")
    task = saved.task if use == "teacher" else None
    config = _config(saved, task)
    tokens = tokenizer_size(folder, saved.where)
    check_tokens(tokens, config.vocab_size, saved.where)
    fit = compare(config, _MASKED_LM if use == "masked_lm" else KINDS[task or "single_label"].head.auto, saved.tensors)
    if use == "masked_lm":
        check_masked_lm(saved, fit, GENERATOR_ADVICE)
    refuse_misfit(fit, saved.where, new_head=use != "masked_lm" and task is None)
    family = FAMILIES.get(saved.family, Family())
    return Inspection(
        saved,
        layers=getattr(config, family.layers_key),
        width=getattr(config, family.hidden_key),
        heads=getattr(config, family.heads_key),
        positions=positions_of(config.to_dict()),
        vocabulary=config.vocab_size,
        tokens=tokens,
        fit=fit,
    )


def check_masked_lm(saved: Saved, fit: Fit, advice: str) -> None:
    """Refuse a model without a masked-language-modelling head, which transformers would initialise at random.

    Args:
        saved: the model.
        fit: how well its weights match the class.
        advice: what the user can do; part of the error message.

    Raises:
        ModelError: the weights of the head are missing.
    """
    if fit.head.missing:
        raise ModelError(
            f"{saved.where} is a {saved.architecture or 'model without a head'}, which has no head for masked language "
            f"modelling and cannot predict masked tokens; {advice}"
        )


def check_tokens(tokens: int, rows: int, where: str) -> None:
    """Refuse a tokenizer with ids beyond the table of token embeddings.

    Raises:
        ModelError: the tokenizer has more ids than there are embeddings.
    """
    if tokens > rows:
        raise ModelError(
            f"the tokenizer of {where} has {tokens:,} tokens, but the model has embeddings for {rows:,}; save the "
            "tokenizer that the model was trained with, or train the added ones: "
            "model.resize_token_embeddings(len(tokenizer))"
        )


def tokenizer_size(folder: Path, where: str) -> int:
    """Return one more than the highest token id of a tokenizer, added tokens included.

    Raises:
        ModelError: the folder has no tokenizer, or it cannot be read.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ModelError(
            f"{where} has no tokenizer.json; save the tokenizer next to the model (tokenizer.save_pretrained)"
        )
    if not (folder / "tokenizer.json").exists():
        return 1 + max(map(int, read_tokenizer(folder, where).get_vocab().values()))
    tokenizer = read_object(folder / "tokenizer.json", where)
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    ids = [len(vocabulary) - 1, *map(int, vocabulary.values() if isinstance(vocabulary, Mapping) else ())]
    ids += [int(token["id"]) for token in tokenizer.get("added_tokens") or []]
    if (folder / "added_tokens.json").exists():
        ids += map(int, read_object(folder / "added_tokens.json", where).values())
    if (folder / "tokenizer_config.json").exists():
        ids += map(int, read_object(folder / "tokenizer_config.json", where).get("added_tokens_decoder") or ())
    return 1 + max(ids)


def read_tokenizer(folder: Path, where: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer in a model's folder.

    Raises:
        ModelError: there is no tokenizer, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        raise ModelError(
            f"{where or folder} has no tokenizer that can be loaded; save it there or give one: {one_line(error, 200)}"
        ) from error
    return loaded


def head_settings(saved: Saved, task: TaskKind | None) -> dict[str, Any]:
    """Return the config keys that name a saved head's outputs; empty for a new head and for question answering.

    Raises:
        LabelCountError: see `output_names`.
    """
    if task is None or KINDS[task].form == "span":
        return {}
    return label_settings(saved.names.names)


def label_settings(labels: Sequence[str]) -> dict[str, Any]:
    """Return the config keys that name a head's outputs."""
    names = {index: str(label) for index, label in enumerate(labels)}
    return {
        "num_labels": len(names),
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
    }


def _config(saved: Saved, task: TaskKind | None) -> PreTrainedConfig:
    """Build transformers' config, with the output names that were read from config.json."""
    from transformers import AutoConfig

    plain = {key: value for key, value in saved.config.items() if key not in ("model_type", *label_settings([]))}
    try:
        return AutoConfig.for_model(saved.family, **plain, **head_settings(saved, task))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"config.json of {saved.where} is not valid for transformers: {one_line(error)}") from error


def _outputs(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int | None:
    """Count the rows of the output layer; None if its tensor is missing or has no row for each label."""
    family = FAMILIES.get(str(config.get("model_type")), Family())
    paths = [f".{path}.weight" for path in (family.output, "classifier")]
    shapes = [tensor.shape for path in paths for name, tensor in tensors.items() if f".{name}".endswith(path)]
    return next((shape[0] for shape in shapes if len(shape) == 2), None)
