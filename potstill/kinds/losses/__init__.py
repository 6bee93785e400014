"""What each kind of task learns from: its loss on gold labels and its loss on a teacher's logits, with torch.

`head_loss` is the interface. Each further module is one task, and `task_losses` is their registry. Functions of tensors
that several tasks share are in `potstill.distillation.losses`.
"""
