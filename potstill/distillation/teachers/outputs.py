"""What a model says on a batch: its logits and, where a loss asks, the states and projections of chosen layers.

One value type for both sides, so that a loss never knows whether a teacher's came from a store or from a live model.
States are counted as transformers counts them: 0 is what the first layer takes in, n what the n-th layer gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from potstill.config.base import TaskKind
from potstill.data.tokens.batches import Batch
from potstill.distillation.losses.sentences import mean_vectors
from potstill.distillation.losses.tensors import SelfAttention, SentenceVectors
from potstill.distillation.teachers.mean_answers import Ensemble
from potstill.pretrained.families import Family, family_of, layers_of

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Needs:
    """What is asked of a model beside its logits.

    Attributes:
        hidden: hidden states, by number from 0.
        attention: layers whose queries, keys and values are asked for, by number from 1.
        vectors: hidden states of which the sentence vectors are enough, by number from 0.
    """

    hidden: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()
    vectors: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hidden or self.attention or self.vectors)

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.hidden | other.hidden, self.attention | other.attention, self.vectors | other.vectors)

    def within(self, held: Needs) -> bool:
        """Whether who has `held` can give it: sentence vectors come of hidden states too."""
        return (
            self.hidden <= held.hidden
            and self.attention <= held.attention
            and self.vectors <= held.vectors | held.hidden
        )


@dataclass(frozen=True)
class Outputs:
    """A model's answer to a batch.

    Attributes:
        logits: [batch, classes]; of a model that answers token by token [batch, sequence, classes] (see `answers_of`).
        hidden: number of the hidden state -> [batch, sequence, width].
        attention: number of the layer -> its queries, keys and values.
        vectors: number of the hidden state -> its sentence vectors. A store has them without the states; a model
            gives the states instead (`vectors_of` takes either).
        mask: [batch, sequence] of the states, 0 on padding, where the model read other tokens than the batch's; None:
            the batch's own.
        ensemble: what each of several teachers says, where there are several: the logits are their mean, and the rest
            is the first one's.
    """

    logits: Tensor
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    attention: Mapping[int, SelfAttention] = field(default_factory=dict)
    vectors: Mapping[int, SentenceVectors] = field(default_factory=dict)
    mask: Tensor | None = None
    ensemble: Ensemble | None = None

    def at(self, temperature: float, task: TaskKind = "single_label") -> Tensor:
        """[batch, classes] logits for a loss that softens them at T; of several teachers, see `ensemble_logits`."""
        return self.logits if self.ensemble is None else self.ensemble.at(temperature, task)


LOGITS = Needs()


def observe(model: PreTrainedModel, inputs: Mapping[str, Tensor], needs: Needs = LOGITS) -> Outputs:
    """Run a model and catch what is asked for on the way; with nothing asked for, a plain forward pass.

    Args:
        model: of a class in `families.FAMILIES` where more than logits is asked for.
        inputs: keyword arguments of the model.
        needs: what to catch; the layers exist.

    Raises:
        ModelError: the class is not known.
    """
    if not needs:
        return Outputs(logits_of(model(**inputs)))
    hidden: dict[int, Tensor] = {}
    parts: dict[tuple[int, str], Tensor] = {}
    with _hooks(model, needs, hidden, parts):
        logits = logits_of(model(**inputs))
    names = _projections(family_of(model.config))
    found = {number: [parts[number, name] for name in names] for number in needs.attention}
    attention = {
        number: SelfAttention(*(tensors if len(tensors) == 3 else tensors[0].chunk(3, dim=-1)))
        for number, tensors in found.items()
    }
    return Outputs(logits, hidden, attention)


def logits_of(output: Any) -> Tensor:
    """What a model's head says: [batch, classes], [batch, sequence, classes], or [batch, sequence, 2] start and end."""
    logits: Tensor = (
        torch.stack([output.start_logits, output.end_logits], dim=-1) if "start_logits" in output else output.logits
    )
    return logits


def vectors_of(outputs: Outputs, number: int, mask: Tensor) -> SentenceVectors:
    """The sentence vectors of one hidden state, as they were stored or of the states themselves.

    Args:
        outputs: holds that number among its vectors or its hidden states.
        number: of the hidden state.
        mask: [batch, sequence].

    Raises:
        SignalError: the mask is of another batch.
    """
    if number in outputs.vectors:
        return outputs.vectors[number]
    states = outputs.hidden[number]
    return SentenceVectors(states[:, 0], mean_vectors(states, mask))


def answers_of(outputs: Outputs, batch: Batch) -> Outputs:
    """The same outputs with the logits that losses compare, where it is tokens that answer.

    Of classes of tokens [answers, classes], those of the tokens that are asked, so that a loss sees each as a row and
    neither padding nor what is ignored. Of spans [batch, sequence, 2] with minus infinity on padding, which is how a
    choice leaves a token out.
    """
    if batch.answers is None:
        return outputs
    asked = torch.from_numpy(batch.answers).to(outputs.logits.device)
    spans = batch.labels.ndim > 1

    def answers(logits: Tensor) -> Tensor:
        if not spans:
            return logits[asked]
        return logits.masked_fill(~asked.reshape(*asked.shape, *[1] * (logits.dim() - 2)), -torch.inf)

    ensemble = outputs.ensemble
    if ensemble is not None:
        ensemble = replace(ensemble, logits=answers(ensemble.logits))
    return replace(outputs, logits=answers(outputs.logits), ensemble=ensemble)


@contextmanager
def _hooks(
    model: PreTrainedModel, needs: Needs, hidden: dict[int, Tensor], parts: dict[tuple[int, str], Tensor]
) -> Iterator[None]:
    """Forward hooks that fill `hidden` and `parts`; gone behind the block."""
    family, layers = family_of(model.config), layers_of(model)
    handles: list[RemovableHandle] = []
    states = needs.hidden | needs.vectors
    if 0 in states:

        def take_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden[0] = args[0] if args else kwargs["hidden_states"]

        handles.append(layers[0].register_forward_pre_hook(take_input, with_kwargs=True))
    for number in states - {0}:

        def take_output(_: nn.Module, args: Any, output: Any, number: int = number) -> None:
            hidden[number] = output if isinstance(output, Tensor) else output[0]

        handles.append(layers[number - 1].register_forward_hook(take_output))
    for number in needs.attention:
        for part in _projections(family):

            def take_part(_: nn.Module, args: Any, output: Tensor, key: tuple[int, str] = (number, part)) -> None:
                # The first call: DeBERTa projects its relative positions with the same weights afterwards.
                parts.setdefault(key, output)

            handles.append(layers[number - 1].get_submodule(part).register_forward_hook(take_part))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _projections(family: Family) -> list[str]:
    """The linear layers inside a layer that make queries, keys and values, in that order."""
    return [path for path in (family.query, family.key, family.value, family.qkv) if path is not None]
