"""General distillation: an encoder teaches some of its own layers on raw text, before there is any task.

DistilBERT's way (Sanh et al. 2019), with MiniLMv2's relations (Wang et al. 2021) among its terms: no labels, and where
the encoder has a head for masked tokens, what it answers behind the mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from potstill.config.distill_params import General, MaskedTerm
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.masking import Masking
from potstill.distillation.objective.composition import Distillation, make_terms
from potstill.distillation.objective.masked_teacher import MaskedBlend, MaskedDistillation, MaskedTeacher
from potstill.distillation.teachers.providers import LiveTeacher
from potstill.errors import ModelError
from potstill.models.loading import load_classifier, load_masked_lm
from potstill.models.students.start import is_pooler
from potstill.models.students.student import student_from_layers
from potstill.pretrained.inspection import load_words
from potstill.training.held_out import hold_out, negative_loss
from potstill.training.loop import Outcome, Setting, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class GeneralDistillation:
    """A student of the base's layers and what it is to learn from.

    Attributes:
        teacher: the base.
        student: of its class; trained in place.
        objective: terms on layers, and answers behind the mask where params ask.
        rows: to train on.
        held_out: to judge by.
    """

    teacher: PreTrainedModel
    student: PreTrainedModel
    objective: Distillation
    rows: TokenDataset
    held_out: TokenDataset

    def train(self, setting: Setting) -> Outcome:
        """Train the student in place; the score is minus the objective on held-out rows."""
        score = negative_loss(self.objective, self.held_out, setting.device, setting.precision)
        return train(self.student, self.rows, self.objective, score, setting)

    def trained(self, params: General) -> PreTrainedModel:
        """The student to keep, on the CPU: without a head, or with the one for masked tokens where it was trained."""
        student = self.student.cpu()
        kept: PreTrainedModel = student.base_model if params.masked_lm is None else student
        return kept.requires_grad_(True)


def prepare_general(
    teacher: PreTrainedModel, rows: TokenDataset, params: General, tokenizer: Path, setting: Setting
) -> GeneralDistillation:
    """The student of the chosen layers, its objective and its rows.

    Args:
        teacher: see `load_base`.
        rows: token ids of raw texts; labels are not looked at.
        params: layers, terms, share of held-out rows.
        tokenizer: folder of its tokenizer.
        setting: of the run.

    Raises:
        ModelError: layers that do not exist, or terms that do not fit.
        ParamsError: no term keeps a weight to the end.
    """
    assert params.layers is not None
    student = student_from_layers(teacher, params.layers)
    terms = make_terms(params.terms, student, teacher, setting.seed)
    live = (teacher, setting.device, setting.precision)
    objective: Distillation
    if params.masked_lm is None:
        objective = Distillation(LiveTeacher(*live), None, terms)
        _freeze_unused(student)
    else:
        masking = _masking(tokenizer, teacher.config.vocab_size, params.masked_lm, setting.seed)
        objective = MaskedDistillation(masking, MaskedTeacher(*live), MaskedBlend(params.masked_lm), terms)
    learned, held_out = hold_out(rows, params.held_out, setting.seed)
    return GeneralDistillation(teacher, student, objective, learned, held_out)


def load_base(folder: Path, params: General) -> PreTrainedModel:
    """The teacher of general distillation: with its head for masked tokens where a term asks for it, else with none.

    Raises:
        ModelError: see `prepare_general` and `load_classifier`.
    """
    if params.masked_lm is None:
        # The head is a new one and is neither trained nor kept.
        return load_classifier(folder, ["0", "1"])
    return load_masked_lm(folder)


def _freeze_unused(student: PreTrainedModel) -> None:
    """Only the embeddings and layers have a loss here: not the head, nor the pooler in front of it."""
    student.requires_grad_(False)
    student.base_model.requires_grad_(True)
    for name, weight in student.base_model.named_parameters():
        if is_pooler(name):
            weight.requires_grad_(False)


def _masking(tokenizer: Path, vocabulary: int, params: MaskedTerm, seed: int) -> Masking:
    words = load_words(tokenizer)
    if words.mask_token_id is None:
        raise ModelError("the base's tokenizer has no mask token, which general.masked_lm needs; set that to null")
    return Masking(words.mask_token_id, sorted(words.all_special_ids), vocabulary, params.masked, seed)
