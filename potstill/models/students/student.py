"""A student built from chosen layers of its teacher (Sanh et al. 2019, DistilBERT, section 3)."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError
from potstill.pretrained.families import FAMILIES, Family, family_of, layers_path

if TYPE_CHECKING:
    from transformers import DistilBertConfig, PreTrainedConfig, PreTrainedModel

    from potstill.config.distill_params import Distill

# The parts of a layer that BERT and DistilBERT have in common: all of them.
_PARTS = ("query", "key", "value", "attention_out", "attention_norm", "ffn_in", "ffn_out", "ffn_norm")
# BERT's head -> DistilBERT's class and its names.
_HEADS = {
    "BertForSequenceClassification": (
        "DistilBertForSequenceClassification",
        {"bert.pooler.dense": "pre_classifier", "classifier": "classifier"},
    ),
    "BertForTokenClassification": ("DistilBertForTokenClassification", {"classifier": "classifier"}),
    "BertForQuestionAnswering": ("DistilBertForQuestionAnswering", {"qa_outputs": "qa_outputs"}),
    "BertForMaskedLM": (
        "DistilBertForMaskedLM",
        {
            "cls.predictions.transform.dense": "vocab_transform",
            "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
            "cls.predictions.decoder": "vocab_projector",
        },
    ),
}
# DistilBERT's is written into its code.
_DISTILBERT_EPS = 1e-12


def check_layers(
    layers: Sequence[int], available: int, where: str, key: str = "distill.layers", whose: str = "teacher"
) -> None:
    """Refuse layers that a model, by default the teacher, does not have.

    Raises:
        ModelError: a layer is out of range, or there are none.
    """
    if not layers:
        raise ModelError(f"{key} names no layer; give at least one, as [0]")
    beyond = [layer for layer in layers if not 0 <= layer < available]
    if beyond:
        raise ModelError(
            f"{key} names layer {beyond[0]}, but the {whose} in {where} has {available} layers (0 to {available - 1})"
        )


def check_plan(params: Distill, teacher: PreTrainedModel) -> None:
    """Refuse a `distill` section that names layers which the teacher does not have, before anything is trained.

    Raises:
        ModelError: see `check_layers`; also a class that is not known.
    """
    available = getattr(teacher.config, family_of(teacher.config).layers_key)
    check_available(params, available, teacher.config.name_or_path or "memory")


def check_available(params: Distill, available: int, where: str) -> None:
    """Refuse a `distill` section that names layers beyond those of a teacher, known by their number alone.

    Raises:
        ModelError: see `check_layers`.
    """
    check_layers(params.layers, available, where)
    for layers in params.assistants:
        check_layers(layers, available, where, "distill.assistants")
    for layers in params.mutual.students if params.mutual is not None else []:
        check_layers(layers, available, where, "distill.mutual.students")


def student_from_layers(teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A model of the teacher's class with copies of its embeddings, pooler, head and the given layers.

    What lies beside the layers (MPNet's and DeBERTa's relative positions, ModernBERT's last norm) is copied too, and
    each layer keeps its own settings (ModernBERT: global or local attention). DeBERTa's convolution, where it has
    one, follows the student's first layer, whichever that was.

    Args:
        teacher: a model of a class in `families.FAMILIES`, with or without a head.
        layers: teacher layers from 0, in the order in which the student stacks them.

    Raises:
        ModelError: a layer does not exist, the class is not known, or it cannot do without its first layer.
    """
    family = family_of(teacher.config)
    _check_teacher_layers(teacher, layers, family)
    student = type(teacher)(_config_of(teacher.config, layers, family))
    student.load_state_dict(_chosen(teacher, layers))
    return student.eval()


def student_at_random(
    parent: PreTrainedModel,
    layers: int,
    *,
    hidden_size: int | None = None,
    heads: int | None = None,
    intermediate_size: int | None = None,
) -> PreTrainedModel:
    """A model of the parent's class and labels with fresh weights, drawn from torch's current seed.

    Args:
        parent: a model of a class in `families.FAMILIES`, with or without a head.
        layers: how many; the settings of single layers (ModernBERT: global or local attention) are those of the
            parent's first ones.
        hidden_size: None: the parent's; likewise the others.
        heads: attention heads of a layer.
        intermediate_size: units of a layer's feed-forward network.

    Raises:
        ModelError: the class is not known, or the heads do not divide the hidden size.
    """
    family = family_of(parent.config)
    config = _config_of(parent.config, range(layers), family)
    sizes = dict.fromkeys((family.hidden_key, *family.hidden_copies), hidden_size)
    sizes |= {family.heads_key: heads, family.intermediate_key: intermediate_size}
    for key, value in sizes.items():
        if value is not None:
            setattr(config, key, value)
    width, count = getattr(config, family.hidden_key), getattr(config, family.heads_key)
    if width % count:
        raise ModelError(
            f"distill.student has {count} attention heads, which do not divide its hidden size of {width}; set heads "
            "to a divisor"
        )
    return type(parent)(config).eval()


