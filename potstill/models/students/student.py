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

# The parts of a layer, which are the same in BERT and DistilBERT.
_PARTS = ("query", "key", "value", "attention_out", "attention_norm", "ffn_in", "ffn_out", "ffn_norm")
# Class of a BERT with a head -> DistilBERT's class, and its names of the head's modules.
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
# layer_norm_eps is a constant in DistilBERT's code.
_DISTILBERT_EPS = 1e-12


def check_layers(
    layers: Sequence[int], available: int, location: str, key: str = "distill.layers", role: str = "teacher"
) -> None:
    """Refuse layers that a model does not have.

    Args:
        layers: layers counted from 0.
        available: number of layers of the model.
        location: name or folder of the model, for the error message.
        key: key of params that names the layers, for the error message.
        role: role of the model, for the error message.

    Raises:
        ModelError: a layer is out of range, or `layers` is empty.
    """
    if not layers:
        raise ModelError(f"{key} names no layer; give at least one, as [0]")
    beyond = [layer for layer in layers if not 0 <= layer < available]
    if beyond:
        raise ModelError(
            f"{key} names layer {beyond[0]}, but the {role} in {location} has {available} layers (0 to {available - 1})"
        )


def check_plan(params: Distill, teacher: PreTrainedModel) -> None:
    """Refuse a `distill` section that names layers which the loaded teacher does not have.

    Raises:
        ModelError: see `check_layers`; also if the teacher's class is not supported.
    """
    available = getattr(teacher.config, family_of(teacher.config).layers_key)
    check_available(params, available, teacher.config.name_or_path or "memory")


def check_available(params: Distill, available: int, location: str) -> None:
    """Refuse a `distill` section that names layers beyond the teacher's `available` layers.

    Raises:
        ModelError: see `check_layers`.
    """
    check_layers(params.layers, available, location)
    for layers in params.assistants:
        check_layers(layers, available, location, "distill.assistants")
    for layers in params.mutual.students if params.mutual is not None else []:
        check_layers(layers, available, location, "distill.mutual.students")


