"""A model's outputs on a batch: its logits and, if a loss needs them, states and projections of some layers.

Student and teacher have the same type of outputs, so that a loss does not know whether a teacher's outputs come from a
store or from a live model. Hidden states are numbered as in transformers: 0 is the input of the first layer, n the
output of the n-th layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from potstill.data.tokens.batches import Batch
from potstill.distillation.losses.sentences import mean_vectors
from potstill.distillation.losses.tensors import SelfAttention, SentenceVectors
from potstill.distillation.teachers.mean_answers import Ensemble
from potstill.kinds.losses.task_losses import HEAD_LOSSES
from potstill.kinds.task_names import TaskKind
from potstill.models.first_token import first_token_only
from potstill.pretrained.families import Family, family_of, layers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Needs:
    """What is needed of a model beyond its logits.

    Attributes:
        hidden: numbers of hidden states, from 0.
        attention: numbers of layers whose queries, keys and values are needed, from 1.
        vectors: numbers of hidden states of which only sentence vectors are needed, from 0.
    """

    hidden: frozenset[int] = frozenset()
    attention: frozenset[int] = frozenset()
    vectors: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hidden or self.attention or self.vectors)

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.hidden | other.hidden, self.attention | other.attention, self.vectors | other.vectors)

    def covered_by(self, available: Needs) -> bool:
        """Whether `available` includes all that is needed; sentence vectors can be computed from hidden states."""
        return (
            self.hidden <= available.hidden
            and self.attention <= available.attention
            and self.vectors <= available.vectors | available.hidden
        )


@dataclass(frozen=True)
class Outputs:
    """A model's outputs on a batch.

    Attributes:
        logits: [batch, classes], or [batch, sequence, classes] of a model that classifies tokens (see `answers_of`).
        hidden: number of the hidden state -> [batch, sequence, width].
        attention: number of the layer -> its queries, keys and values.
        vectors: number of the hidden state -> its sentence vectors. A store can have them without the states; a live
            model returns the states instead (`vectors_of` handles both).
        mask: [batch, sequence] mask of the states, 0 on padding; None if the model's tokens are those of the batch.
        ensemble: the logits of each member of an ensemble of teachers; None for a single model. Then `logits` are
            their mean, and all else is from the first member.
    """

    logits: Tensor
    hidden: Mapping[int, Tensor] = field(default_factory=dict)
    attention: Mapping[int, SelfAttention] = field(default_factory=dict)
    vectors: Mapping[int, SentenceVectors] = field(default_factory=dict)
    mask: Tensor | None = None
    ensemble: Ensemble | None = None

    def logits_at(self, temperature: float, task: TaskKind = "single_label") -> Tensor:
        """Return logits [batch, classes] for a loss that softens them at T; for an ensemble see `HeadLoss.mean`."""
        if self.ensemble is None:
            return self.logits
        return HEAD_LOSSES[task].mean(self.ensemble.logits, self.ensemble.weights, temperature)


LOGITS = Needs()


def observe(model: PreTrainedModel, inputs: Mapping[str, Tensor], needs: Needs = LOGITS) -> Outputs:
    """Run a model, and capture layers with forward hooks if more than logits is needed.

    Args:
        model: a model, of a class in `families.FAMILIES` if more than logits is needed.
        inputs: keyword arguments of the model.
        needs: what to capture; all layers must exist.

    Raises:
        ModelError: the class is not supported.
    """
    if not needs:
        with first_token_only(model):
            return Outputs(logits_of(model(**inputs)))
    hidden: dict[int, Tensor] = {}
    projections: dict[tuple[int, str], Tensor] = {}
    with _hooks(model, needs, hidden, projections):
        logits = logits_of(model(**inputs))
    names = _projection_names(family_of(model.config))
    attention = {}
    for number in needs.attention:
        tensors = [projections[number, name] for name in names]
        attention[number] = SelfAttention(*(tensors if len(tensors) == 3 else tensors[0].chunk(3, dim=-1)))
    return Outputs(logits, hidden, attention)


def logits_of(output: Any) -> Tensor:
    """Return the logits: [batch, classes], [batch, sequence, classes], or [batch, sequence, 2] of start and end."""
    logits: Tensor = (
        torch.stack([output.start_logits, output.end_logits], dim=-1) if "start_logits" in output else output.logits
    )
    return logits


def vectors_of(outputs: Outputs, number: int, mask: Tensor) -> SentenceVectors:
    """Return the sentence vectors of a hidden state, stored or computed from the states.

    Args:
        outputs: outputs with the sentence vectors or the hidden state.
        number: number of the hidden state.
        mask: [batch, sequence], 0 on padding.

    Raises:
        SignalError: the mask has another shape than the batch.
    """
    if number in outputs.vectors:
        return outputs.vectors[number]
    states = outputs.hidden[number]
    return SentenceVectors(states[:, 0], mean_vectors(states, mask))


def answers_of(outputs: Outputs, batch: Batch) -> Outputs:
    """Reduce the logits of tokens to those that losses compare; other outputs stay the same.

    For token classification these are the logits of labelled tokens [answers, classes], so that a loss sees each token
    as a row, and neither padding nor ignored tokens. For question answering they are [batch, sequence, 2] with minus
    infinity at tokens that cannot be an answer.
    """
    if batch.answers is None:
        return outputs
    answerable = torch.from_numpy(batch.answers).to(outputs.logits.device)
    spans = batch.labels.ndim > 1

    def answers(logits: Tensor) -> Tensor:
        if not spans:
            return logits[answerable]
        expanded = answerable.reshape(*answerable.shape, *[1] * (logits.dim() - 2))
        return logits.masked_fill(~expanded, -torch.inf)

    ensemble = outputs.ensemble
    if ensemble is not None:
        ensemble = replace(ensemble, logits=answers(ensemble.logits))
    return replace(outputs, logits=answers(outputs.logits), ensemble=ensemble)


@contextmanager
def _hooks(
    model: PreTrainedModel, needs: Needs, hidden: dict[int, Tensor], projections: dict[tuple[int, str], Tensor]
) -> Iterator[None]:
    """Install forward hooks that fill `hidden` and `projections`, and remove them at the end of the block."""
    layers = layers_of(model)
    states = needs.hidden | needs.vectors
    with ExitStack() as hooks:
        if 0 in states:

            def save_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                hidden[0] = args[0] if args else kwargs["hidden_states"]

            hooks.enter_context(layers[0].register_forward_pre_hook(save_input, with_kwargs=True))
        for number in states - {0}:

            def save_output(_: nn.Module, args: Any, output: Any, number: int = number) -> None:
                hidden[number] = output if isinstance(output, Tensor) else output[0]

            hooks.enter_context(layers[number - 1].register_forward_hook(save_output))
        for number, name in itertools.product(needs.attention, _projection_names(family_of(model.config))):

            def save_projection(_: nn.Module, args: Any, output: Tensor, key: tuple[int, str] = (number, name)) -> None:
                # Only the first call: DeBERTa projects its relative positions with the same weights afterwards.
                projections.setdefault(key, output)

            hooks.enter_context(layers[number - 1].get_submodule(name).register_forward_hook(save_projection))
        yield


def _projection_names(family: Family) -> list[str]:
    """Paths of the linear layers in a layer that compute queries, keys and values, in this order."""
    return [path for path in (family.query, family.key, family.value, family.qkv) if path is not None]
