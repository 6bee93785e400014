"""An encoder that nobody has trained yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from potstill.config.teacher_params import Pretrain

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def new_bert(params: Pretrain, vocabulary: int, seed: int) -> PreTrainedModel:
    """A BertForMaskedLM of random weights; torch's own random state stays as it is.

    Args:
        params: layers, width, heads and positions; the feed-forward layers are four times as wide.
        vocabulary: number of token ids; 0 is padding.
        seed: of the weights.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # of the files it is saved to
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