def student_from_layers(teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Build a model of the teacher's class from its embeddings, some of its layers, its pooler and its head.

    Weights outside the layers are copied too, such as the relative positions of MPNet and DeBERTa and ModernBERT's
    last norm. Each layer keeps its own settings, such as ModernBERT's global or local attention. DeBERTa's
    convolution, if it has one, comes after the student's first layer, whichever layer of the teacher that was.

    Args:
        teacher: a model of a class in `families.FAMILIES`, with or without a head.
        layers: the teacher's layers counted from 0, in the student's order.

    Raises:
        ModelError: a layer does not exist, the class is not supported, or its first layer is required.
    """
    family = family_of(teacher.config)
    _check_teacher_layers(teacher, layers, family)
    student = type(teacher)(_config_with_layers(teacher.config, layers, family))
    student.load_state_dict(_state_of_layers(teacher, layers))
    return student.eval()


def student_at_random(
    parent: PreTrainedModel,
    layers: int,
    *,
    hidden_size: int | None = None,
    heads: int | None = None,
    intermediate_size: int | None = None,
) -> PreTrainedModel:
    """Build a model of the parent's class and labels with random weights, drawn from torch's current seed.

    Args:
        parent: a model of a class in `families.FAMILIES`, with or without a head.
        layers: number of layers. Settings of single layers (ModernBERT: global or local attention) are those of the
            parent's first layers.
        hidden_size: width of the hidden states; None takes the parent's.
        heads: attention heads of a layer; None takes the parent's.
        intermediate_size: units of a feed-forward layer; None takes the parent's.

    Raises:
        ModelError: the class is not supported, the heads do not divide the hidden size, or the parent lacks settings
            for some layers.
    """
    family = family_of(parent.config)
    available = getattr(parent.config, family.layers_key)
    if family.per_layer_keys and layers > available:
        raise ModelError(
            f"distill.layers names {layers} layers, but the {available} of the {parent.config.model_type} in "
            f"{parent.config.name_or_path or 'memory'} have a setting each ({family.per_layer_keys[0]}), and further "
            "layers would have none; name fewer"
        )
    config = _config_with_layers(parent.config, range(layers), family)
    sizes = dict.fromkeys((family.hidden_key, *family.hidden_copies), hidden_size)
    sizes |= {family.heads_key: heads, family.intermediate_key: intermediate_size}
    for key, value in sizes.items():
        if value is not None:
            setattr(config, key, value)
    width = getattr(config, family.hidden_key)
    head_count = getattr(config, family.heads_key)
    if width % head_count:
        raise ModelError(
            f"distill.student has {head_count} attention heads, which do not divide its hidden size of {width}; set "
            "heads to a divisor"
        )
    return type(parent)(config).eval()


def distilbert_from_bert(teacher: PreTrainedModel, layers: Sequence[int], *, pair: bool = False) -> PreTrainedModel:
    """Build a DistilBERT from a BERT's embeddings, some of its layers and its head (Sanh et al. 2019, section 3).

    DistilBERT has no token types. Row 0 of the teacher's token types is added to every position, which is exact for
    single texts. With all layers, the hidden states (batch, tokens, hidden) equal the teacher's up to rounding, and so
    do logits of tokens. Logits of a sequence classifier do not: the pooler's weights become `pre_classifier`, but BERT
    applies a tanh to it and DistilBERT a ReLU. Training has to close that gap.

    Args:
        teacher: a BertForSequenceClassification, BertForTokenClassification, BertForQuestionAnswering or
            BertForMaskedLM.
        layers: the teacher's layers counted from 0, in the student's order.
        pair: whether the task is about pairs of texts.

    Raises:
        ModelError: the teacher is of another class, the texts of pairs have token types, a layer does not exist, or a
            setting of the teacher does not exist in DistilBERT.
    """
    import transformers

    target = _HEADS.get(type(teacher).__name__)
    if target is None:
        raise ModelError(f"a DistilBERT is made from {' or '.join(_HEADS)}, not from a {type(teacher).__name__}")
    _check_distilbert(teacher.config, pair=pair)
    _check_teacher_layers(teacher, layers, FAMILIES["bert"])
    name, head = target
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


def _config_with_layers(config: PreTrainedConfig, layers: Sequence[int], family: Family) -> PreTrainedConfig:
    """Copy a config with other layers: their number, and the lists with one item a layer."""
    cut = copy.deepcopy(config)
    setattr(cut, family.layers_key, len(layers))
    for key in family.per_layer_keys:
        values = getattr(config, key)
        setattr(cut, key, [values[layer] for layer in layers])
    return cut


def _state_of_layers(teacher: PreTrainedModel, layers: Sequence[int]) -> dict[str, Any]:
    """Return the teacher's state dict with only the given layers, renumbered."""
    pattern = re.compile(rf"({re.escape(layers_path(teacher))}\.)(\d+)(\..+)")
    state: dict[str, Any] = {}
    for name, value in teacher.state_dict().items():
        match = pattern.fullmatch(name)
        if match is None:
            state[name] = value
            continue
        for position, layer in enumerate(layers):
            if int(match[2]) == layer:
                state[f"{match[1]}{position}{match[3]}"] = value
    return state


def _check_distilbert(config: PreTrainedConfig, *, pair: bool) -> None:
    """Refuse settings of a BERT that DistilBERT does not have."""
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
    """Return the teacher's state dict under DistilBERT's names, with token type 0 added to the positions."""
    bert = FAMILIES["bert"]
    distilbert = FAMILIES["distilbert"]
    modules = list(head.items())
    modules += [
        (f"bert.{getattr(bert, part)}", f"distilbert.{getattr(distilbert, part)}")
        for part in ("word_embeddings", "position_embeddings", "embeddings_norm")
    ]
    for position, layer in enumerate(layers):
        for part in _PARTS:
            teacher_name = f"bert.{bert.layers}.{layer}.{getattr(bert, part)}"
            modules.append((teacher_name, f"distilbert.{distilbert.layers}.{position}.{getattr(distilbert, part)}"))
    source = teacher.state_dict()
    state = {
        f"{student_name}.{leaf}": source[f"{teacher_name}.{leaf}"]
        for teacher_name, student_name in modules
        for leaf in ("weight", "bias")
        if f"{teacher_name}.{leaf}" in source
    }
    positions = f"distilbert.{distilbert.position_embeddings}.weight"
    state[positions] = state[positions] + source[f"bert.{bert.token_types}.weight"][0]
    return state
