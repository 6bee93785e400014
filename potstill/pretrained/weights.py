"""The tensors of a model folder: read their headers, and compare them with the model's class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError, first_names
from potstill.pretrained.files import read_object

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LFS = b"version https://git-lfs"
# Wrappers that torch.compile, FSDP and activation checkpointing put around modules anywhere in a model.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Attributes under which DDP, DeepSpeed, Lightning and other training classes keep the whole model.
_FRONT = ("module", "model", "_forward_module", "net", "network", "student", "base_model")
# How many tensors an error message names.
_NAMED = 3


@dataclass(frozen=True)
class Tensor:
    """The shape of a tensor and its type, as a safetensors header describes them."""

    shape: tuple[int, ...]
    dtype: str


# Name of a tensor, its shape in the folder and its shape in the class.
Shapes = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """How well tensors match one part of a class: its encoder, or its head.

    Attributes:
        missing: names of weights that the folder lacks.
        unexpected: names of tensors that the class does not have.
        mismatched: tensors of another shape.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Shapes, ...] = ()


@dataclass(frozen=True)
class Fit:
    """How well a folder's tensors match the class that they are loaded into.

    Attributes:
        model_class: name of the class in transformers.
        encoder: the base model without its pooler.
        head: all other weights of the class.
        unused: tensors that belong to neither, such as those of another head.
        wrappers: prefixes of training wrappers that were removed from the names.
    """

    model_class: str
    encoder: Part = Part()
    head: Part = Part()
    unused: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()


def weight_files(folder: Path, where: str) -> list[Path]:
    """List the safetensors files that transformers loads from a folder.

    Raises:
        ModelError: there are none, or the index names a file that does not exist.
    """
    if (folder / _SINGLE).exists():
        return [folder / _SINGLE]
    if not (folder / _INDEX).exists():
        others = sorted(path.name for path in folder.glob("*.safetensors"))
        hint = f"; it has {others[0]}, which is not named {_SINGLE}" if others else ""
        raise ModelError(f"{where} has no .safetensors weights{hint}; save the model with model.save_pretrained")
    shards = read_object(folder / _INDEX, where).get("weight_map")
    if not isinstance(shards, Mapping) or not shards:
        raise ModelError(f"{_INDEX} of {where} names no files; save the model again")
    names = sorted(set(map(str, shards.values())))
    gone = next((name for name in names if "/" in name or not (folder / name).exists()), None)
    if gone is not None:
        raise ModelError(f"{_INDEX} of {where} names {gone}, which is not there; copy all {len(names)} files")
    return [folder / name for name in names]


