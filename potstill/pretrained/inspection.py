"""What a model folder holds, looked at before anything is loaded, and what is refused of it.

Every model that comes in passes here: at `potstill init` and `potstill inspect`, in the stage ingest, in the Python
interface, and wherever a model is loaded. So the same folder gets the same sentence everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from potstill.config.base import TaskKind
from potstill.errors import ModelError
from potstill.pretrained.families import FAMILIES, Family, position_offset, positions_of, unsupported
from potstill.pretrained.files import VOCABULARIES, read_object, refuse_adapter, refuse_pickled_weights
from potstill.pretrained.heads import HEADS, task_named
from potstill.pretrained.output_names import OutputNames, output_names
from potstill.pretrained.weights import Fit, Tensor, compare, one_line, read_tensors, refuse_misfit

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

# What a model is wanted for: a teacher, as it was saved; an encoder whose head is made anew; a model with its head
# for masked tokens.
Use = Literal["teacher", "encoder", "masked_lm"]
# `model_type` of our own class.
STATIC = "potstill-static"
_MASKED_LM = "AutoModelForMaskedLM"
GENERATOR_ADVICE = "name a masked language model with a fast tokenizer as ingest.generator"


@dataclass(frozen=True)
class Saved:
    """The files of a model, as far as they say what it is without a library's help.

    Attributes:
        where: what a sentence calls the model.
        config: its config.json.
        tensors: of its safetensors files, by name.
        outputs: rows of the output layer, where a tensor of it is known.
    """

    where: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    outputs: int | None

    @property
    def family(self) -> str:
        """`model_type` of config.json."""
        return str(self.config.get("model_type"))

    @property
    def architecture(self) -> str:
        """The class that it was saved as; empty where config.json names none."""
        names = self.config.get("architectures") or [""]
        return str(names[0])

    @property
    def names(self) -> OutputNames:
        """What its outputs are called; see `output_names`."""
        return output_names(self.config, self.where, self.outputs)

    @property
    def task(self) -> TaskKind | None:
        """The task of its head; None: it has none of these."""
        if not self.architecture.endswith(tuple(head.suffix for head in HEADS.values())):
            return None
        return task_named(self.architecture, self.config.get("problem_type"), len(self.names.names))


@dataclass(frozen=True)
class Inspection:
    """What a model folder holds.

    Attributes:
        saved: its files as they are.
        layers: their number, by the family's own key.
        width: hidden size.
        heads: attention heads of a layer.
        positions: tokens that a text can have; None: no limit is known.
        vocabulary: rows of the token embeddings.
        tokens: one more than the highest id of its tokenizer.
        fit: how the weights meet the class.
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
        """The task of its head; None: it has none of these."""
        return self.saved.task

    def has_head_of(self, task: TaskKind) -> bool:
        """Whether its head is of the kind that a task has; what its outputs mean may differ."""
        return self.saved.architecture.endswith(HEADS[task].suffix)

    def lines(self) -> list[tuple[str, str]]:
        """The look as (what, value)."""
        saved = self.saved
        head = "none: it is fine-tuned here" if self.task is None else f"{HEADS[self.task].name}, {self.task}"
        offset = position_offset(saved.config)
        counted = f", counted from row {offset}" if offset else ""
        tensors = list(saved.tensors.values())
        dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors}))
        taken = f"; {' '.join(self.fit.wrappers)} taken from their names" if self.fit.wrappers else ""
        rows = [
            ("model", saved.where),
            ("family", f"{saved.family} ({saved.architecture or 'no class named'})"),
            ("layers", f"{self.layers}, {self.width} wide, {self.heads} attention heads"),
            ("positions", f"{'no limit known' if self.positions is None else self.positions}{counted}"),
            ("vocabulary", f"{self.vocabulary:,} rows, {self.tokens:,} tokens of the tokenizer"),
            ("head", head),
        ]
        if self.task is not None and self.task not in ("regression", "question_answering"):
            names = saved.names
            rows.append(("labels", f"{', '.join(names.names)} ({names.source or 'without names'})"))
        rows.append(("weights", f"{len(tensors)} tensors of {dtypes}{taken}"))
        if self.fit.unused:
            rows.append(("not used", ", ".join(self.fit.unused[:8])))
        return rows