def distilbert_from_bert(teacher: PreTrainedModel, layers: Sequence[int], *, pair: bool = False) -> PreTrainedModel:
    """A DistilBERT with copies of a BERT's embeddings, chosen layers and head.

    DistilBERT has no token types: row 0 of the teacher's is added to every position, which is exact for single texts.
    With the same layers all hidden states (batch, tokens, hidden) are the teacher's to rounding, and so are the logits
    of tokens. Those of a sequence classifier are not: the pooler's weights go into `pre_classifier`, but BERT has a
    tanh after them and DistilBERT a ReLU. Training has to close that.

    Args:
        teacher: a BertForSequenceClassification, BertForTokenClassification, BertForQuestionAnswering or
            BertForMaskedLM.
        layers: teacher layers from 0, in the order in which the student stacks them.
        pair: whether the task is on pairs of texts.

    Raises:
        ModelError: another class, a pair task whose second text has a token type of its own, a layer that does not
            exist, or a setting that DistilBERT does not have.
    """
    import transformers

    known = _HEADS.get(type(teacher).__name__)
    if known is None:
        raise ModelError(f"a DistilBERT is made from {' or '.join(_HEADS)}, not from a {type(teacher).__name__}")
    _check_distilbert(teacher.config, pair=pair)
    _check_teacher_layers(teacher, layers, FAMILIES["bert"])
    name, head = known
    student: PreTrainedModel = getattr(transformers, name)(_distilbert_config(teacher.config, len(layers)))
    student.load_state_dict(_as_distilbert(teacher, layers, head))
    return student.eval()


def _check_teacher_layers(teacher: PreTrainedModel, layers: Sequence[int], family: Family) -> None:
    available = getattr(teacher.config, family.layers_key)
    check_layers(layers, available, teacher.config.name_or_path or "memory")
    if family.bare_first_layer and (layers[0] != 0 or 0 in layers[1:]):
        raise ModelError(
            f"distill.layers is {list(layers)}, but a {teacher.config.model_type} student has to start with layer 0 "
            "and use it once: it alone has no norm before its attention, and the class keeps that place for it"
        )


def _config_of(config: PreTrainedConfig, layers: Sequence[int], family: Family) -> PreTrainedConfig:
    """The student's config: the number of layers, and the lists with one item a layer cut with them."""
    cut = copy.deepcopy(config)
    setattr(cut, family.layers_key, len(layers))
    for key in family.per_layer_keys:
        values = getattr(config, key)
        setattr(cut, key, [values[layer] for layer in layers])
    return cut


def _chosen(teacher: PreTrainedModel, layers: Sequence[int]) -> dict[str, Any]:
    """The teacher's state with the chosen layers renumbered and the others left out."""
    pattern = re.compile(rf"({re.escape(layers_path(teacher))}\.)(\d+)(\..+)")
    state: dict[str, Any] = {}
    for name, value in teacher.state_dict().items():
        found = pattern.fullmatch(name)
        if found is None:
            state[name] = value
            continue
        for position, layer in enumerate(layers):
            if int(found[2]) == layer:
                state[f"{found[1]}{position}{found[3]}"] = value
    return state


def _check_distilbert(config: PreTrainedConfig, *, pair: bool) -> None:
    """Refuse what a DistilBERT cannot be told."""
    if pair and config.type_vocab_size > 1:
        raise ModelError(
            "a DistilBERT cannot tell the two texts of a pair apart, its teacher can: it has no token types; "
            "keep the teacher's class for pairs"
        )
    if config.layer_norm_eps != _DISTILBERT_EPS:
        raise ModelError(
            f"the teacher's layer_norm_eps is {config.layer_norm_eps:g}, a DistilBERT's is always "
            f"{_DISTILBERT_EPS:g}; keep the teacher's class"
        )
    if config.is_decoder:
        raise ModelError("the teacher is a decoder (is_decoder), a DistilBERT is an encoder; keep the teacher's class")


def _distilbert_config(bert: PreTrainedConfig, layers: int) -> DistilBertConfig:
    from transformers import DistilBertConfig

    dropout = bert.hidden_dropout_prob
    return DistilBertConfig(
        vocab_size=bert.vocab_size,
        max_position_embeddings=bert.max_position_embeddings,
        n_layers=layers,
        n_heads=bert.num_attention_heads,
        dim=bert.hidden_size,
        hidden_dim=bert.intermediate_size,
        dropout=dropout,
        attention_dropout=bert.attention_probs_dropout_prob,
        seq_classif_dropout=dropout if bert.classifier_dropout is None else bert.classifier_dropout,
        activation=bert.hidden_act,
        initializer_range=bert.initializer_range,
        pad_token_id=bert.pad_token_id,
        tie_word_embeddings=bert.tie_word_embeddings,
        id2label=dict(bert.id2label),
        label2id=dict(bert.label2id),
        problem_type=bert.problem_type,
        attn_implementation=bert._attn_implementation,
    )


def _as_distilbert(teacher: PreTrainedModel, layers: Sequence[int], head: dict[str, str]) -> dict[str, Any]:
    """The teacher's state under DistilBERT's names, token type 0 folded into the positions."""
    theirs, ours = FAMILIES["bert"], FAMILIES["distilbert"]
    modules = dict(head)
    for part in ("word_embeddings", "position_embeddings", "embeddings_norm"):
        modules[f"bert.{getattr(theirs, part)}"] = f"distilbert.{getattr(ours, part)}"
    source = teacher.state_dict()
    state: dict[str, Any] = {}
    for there, here in modules.items():
        state |= _renamed(source, there, here)
    for position, layer in enumerate(layers):
        for part in _PARTS:
            there = f"bert.{theirs.layers}.{layer}.{getattr(theirs, part)}"
            state |= _renamed(source, there, f"distilbert.{ours.layers}.{position}.{getattr(ours, part)}")
    positions = f"distilbert.{ours.position_embeddings}.weight"
    state[positions] = state[positions] + source[f"bert.{theirs.token_types}.weight"][0]
    return state


def _renamed(source: dict[str, Any], there: str, here: str) -> dict[str, Any]:
    found = {leaf: source.get(f"{there}.{leaf}") for leaf in ("weight", "bias")}
    return {f"{here}.{leaf}": value for leaf, value in found.items() if value is not None}
