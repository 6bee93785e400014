"""The tensors of a model folder: read from the headers of its safetensors files, and compared with its class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError
from potstill.pretrained.files import read_object

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LFS = b"version https://git-lfs"
# Modules that torch.compile, FSDP and activation checkpointing put around a module anywhere in a model.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# What DDP, DeepSpeed, Lightning and other training classes put in front of the whole model.
_FRONT = ("module", "model", "_forward_module", "net", "network", "student", "base_model")
_NAMED = 3


@dataclass(frozen=True)
class Tensor:
    """A tensor as a header describes it: its shape, and its type as safetensors writes it."""

    shape: tuple[int, ...]
    dtype: str


Shapes = tuple[str, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """How tensors meet one part of a class: its encoder, or its head.

    Attributes:
        missing: names of weights that the folder lacks.
        unexpected: names of tensors that this part does not take.
        mismatched: (name, shape in the folder, shape in the class).
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Shapes, ...] = ()


@dataclass(frozen=True)
class Fit:
    """How a folder's tensors meet the class that they are loaded into.

    Attributes:
        model_class: name of the class in transformers.
        encoder: the base model without its pooler.
        head: the rest.
        unused: tensors of neither, such as another head.
        wrappers: what a training put in front of their names, which was taken away.
    """

    model_class: str
    encoder: Part = Part()
    head: Part = Part()
    unused: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()


def weight_files(folder: Path, where: str) -> list[Path]:
    """The safetensors files that transformers loads from a folder.

    Raises:
        ModelError: there are none, or the index names one that is not there.
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
    """Name -> tensor, of all weights of a folder; no weight is read.

    Raises:
        ModelError: see `weight_files`; also a file that is cut off or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    for path in weight_files(folder, where):
        with path.open("rb") as handle:
            if handle.read(len(_LFS)) == _LFS:
                raise ModelError(f"{path.name} of {where} is a pointer of Git LFS; fetch the file with `git lfs pull`")
        try:
            with safe_open(path, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping
                    part = tensors.get_slice(name)
                    found[name] = Tensor(tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path.name} of {where} is cut off or is no safetensors file ({one_line(error, 120)}); copy or save "
                "it again"
            ) from error
    return found


def unwrapped(names: Iterable[str], base: str) -> tuple[dict[str, str], list[str]]:
    """The names of tensors without what training put around the model.

    Args:
        names: of tensors.
        base: what the class calls its base model (`base_model_prefix`).

    Returns:
        Name -> name without it, and what was taken away; both are empty where there was nothing.
    """
    given = list(names)
    plain = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in given}
    taken = [wrapper for wrapper in _WRAPPERS if any(wrapper in name.split(".") for name in given)]
    while prefix := _front(list(plain.values()), base):
        plain = {name: own.removeprefix(f"{prefix}.") for name, own in plain.items()}
        taken.append(prefix)
    return (plain, [f"{part}." for part in taken]) if taken else ({}, [])


def _front(names: Sequence[str], base: str) -> str | None:
    """A prefix of a training class that stands in front of the model; None: there is none."""
    heads = {name.partition(".")[0] for name in names}
    for prefix in _FRONT:
        inside = any(name.startswith(f"{prefix}.{base}.") for name in names)
        if (inside and (prefix == base or base not in heads)) or (heads == {prefix} and prefix != base):
            return prefix
    return None


