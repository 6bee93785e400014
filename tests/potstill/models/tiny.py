"""Tiny random models of every supported class."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "num_labels": 3,
    "pad_token_id": 1,
}
DEBERTA_V3 = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
}
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {"pad_token_id": 0}),
    "roberta": ("Roberta", {"type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", {"type_vocab_size": 1}),
    "camembert": ("Camembert", {"type_vocab_size": 1}),
    "electra": ("Electra", {"embedding_size": 16}),
    "mpnet": ("MPNet", {"relative_attention_num_buckets": 32}),
    "deberta-v2": ("DebertaV2", DEBERTA_V3),
    "distilbert": ("DistilBert", {"dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 48}),
    # Windows of 4 tokens, so that a text of 20 tells local from global attention.
    "modernbert": (
        "ModernBert",
        {"local_attention": 4, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    ),
}


def make(kind: str, head: str = "ForSequenceClassification", **more: Any) -> Any:
    """Make a random model without constant weights, so that positions and norms have an effect."""
    import torch
    import transformers

    name, extra = CLASSES[kind]
    config = getattr(transformers, f"{name}Config")(**(SIZES | extra | more))
    model = getattr(transformers, f"{name}{head}" if head else f"{name}Model")(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model


def batch(vocabulary: int = 50, length: int = 20) -> dict[str, Any]:
    """Two texts, one of them padded."""
    import torch

    ids = torch.randint(5, vocabulary, (2, length), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}
