"""General distillation: an encoder teaches a student of some of its layers on raw text, without labels.

As in DistilBERT (Sanh et al. 2019), with MiniLMv2's relations (Wang et al. 2021) among the terms. If the encoder has a
masked-language-modelling head, the student also learns its predictions of masked tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from potstill.config.distill_params import General
from potstill.data.tokens.batches import TokenDataset
from potstill.data.tokens.masking import Masking
from potstill.distillation.objective.composition import Distillation, make_terms
from potstill.distillation.objective.masked_teacher import MaskedBlend, MaskedDistillation, MaskedTeacher
from potstill.distillation.teachers.providers import LiveTeacher
from potstill.errors import ModelError
from potstill.models.loading import load_classifier, load_masked_lm
from potstill.models.students.start import is_pooler
from potstill.models.students.student import student_from_layers
from potstill.pretrained.inspection import read_tokenizer
from potstill.training.held_out import hold_out, negative_loss
from potstill.training.loop import Outcome, Setting, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class GeneralDistillation:
    """A student of a base encoder's layers, and the objective and data of its training.

    Attributes:
        student: a model of the base encoder's class, trained in place.
        objective: terms on layers, and predictions of masked tokens if params ask for them.
        rows: rows to train on.
        held_out: rows for evaluation.
    """

    student: PreTrainedModel
    objective: Distillation
    rows: TokenDataset
    held_out: TokenDataset

    def train(self, setting: Setting) -> Outcome:
        """Train the student in place; its score is minus the objective on held-out rows."""
        score = negative_loss(self.objective, self.held_out, setting.device, setting.precision)
        return train(self.student, self.rows, self.objective, score, setting)

    def trained(self, params: General) -> PreTrainedModel:
        """Return the student on the CPU, with the masked-language-modelling head if that was trained, else without."""
        student = self.student.cpu()
        trained: PreTrainedModel = student.base_model if params.masked_lm is None else student
        return trained


def prepare_general(
    teacher: PreTrainedModel, rows: TokenDataset, params: General, tokenizer: Path, setting: Setting
) -> GeneralDistillation:
    """Build the student, its objective and its rows.

    Args:
        teacher: the base encoder; see `load_base`.
        rows: token ids of raw texts; labels are ignored.
        params: layers, terms and share of held-out rows.
        tokenizer: folder of the teacher's tokenizer.
        setting: setting of the run.

    Raises:
        ModelError: a layer does not exist, or a term does not fit the models.
        ParamsError: no term has a weight above 0 at every step.
    """
    assert params.layers is not None
    rows = rows.with_labels(np.full(len(rows), -1))
    student = student_from_layers(teacher, params.layers)
    terms = make_terms(params.terms, student, teacher, setting.seed)
    live = (teacher, setting.device, setting.precision)
    objective: Distillation
    if params.masked_lm is None:
        objective = Distillation(LiveTeacher(*live), None, terms)
        _freeze_unused(student)
    else:
        loaded = read_tokenizer(tokenizer)
        if loaded.mask_token_id is None:
            raise ModelError("the base's tokenizer has no mask token, which general.masked_lm needs; set that to null")
        special, share = sorted(loaded.all_special_ids), params.masked_lm.masked
        masking = Masking(loaded.mask_token_id, special, teacher.config.vocab_size, share, setting.seed)
        objective = MaskedDistillation(masking, MaskedTeacher(*live), MaskedBlend(params.masked_lm), terms)
    train_rows, held_out = hold_out(rows, params.held_out, setting.seed)
    return GeneralDistillation(student, objective, train_rows, held_out)


def load_base(folder: Path, params: General) -> PreTrainedModel:
    """Load the teacher of general distillation, with its masked-language-modelling head if params need it.

    Raises:
        ModelError: the model cannot be loaded, or lacks that head; see `load_classifier` and `load_masked_lm`.
    """
    if params.masked_lm is None:
        # The new head is neither trained nor saved.
        return load_classifier(folder, ["0", "1"])
    return load_masked_lm(folder)


def _freeze_unused(student: PreTrainedModel) -> None:
    """Freeze the head and the pooler, on which there is no loss; only embeddings and layers learn."""
    student.requires_grad_(False)
    student.base_model.requires_grad_(True)
    for name, weight in student.base_model.named_parameters():
        if is_pooler(name):
            weight.requires_grad_(False)
