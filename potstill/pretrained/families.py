"""How each class of transformers names its parts: where the layers are, and what is what inside a layer.

One entry a model type (`config.model_type`), read from transformers' own modeling files (release 5.23). Whoever needs
a part of a model asks here, so that a new class is one new entry.
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
    """The names of one model type. H: hidden size, I: intermediate size, E: embedding size, V: vocabulary.

    Paths of the first block are inside the base model (`model.base_model`), those of the second inside one layer,
    those of the third inside the model with a head; the fourth block names keys of the config.
    """

    layers: str = "encoder.layer"
    embeddings: str = "embeddings"
    # (V, E); E is H but for ELECTRA and some DeBERTa.
    word_embeddings: str = "embeddings.word_embeddings"
    # (P, E) for P positions; None: rotary. Of a DeBERTa with position_biased_input false the module is None.
    position_embeddings: str | None = "embeddings.position_embeddings"
    # (T, E) for T token types; None: the class has none. Of a config with type_vocab_size 0 (DeBERTa) it is None.
    token_types: str | None = "embeddings.token_type_embeddings"
    embeddings_norm: str = "embeddings.LayerNorm"

    # Linear layers H -> H each, or fused: one of H -> 3H whose output is query, key, value, in thirds.
    query: str | None = "attention.self.query"
    key: str | None = "attention.self.key"
    value: str | None = "attention.self.value"
    qkv: str | None = None
    attention_out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    # H -> I and I -> H. Gated: H -> 2I, whose output is the input of the activation, then the gate, in halves.
    ffn_in: str = "intermediate.dense"
    ffn_out: str = "output.dense"
    ffn_norm: str = "output.LayerNorm"
    gated: bool = False
    # Scores are query * key / sqrt(head size) and nothing more: no rotation of both, no relative position, no window.
    plain_attention: bool = True

    # The dense layer H -> H on the pooled token before the output layer H -> labels. `pooler` tells whether it is
    # the base model's own pooler, which other heads have as well.
    head: str = "classifier.dense"
    output: str = "classifier.out_proj"
    pooler: bool = False
    # Of the masked language model: the first module behind the base model, which takes in the last states.
    masked_lm: str = "lm_head"

    layers_key: str = "num_hidden_layers"
    heads_key: str = "num_attention_heads"
    hidden_key: str = "hidden_size"
    intermediate_key: str = "intermediate_size"
    # Keys that repeat the hidden size.
    hidden_copies: tuple[str, ...] = ()
    # Lists with one item a layer. Named, not guessed by length: DeBERTa's pos_att_type of two items is no such list.
    per_layer_keys: tuple[str, ...] = ()

    # Position ids count from pad_token_id + 1: the pad token cannot move without the positions.
    positions_from_pad: bool = False
    # Layer 0 has no norm before its attention, all others have: it can only come first, and only it.
    bare_first_layer: bool = False


_BERT = Family(head="bert.pooler.dense", output="classifier", pooler=True, masked_lm="cls")
_ROBERTA = Family(positions_from_pad=True)

FAMILIES: dict[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Family(masked_lm="generator_predictions"),
    # One relative_attention_bias for all layers, beside them in the encoder.
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
    # v2 and v3; rel_embeddings, their norm and a convolution after the first layer lie beside the layers as well.
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
    # Norms come before their block here, and a last one, final_norm, after the layers.
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
    """The names of a model's parts, by its `config.model_type`.

    Raises:
        ModelError: the class has no entry.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        raise ModelError(unsupported(kind))
    return FAMILIES[kind]


def unsupported(kind: str) -> str:
    """What is said of a `model_type` that has no entry."""
    return (
        f"{kind} models are not supported: it is not known where this class keeps its layers, attention "
        f"projections and embeddings; take a model of a known class ({', '.join(FAMILIES)})"
    )


def positions_of(config: Mapping[str, Any]) -> int | None:
    """How many tokens a text of a model can have, by its config.json; None: it says nothing.

    Classes whose positions count from `pad_token_id + 1` have that many fewer than rows for them.
    """
    rows = config.get("max_position_embeddings")
    if rows is None:
        return None
    return int(rows) - position_offset(config)


def position_offset(config: Mapping[str, Any]) -> int:
    """The first position of a text among the rows of positions, by a model's config.json."""
    family = FAMILIES.get(str(config.get("model_type")))
    from_pad = family is not None and family.positions_from_pad
    pad = config.get("pad_token_id")
    return (1 if pad is None else int(pad)) + 1 if from_pad else 0


def tells_texts_apart(config: Mapping[str, Any]) -> bool:
    """Whether a model, by its config.json, has token types for the two texts of a pair; one type is none."""
    family = FAMILIES.get(str(config.get("model_type")))
    return (family is None or family.token_types is not None) and config.get("type_vocab_size", 2) > 1


def layers_path(model: PreTrainedModel) -> str:
    """The path of the list of layers from `model`, whether or not it has a head.

    Raises:
        ModelError: see `family_of`.
    """
    family = family_of(model.config)
    return family.layers if model.base_model is model else f"{model.base_model_prefix}.{family.layers}"


def layers_of(model: PreTrainedModel) -> Sequence[nn.Module]:
    """The layers of a model of a known class, first to last.

    Raises:
        ModelError: see `family_of`.
    """
    layers: Sequence[nn.Module] = model.get_submodule(layers_path(model))
    return layers