def read_tensors(folder: Path, where: str) -> dict[str, Tensor]:
    """Read the headers of all weights of a folder, by name; the weights themselves are not read.

    Raises:
        ModelError: see `weight_files`; also if a file is truncated or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    headers: dict[str, Tensor] = {}
    for path in weight_files(folder, where):
        with path.open("rb") as handle:
            if handle.read(len(_LFS)) == _LFS:
                raise ModelError(f"{path.name} of {where} is a pointer of Git LFS; fetch the file with `git lfs pull`")
        try:
            with safe_open(path, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping
                    part = tensors.get_slice(name)
                    headers[name] = Tensor(tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path.name} of {where} is cut off or is no safetensors file ({one_line(error, 120)}); copy or save "
                "it again"
            ) from error
    return headers


def unwrapped(names: Iterable[str], base: str) -> tuple[dict[str, str], list[str]]:
    """Remove the prefixes of training wrappers from the names of tensors.

    Args:
        names: names of the tensors.
        base: attribute of the class that holds the base model (`base_model_prefix`).

    Returns:
        Name -> name without wrappers, and the prefixes that were removed; both are empty if there were none.
    """
    names = list(names)
    plain = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names}
    removed = [wrapper for wrapper in _WRAPPERS if any(wrapper in name.split(".") for name in names)]
    while prefix := _front(list(plain.values()), base):
        plain = {name: shortened.removeprefix(f"{prefix}.") for name, shortened in plain.items()}
        removed.append(prefix)
    return (plain, [f"{part}." for part in removed]) if removed else ({}, [])


def _front(names: Sequence[str], base: str) -> str | None:
    """Find the attribute under which a training class keeps the whole model; None if there is none."""
    heads = {name.partition(".")[0] for name in names}
    for prefix in _FRONT:
        inside = any(name.startswith(f"{prefix}.{base}.") for name in names)
        if (inside and (prefix == base or base not in heads)) or (heads == {prefix} and prefix != base):
            return prefix
    return None


def fit_of(model: PreTrainedModel, info: Mapping[str, Any]) -> Fit:
    """Assign the tensors that transformers reports as missing, unexpected or mismatched to parts of the class.

    Args:
        model: a model of the class.
        info: the `output_loading_info` of `from_pretrained`.
    """
    prefix = f"{model.base_model_prefix}."
    base = {name.partition(".")[0] for name in model.base_model.state_dict()} - {"pooler"}
    names = model.state_dict()
    heads = {name.partition(".")[0] for name in names if not name.startswith(prefix)} - base
    if any(name.removeprefix(prefix).startswith("pooler.") for name in names):
        heads.add("pooler")

    def part_of(name: str) -> str:
        first = name.removeprefix(prefix).partition(".")[0]
        if first in base:
            return "encoder"
        return "head" if first in heads else "unused"

    def names_in(part: str, key: str) -> tuple[str, ...]:
        return tuple(sorted(name for name in info[key] if part_of(name) == part))

    def fit_part(part: str) -> Part:
        mismatched = tuple(
            (name, tuple(saved), tuple(expected))
            for name, saved, expected in sorted(info["mismatched_keys"])
            if part_of(name) == part
        )
        return Part(names_in(part, "missing_keys"), names_in(part, "unexpected_keys"), mismatched)

    unused = names_in("unused", "unexpected_keys")
    return Fit(type(model).__name__, fit_part("encoder"), fit_part("head"), unused)


def compare(config: PreTrainedConfig, auto: str, tensors: Mapping[str, Tensor]) -> Fit:
    """Compare tensors with the class of a config, without loading weights.

    Args:
        config: config of the model, with its number of labels.
        auto: name of transformers' Auto class that selects the model's class.
        tensors: headers of the folder's tensors, by name.

    Raises:
        ModelError: transformers cannot build a model from the config.
    """
    import torch

    empty = {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
    _, fit = load_state(config, auto, empty, device_map="meta", ignore_mismatched_sizes=True)
    return fit


def load_state(
    config: PreTrainedConfig, auto: str, state: Mapping[str, Any], **options: Any
) -> tuple[PreTrainedModel, Fit]:
    """Build a model of a config's class from weights, removing training wrappers from their names.

    Args:
        config: config of the model, with its number of labels.
        auto: name of transformers' Auto class that selects the model's class.
        state: the weights by name.
        options: further arguments of `from_pretrained`.

    Returns:
        The model, and how well the weights match its class.

    Raises:
        ModelError: transformers cannot build a model from the config.
    """
    import torch
    import transformers

    try:
        with torch.device("meta"):
            model_class = type(getattr(transformers, auto).from_config(config, trust_remote_code=False))
        renamed, wrappers = unwrapped(state, model_class.base_model_prefix)
        with quiet():
            model, info = model_class.from_pretrained(
                None,
                config=config,
                state_dict={renamed.get(name, name): value for name, value in state.items()},
                output_loading_info=True,
                **options,
            )
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise ModelError(
            f"transformers cannot build an {auto} from the model's config.json: {one_line(error)}"
        ) from error
    return model, replace(fit_of(model, info), wrappers=tuple(wrappers))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and its report on weights; this module reports what does not fit."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()  # there is no environment variable for it
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def one_line(error: Exception, characters: int = 300) -> str:
    """Shorten another library's error message to one line."""
    return " ".join(str(error).split())[:characters]


def refuse_misfit(fit: Fit, where: str, *, new_head: bool) -> None:
    """Refuse weights that leave a part of the model at random, or that belong to another model.

    Args:
        fit: how well the weights match the class.
        where: name of the model for messages.
        new_head: whether the model gets a new head, so that only the encoder's weights matter.

    Raises:
        ModelError: weights are missing, unexpected or of another shape.
    """
    if fit.encoder.missing:
        raise ModelError(
            f"{where} lacks {first_names(fit.encoder.missing, _NAMED)} of the encoder, which would be random as a "
            f"{fit.model_class}{_instead(fit)}; save the whole model again with model.save_pretrained"
        )
    if fit.head.missing and not new_head:
        raise ModelError(
            f"{where} is a {fit.model_class} by its config.json, but has no weights for its head "
            f"({first_names(fit.head.missing, _NAMED)}), which would be random; save the whole fine-tuned model, or "
            "name the class without a head under architectures in config.json to have it fine-tuned"
        )
    parts = [fit.encoder] if new_head else [fit.encoder, fit.head]
    unexpected = [name for part in parts for name in part.unexpected]
    if unexpected:
        raise ModelError(
            f"{where} holds {first_names(unexpected, _NAMED)}, which a {fit.model_class} of its config.json does not "
            "have; its weights and its config.json are of different models, save both again with model.save_pretrained"
        )
    mismatched = [shapes for part in parts for shapes in part.mismatched]
    if mismatched:
        name, saved, expected = mismatched[0]
        raise ModelError(
            f"{name} of {where} is {_shape(saved)}, by its config.json it is {_shape(expected)}; its weights and its "
            "config.json are of different models, save both again with model.save_pretrained"
        )


def _instead(fit: Fit) -> str:
    others = [*fit.encoder.unexpected, *fit.head.unexpected, *fit.unused]
    return f" (it has {first_names(others, _NAMED)} instead)" if others else ""


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a number"
