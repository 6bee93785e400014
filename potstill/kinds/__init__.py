"""The kinds of task: what a model is to answer, one file for each kind in each of two rooms.

`definitions` says what a task is, with NumPy alone: the head of its models, the form of its labels, its score, the
answers that logits stand for, the columns of its table, and the params that are for some tasks only. Serving imports
it, so it travels in the Bento and in the registered model. `losses` says with torch what a task learns from: its loss
on gold labels, its loss on a teacher's logits, and how that loss combines several teachers.

To add a task: write a subclass of `definitions.kind.Kind` and a `losses.head_loss.HeadLoss`, each in a file of its own.
Add their lines to `definitions.task_kinds` and `losses.task_losses`, and the name to `task_names`.
CONTRIBUTING.md has the recipe.

Not here: the functions that tasks share (`potstill.scores`, `potstill.labels`, `potstill.distillation.losses`).
"""
