"""Losses of entities: those of one class of several, with each token that represents a unit as a row."""

from __future__ import annotations

from dataclasses import replace

from potstill.kinds.losses.single_label_loss import SINGLE_LABEL

TOKEN_CLASSIFICATION = replace(SINGLE_LABEL, formula=lambda t: f"T^2 * KL(T={t:g}) by token")
