"""The student that a `distill` section describes, as it is before it learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from potstill.config.distill_params import Distill
from potstill.data.tokens.batches import Ints, TokenDataset
from potstill.distillation.objective.gold_labels import Objective
from potstill.distillation.pruning import pruned
from potstill.models.students.factorized import factorize
from potstill.models.students.kinds import start_student
from potstill.models.students.start import start_from_general
from potstill.models.students.vocabulary import trim_embeddings
from potstill.pretrained.families import layers_of
from potstill.pretrained.inspection import STATIC
from potstill.progress import say

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

# Counts the seconds of "training" or "inference" while it is open.
Clock: TypeAlias = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True)
class StudentBuilder:
    """Builds students from a parent: the teacher, an assistant, or for a control the pretrained base.

    Attributes:
        params: the `distill` section.
        seed: of weights that are drawn at random.
        pair: whether the task is on pairs of texts.
        tokenizer: loads the parent's tokenizer, of which a static student takes every token's vector.
        name: of the stage, in messages.
        checkpoint: loads the encoder that a student of kind checkpoint starts from, with a fresh head; None for the
            other kinds.
        kept_ids: the ids, in the whole vocabulary, of the tokens that a smaller one keeps; None: all.
        rank: of the table of token embeddings; None: a full table.
        general_dir: folder of the general student whose embeddings and layers the student takes; None: the parent's.
        clock: counts the time that pruning takes; by default nothing is counted.
    """

    params: Distill
    seed: int
    pair: bool
    tokenizer: Callable[[], Tokenizer]
    name: str = "distill"
    checkpoint: Callable[[], PreTrainedModel] | None = None
    kept_ids: Ints | None = None
    rank: int | None = None
    general_dir: Path | None = None
    clock: Clock = nullcontext

    def build(
        self, parent: PreTrainedModel, layers: Sequence[int], rows: TokenDataset, objective: Objective
    ) -> PreTrainedModel:
        """Build a student.

        Args:
            parent: gives the weights, unless the student starts from a checkpoint or at random.
            layers: of the parent, or of the checkpoint.
            rows: the student's training rows: pruning and a lower rank are judged by them.
            objective: the loss of its logits, by which pruning judges.

        Raises:
            ModelError: layers, sizes or a class that do not fit; see `potstill.models`.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            student = start_student(
                self.params.student, self.source(parent), layers, pair=self.pair, tokenizer=self.tokenizer
            )
            if self.general_dir is not None and self.params.student.kind == "layers":
                start_from_general(student, self.general_dir)
                say(f"{self.name}: the student starts from the general student, its head from the teacher")
        student = self._pruned(self._trimmed(student), rows, objective)
        if self.rank is not None:
            factorize(student, self.rank, rows.token_counts())
        return student

    def source(self, parent: PreTrainedModel) -> PreTrainedModel:
        """The model whose layers the student takes: its checkpoint, or the parent."""
        return parent.cpu() if self.checkpoint is None else self.checkpoint()

    def available(self, parent: PreTrainedModel) -> int:
        """How many layers there are to choose from."""
        return len(layers_of(self.source(parent)))

    def _trimmed(self, student: PreTrainedModel) -> PreTrainedModel:
        if self.kept_ids is None:
            return student
        if student.config.model_type == STATIC:
            trimmed: PreTrainedModel = student.trimmed(self.kept_ids)
            return trimmed
        return trim_embeddings(student, self.kept_ids.tolist())

    def _pruned(self, student: PreTrainedModel, rows: TokenDataset, objective: Objective) -> PreTrainedModel:
        if self.params.prune is None:
            return student
        with self.clock("inference"):
            return pruned(
                student, self.params.prune, rows, objective,
                batch_tokens=self.params.batch_tokens, seed=self.seed, name=self.name,
            )  # fmt: skip
