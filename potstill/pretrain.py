"""Encoders from raw text, from Python: pre-training from scratch, and general distillation of one that there is.

Thin shells over the parts that the pipeline's stages `pretrain` and `general` use.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from potstill.config.distill_params import General
from potstill.config.teacher_params import Pretrain
from potstill.config.yaml_file import parse_section
from potstill.errors import FormatError
from potstill.progress import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoder:
    """What `pretrain` and `distill_general` give back.

    Attributes:
        model: a model of transformers, in evaluation mode: a BertForMaskedLM, or a student of the given class.
        tokenizer: its tokenizer.
        report: `rows` trained on an epoch, `rows_seen`, and `held_out_loss`: of the objective on texts held out.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    report: dict[str, float]

    def save_pretrained(self, folder: Path | str) -> None:
        """Write both as a folder that transformers loads, and `ingest.teacher` of params takes."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def pretrain(
    texts: Sequence[str], *, seed: int = 17, device: str = "auto", precision: str = "auto", **settings: Any
) -> Encoder:
    """Train a WordPiece tokenizer and a BERT from scratch on texts, by masked language modelling.

    Args:
        texts: raw; a share of them is held out to judge by.
        seed: of everything random.
        device: auto, cpu, cuda or mps.
        precision: auto, fp32, bf16 or fp16.
        settings: any key of `pretrain` in params.yaml: vocabulary, layers, width, heads, max_length, epochs, ...

    Raises:
        PotstillError: a value or texts that do not fit, before anything is trained.
    """
    from potstill.pretrained.inspection import read_tokenizer
    from potstill.training.pretraining import prepare_pretraining
    from potstill.training.settings import choose_setting

    _check_texts(texts)
    params = parse_section("pretrain", Pretrain, {"checkpoint_seconds": 1e9} | settings)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        work = prepare_pretraining(texts, params, seed, folder)
        outcome = work.train(choose_setting("pretrain", seed, device, precision, folder, params, work.model))
        report = {"rows": float(len(work.rows)), "rows_seen": float(outcome.rows), "held_out_loss": -outcome.score}
        return Encoder(work.model.cpu(), read_tokenizer(folder), report)


def distill_general(
    encoder: Path | str,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    max_length: int = 128,
    seed: int = 17,
    device: str = "auto",
    precision: str = "auto",
    **settings: Any,
) -> Encoder:
    """Make some of an encoder's layers learn its states on raw text, before there is any task.

    Args:
        encoder: a `save_pretrained` folder with tokenizer.json; its head for masked tokens is used with `masked_lm`.
        texts: raw; a share of them is held out to judge by.
        layers: those the student starts from, counted from 0.
        max_length: longest row in tokens; what is longer makes further rows.
        seed: of everything random.
        device: auto, cpu, cuda or mps.
        precision: auto, fp32, bf16 or fp16.
        settings: any other key of `general` in params.yaml: terms, masked_lm, epochs, learning_rate, ...

    Raises:
        PotstillError: a value, text, layer or term that does not fit, before anything is trained.
    """
    import torch

    from potstill.data.corpus import token_rows
    from potstill.data.tokens.tokenization import check_length, load_tokenizer
    from potstill.pretrained.inspection import read_tokenizer
    from potstill.training.general_distillation import load_base, prepare_general
    from potstill.training.settings import choose_setting

    _check_texts(texts)
    folder = Path(encoder)
    values = {"checkpoint_seconds": 1e9} | settings | {"layers": list(layers)}
    params = parse_section("general", General, values)
    torch.manual_seed(seed)
    teacher = load_base(folder, params)
    pad = int(check_length(folder, max_length).get("pad_token_id") or 0)
    rows = token_rows(texts, load_tokenizer(folder, max_length), pad)
    with tempfile.TemporaryDirectory() as scratch:
        setting = choose_setting("general", seed, device, precision, Path(scratch), params, teacher)
        work = prepare_general(teacher, rows, params, folder, setting)
        for line in work.objective.describe():
            say(f"general: {line}")
        outcome = work.train(setting)
    report = {"rows": float(len(work.rows)), "rows_seen": float(outcome.rows), "held_out_loss": -outcome.score}
    return Encoder(work.trained(params), read_tokenizer(folder), report)


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise FormatError("texts is one string; give a list of texts")
    wrong = next((row for row, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise FormatError(f"texts[{wrong}] is {texts[wrong]!r:.80}; it has to be a string")
