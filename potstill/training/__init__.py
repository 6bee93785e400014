"""The one training loop and what belongs to it.

`loop.train` is called by every stage that learns. Checkpoints, averaging, selection, packing, LoRA, adversarial steps
and the plan (`plan`, `forecast`) are modules of their own. `assistants`, `together`, `general_distillation`,
`pretraining` and `layer_probe` are trainings made of the loop.

Not here: what is minimised (`potstill.distillation.objective`).
"""
