"""Losses of one class of several: cross-entropy, and KL to the teacher's softmax."""

from __future__ import annotations

from potstill.distillation.losses.logits import cross_entropy, kl_divergence
from potstill.kinds.losses.head_loss import HeadLoss

SINGLE_LABEL = HeadLoss("ce", cross_entropy, "kl", kl_divergence, lambda t: f"T^2 * KL(T={t:g})")
