"""Losses of knowledge distillation: pure functions of tensors, in fp32, one number a row.

A module for what is compared: `logits`, `hidden` states, `attention` maps, `relations`, `sentences`, `spans`,
`masked_tokens`; `tensors` holds what all share. To add a loss: write the function here with its paper, a term class in
`potstill.config.term_params`, and its line in `potstill.distillation.objective.terms`.
"""