def read_saved(folder: Path, where: str | None = None) -> Saved:
    """Read config.json and the headers of the weights, and refuse what cannot be a model that is loaded safely.

    Args:
        folder: of the model.
        where: what a sentence calls it; None: the folder.

    Raises:
        UnsafeFileError: its weights are pickles.
        ModelError: it is an adapter, or lacks config.json or safetensors weights, or they cannot be read.
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
            "give the model as it was before"
        )
    tensors = read_tensors(folder, where)
    return Saved(where, config, tensors, _outputs(config, tensors))


def inspect_model(folder: Path, use: Use = "teacher", where: str | None = None) -> Inspection:
    """Look at a model folder, and refuse one that could not be used.

    Args:
        folder: written by `save_pretrained`, with the tokenizer.
        use: what it is wanted for.
        where: what a sentence calls it; None: the folder.

    Raises:
        UnsafeFileError, ModelError: see `read_saved`; also a family that is not known, weights that are missing or
            another model's, and a tokenizer that is missing or has more tokens than there are embeddings.
        LabelCountError: the names of its labels are incomplete or contradict each other.
    """
    saved = read_saved(folder, where)
    if use != "masked_lm":
        check_family(saved)
    task = saved.task if use == "teacher" else None
    config = _config(saved, task)
    tokens = tokenizer_size(folder, saved.where)
    check_tokens(tokens, config.vocab_size, saved.where)
    fit = compare(config, _MASKED_LM if use == "masked_lm" else HEADS[task or "single_label"].auto, saved.tensors)
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


def check_family(saved: Saved) -> None:
    """Refuse a model whose family is not known.

    Raises:
        ModelError: it is not.
    """
    if saved.family not in FAMILIES:
        raise ModelError(f"{saved.where}: {unsupported(saved.family)}")


def check_masked_lm(saved: Saved, fit: Fit, advice: str) -> None:
    """Refuse a model without a head for masked tokens, which transformers would make up.

    Raises:
        ModelError: it has none.
    """
    if fit.head.missing:
        raise ModelError(
            f"{saved.where} is a {saved.architecture or 'model without a head'}, which answers nothing behind a mask: "
            f"it has no head for masked language modelling, an encoder alone; {advice}"
        )


def check_tokens(tokens: int, rows: int, where: str) -> None:
    """Refuse a tokenizer with ids beyond the table of token embeddings.

    Raises:
        ModelError: there are such ids.
    """
    if tokens > rows:
        raise ModelError(
            f"the tokenizer of {where} has {tokens:,} tokens, but the model has embeddings for {rows:,}; save the "
            "tokenizer that the model was trained with, or train the added ones: "
            "model.resize_token_embeddings(len(tokenizer))"
        )


def tokenizer_size(folder: Path, where: str) -> int:
    """One more than the highest token id of a tokenizer, added tokens included.

    Raises:
        ModelError: the folder has no tokenizer, or one that cannot be read.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ModelError(
            f"{where} has no tokenizer.json; save the tokenizer beside the model (tokenizer.save_pretrained)"
        )
    if not (folder / "tokenizer.json").exists():
        return 1 + max(map(int, load_words(folder, where).get_vocab().values()))
    whole = read_object(folder / "tokenizer.json", where)
    vocabulary = (whole.get("model") or {}).get("vocab") or {}
    ids = [len(vocabulary) - 1, *map(int, vocabulary.values() if isinstance(vocabulary, Mapping) else ())]
    ids += [int(token["id"]) for token in whole.get("added_tokens") or []]
    if (folder / "added_tokens.json").exists():
        ids += map(int, read_object(folder / "added_tokens.json", where).values())
    if (folder / "tokenizer_config.json").exists():
        ids += map(int, read_object(folder / "tokenizer_config.json", where).get("added_tokens_decoder") or ())
    return 1 + max(ids)


def load_words(folder: Path, where: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer that lies next to a model.

    Raises:
        ModelError: there is none, or it cannot be loaded.
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
    """The keys of a config that say what a saved head's outputs are; none where the head is made anew.

    Raises:
        LabelCountError: see `output_names`.
    """
    if task is None or task == "question_answering":
        return {}
    return label_settings(saved.names.names)


def label_settings(labels: Sequence[str]) -> dict[str, Any]:
    """The keys of a config that name a head's outputs."""
    names = {index: str(label) for index, label in enumerate(labels)}
    return {
        "num_labels": len(names),
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
    }


def _config(saved: Saved, task: TaskKind | None) -> PreTrainedConfig:
    """The config in transformers' form, with the names of the outputs as they were read."""
    from transformers import AutoConfig

    plain = {key: value for key, value in saved.config.items() if key not in ("model_type", *label_settings([]))}
    try:
        return AutoConfig.for_model(saved.family, **plain, **head_settings(saved, task))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"config.json of {saved.where} is none that transformers knows: {one_line(error)}") from error


def _outputs(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int | None:
    """Rows of the output layer; None: its tensor is not there, or a question's, which has no labels."""
    family = FAMILIES.get(str(config.get("model_type")), Family())
    paths = [f".{path}.weight" for path in (family.output, "classifier")]
    shapes = [tensor.shape for path in paths for name, tensor in tensors.items() if f".{name}".endswith(path)]
    return next((shape[0] for shape in shapes if len(shape) == 2), None)
