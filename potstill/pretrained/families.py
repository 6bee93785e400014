"""Names of the parts of each supported model type: where the layers are, and what a layer consists of.

There is one entry for each `config.model_type`, taken from transformers' modeling files (release 5.23). All code that
needs a part of a model looks it up here, so that supporting a new class takes one new entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from potstill.errors import ModelError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Family:
    """The names of the parts of one model type.

    Paths in the first block start at the base model (`model.base_model`), in the second at a layer, and in the third
    at the model with its head. The fourth block has keys of the config.

    H is the hidden size, I the intermediate size, E the embedding size and V the size of the vocabulary.
    """

    layers: str = "encoder.layer"
    embeddings: str = "embeddings"
    # (V, E); E equals H except in ELECTRA and some DeBERTa models.
    word_embeddings: str = "embeddings.word_embeddings"
    # (P, E) for P positions; None: rotary. The module is None in a DeBERTa without position_biased_input.
    position_embeddings: str | None = "embeddings.position_embeddings"
    # (T, E) for T token types; None if the class has none. The module is None in a DeBERTa with type_vocab_size 0.
    token_types: str | None = "embeddings.token_type_embeddings"
    embeddings_norm: str = "embeddings.LayerNorm"

    # Linear layers H -> H. A fused layer `qkv` is H -> 3H, and its output is query, key and value, a third each.
    query: str | None = "attention.self.query"
    key: str | None = "attention.self.key"
    value: str | None = "attention.self.value"
    qkv: str | None = None
    attention_out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    # H -> I and I -> H. A gated `ffn_in` is H -> 2I; half of its output goes into the activation, half is the gate.
    ffn_in: str = "intermediate.dense"
    ffn_out: str = "output.dense"
    ffn_norm: str = "output.LayerNorm"
    gated: bool = False
    # Whether scores are query * key / sqrt(head size): no rotary or relative positions, no local attention.
    plain_attention: bool = True

    # The dense layer H -> H on the pooled token, before the output layer H -> labels. `pooler` says whether it is the
    # pooler of the base model, which other heads use as well.
    head: str = "classifier.dense"
    output: str = "classifier.out_proj"
    pooler: bool = False
    # The first module of the masked-language-modelling head; its input is the last hidden states.
    masked_lm: str = "lm_head"

    layers_key: str = "num_hidden_layers"
    heads_key: str = "num_attention_heads"
    hidden_key: str = "hidden_size"
    intermediate_key: str = "intermediate_size"
    # Further keys with the same value as the hidden size.
    hidden_copies: tuple[str, ...] = ()
    # Lists with one item a layer. They cannot be guessed by length: DeBERTa's pos_att_type also has two items.
    per_layer_keys: tuple[str, ...] = ()

    # Position ids count from pad_token_id + 1, so the id of the pad token cannot change.
    positions_from_pad: bool = False
    # Layer 0 alone has no norm before its attention, so a student has to start with it and use it once.
    bare_first_layer: bool = False


_BERT = Family(head="bert.pooler.dense", output="classifier", pooler=True, masked_lm="cls")
_ROBERTA = Family(positions_from_pad=True)

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Family(masked_lm="generator_predictions"),
    # All layers share one relative_attention_bias, which is part of the encoder and not of a layer.
    "mpnet": Family(
        token_types=None,
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_out="attention.attn.o",
        attention_norm="attention.LayerNorm",
        plain_attention=False,
        positions_from_pad=True,
    ),
    # v2 and v3. rel_embeddings, their norm and a convolution after the first layer are not part of a layer either.
    "deberta-v2": Family(
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        plain_attention=False,
        head="pooler.dense",
        output="classifier",
        masked_lm="cls",
        hidden_copies=("pooler_hidden_size",),
    ),
    "distilbert": Family(
        layers="transformer.layer",
        token_types=None,
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_out="attention.out_lin",
        attention_norm="sa_layer_norm",
        ffn_in="ffn.lin1",
        ffn_out="ffn.lin2",
        ffn_norm="output_layer_norm",
        head="pre_classifier",
        output="classifier",
        masked_lm="vocab_transform",
        layers_key="n_layers",
        heads_key="n_heads",
        hidden_key="dim",
        intermediate_key="hidden_dim",
    ),
    # Norms come before attention and feed-forward network; final_norm comes after the last layer.
    "modernbert": Family(
        layers="layers",
        word_embeddings="embeddings.tok_embeddings",
        position_embeddings=None,
        token_types=None,
        embeddings_norm="embeddings.norm",
        query=None,
        key=None,
        value=None,
        qkv="attn.Wqkv",
        attention_out="attn.Wo",
        attention_norm="attn_norm",
        ffn_in="mlp.Wi",
        ffn_out="mlp.Wo",
        ffn_norm="mlp_norm",
        gated=True,
        plain_attention=False,
        head="head.dense",
        output="classifier",
        masked_lm="head",
        per_layer_keys=("layer_types",),
        bare_first_layer=True,
    ),
}


def family_of(config: PreTrainedConfig) -> Family:
    """Look up the names of a model's parts by its `config.model_type`.

    Raises:
        ModelError: the model type is not supported.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        raise ModelError(unsupported(kind))
    return FAMILIES[kind]


def unsupported(kind: str) -> str:
    """The error message for a `model_type` that is not supported."""
    return (
        f"{kind} models are not supported: it is not known where this class keeps its layers, attention "
        f"projections and embeddings; take a model of a known class ({', '.join(FAMILIES)})"
    )


def positions_of(config: Mapping[str, Any]) -> int | None:
    """The maximum number of tokens of a text, according to a model's config.json; None if it sets no limit.

    In classes whose positions count from `pad_token_id + 1`, the first rows of the position embeddings are not used.
    """
    rows = config.get("max_position_embeddings")
    if rows is None:
        return None
    return int(rows) - position_offset(config)


def position_offset(config: Mapping[str, Any]) -> int:
    """The index of the first position of a text in the position embeddings, according to a model's config.json."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or not family.positions_from_pad:
        return 0
    pad = config.get("pad_token_id")
    return 1 + (1 if pad is None else int(pad))


def tells_texts_apart(config: Mapping[str, Any]) -> bool:
    """Whether a model's config.json gives it at least two token types, one for each text of a pair."""
    family = FAMILIES.get(str(config.get("model_type")))
    return (family is None or family.token_types is not None) and config.get("type_vocab_size", 2) > 1


def layers_path(model: PreTrainedModel) -> str:
    """Return the path of the list of layers, starting at `model`, with or without a head.

    Raises:
        ModelError: see `family_of`.
    """
    family = family_of(model.config)
    return family.layers if model.base_model is model else f"{model.base_model_prefix}.{family.layers}"


def layers_of(model: PreTrainedModel) -> Sequence[nn.Module]:
    """Return the layers of a model, first to last.

    Raises:
        ModelError: see `family_of`.
    """
    layers: Sequence[nn.Module] = model.get_submodule(layers_path(model))
    return layers
