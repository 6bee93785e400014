"""Objectives: how losses become one number to minimise on a batch.

`composition` is the objective of distillation. `terms` are the losses that params add, with their layer maps, and
`balancing` has their weights step by step. `mutual` lets students teach each other. `masked_tokens` and
`masked_teacher` are objectives on masked text. `gold_labels` has the base class and the simplest objective.

Not here: the losses of each task on labels and on logits (`potstill.kinds.losses`).
"""
