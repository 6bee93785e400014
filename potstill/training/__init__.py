"""The training loop and its parts.

All stages that learn call `loop.train`. Checkpoints, weight averaging, selection, packing, LoRA, adversarial steps, and
plans and forecasts (`plan`, `forecast`) have their own modules. `assistants`, `together`, `general_distillation`,
`pretraining` and `layer_probe` run the loop for a purpose.

Not here: what is minimised (`potstill.distillation.objective`).
"""
