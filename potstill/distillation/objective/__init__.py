"""How losses make one number to minimise on a batch.

`composition` is the objective of distillation; `terms` the losses that params add, with their layer maps; `supervision`
what each task learns from labels and from logits; `balancing` the weights of terms step by step; `mutual` students that
teach each other; `mixup` blends of rows; `gold_labels` the simplest objective.
"""
