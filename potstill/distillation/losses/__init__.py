"""Losses of knowledge distillation: pure functions of tensors that return one fp32 number a row.

There is one module for each kind of tensor that is compared: `logits`, `hidden` states, `attention` maps, `relations`,
`sentences` and `spans`. `means` combines several teachers. `tensors` has what all of them share.

To add a loss, write the function here with its source paper, add a term class to `potstill.config.term_params`, and add
an entry to `potstill.distillation.objective.terms`.
"""
