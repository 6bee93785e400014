"""A new encoder with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.config.teacher_params import Pretrain

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def new_bert(params: Pretrain, vocabulary: int, seed: int) -> PreTrainedModel:
    """Build a BertForMaskedLM with random weights, without touching torch's global random state.

    Args:
        params: numbers of layers, heads and positions, and the width; feed-forward layers are four times as wide.
        vocabulary: number of token ids; id 0 is padding.
        seed: seed of the weights.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # transformers shows one when it saves the model
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=params.width,
        num_hidden_layers=params.layers,
        num_attention_heads=params.heads,
        intermediate_size=4 * params.width,
        max_position_embeddings=params.max_length,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForMaskedLM(config).eval()