def fit_of(model: PreTrainedModel, info: Mapping[str, Any]) -> Fit:
    """How tensors meet a class, by what transformers says of loading them.

    Args:
        model: of the class.
        info: `output_loading_info` of `from_pretrained`.
    """
    prefix = f"{model.base_model_prefix}."
    base = {name.partition(".")[0] for name in model.base_model.state_dict()} - {"pooler"}
    own = model.state_dict()
    heads = {name.partition(".")[0] for name in own if not name.startswith(prefix)} - base
    heads |= {"pooler"} if any(name.removeprefix(prefix).startswith("pooler.") for name in own) else set()

    def part_of(name: str) -> str:
        first = name.removeprefix(prefix).partition(".")[0]
        return "encoder" if first in base else "head" if first in heads else "unused"

    def part(which: str) -> Part:
        missing, unexpected = (
            tuple(sorted(name for name in info[key] if part_of(name) == which))
            for key in ("missing_keys", "unexpected_keys")
        )
        shapes = [(name, tuple(theirs), tuple(ours)) for name, theirs, ours in sorted(info["mismatched_keys"])]
        return Part(missing, unexpected, tuple(item for item in shapes if part_of(item[0]) == which))

    return Fit(type(model).__name__, part("encoder"), part("head"), part("unused").unexpected)


def compare(config: PreTrainedConfig, auto: str, tensors: Mapping[str, Tensor]) -> Fit:
    """How tensors meet the class of a config, without a weight.

    Args:
        config: with the number of labels.
        auto: transformers' Auto class, which says the class.
        tensors: of the folder.

    Raises:
        ModelError: transformers cannot make a model of the config.
    """
    import torch

    empty = {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
    _, fit = load_state(config, auto, empty, device_map="meta", ignore_mismatched_sizes=True)
    return fit


def load_state(
    config: PreTrainedConfig, auto: str, state: Mapping[str, Any], **options: Any
) -> tuple[PreTrainedModel, Fit]:
    """A model of a config's class with given weights, whose names are unwrapped, and how they fit.

    Args:
        config: with the number of labels.
        auto: transformers' Auto class, which says the class.
        state: the weights by name.
        options: further ones of `from_pretrained`.

    Raises:
        ModelError: transformers cannot make a model of the config.
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
        raise ModelError(f"transformers makes no {auto} of the model's config.json: {one_line(error)}") from error
    return model, replace(fit_of(model, info), wrappers=tuple(wrappers))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and its report of weights to itself: what is wrong with them is said here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()  # it knows no setting in the environment
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def one_line(error: Exception, characters: int = 300) -> str:
    """The message of another library's error in one line."""
    return " ".join(str(error).split())[:characters]


def refuse_misfit(fit: Fit, where: str, *, new_head: bool) -> None:
    """Refuse weights that would leave a part of the model at random, or that are another model's.

    Args:
        fit: see `Fit`.
        where: what a sentence calls the folder.
        new_head: the head is made anew, so that only the base model's weights count.

    Raises:
        ModelError: they do not fit.
    """
    if fit.encoder.missing:
        raise ModelError(
            f"{where} lacks {_listed(fit.encoder.missing)} of the encoder, which would be random as a "
            f"{fit.model_class}{_instead(fit)}; save the whole model again with model.save_pretrained"
        )
    if fit.head.missing and not new_head:
        raise ModelError(
            f"{where} is a {fit.model_class} by its config.json, but has no weights for its head "
            f"({_listed(fit.head.missing)}), which would be random; save the whole fine-tuned model, or name the class "
            "without a head under architectures in config.json to have it fine-tuned"
        )
    parts = [fit.encoder] if new_head else [fit.encoder, fit.head]
    unexpected = [name for part in parts for name in part.unexpected]
    if unexpected:
        raise ModelError(
            f"{where} holds {_listed(unexpected)}, which a {fit.model_class} of its config.json does not have; its "
            "weights and its config.json are of different models, save both again with model.save_pretrained"
        )
    for name, theirs, ours in (item for part in parts for item in part.mismatched):
        raise ModelError(
            f"{name} of {where} is {_shape(theirs)}, by its config.json it is {_shape(ours)}; its weights and its "
            "config.json are of different models, save both again with model.save_pretrained"
        )


def _instead(fit: Fit) -> str:
    others = [*fit.encoder.unexpected, *fit.head.unexpected, *fit.unused]
    return f" (it has {_listed(others)} instead)" if others else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a number"
