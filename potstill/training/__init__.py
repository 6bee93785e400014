"""The one training loop and what belongs to it.

`loop.train` is called by every stage that learns. Checkpoints, averaging, selection, packing, LoRA, adversarial steps
and the plan (`plan`, `forecast`) are modules of their own. `distillation_job` is a whole distillation: the stage, the
Python interface, the probe and the search run it. Its parts are `student_builder`, `assistants`, `together` and
`dev_scores`. `general_distillation` and `pretraining` are further trainings made of the loop.

Not here: what is minimised (`potstill.distillation.objective`).
"""
