"""What a student learns from: losses, teachers' outputs, and how both make one objective.

`losses` holds pure functions of tensors, `teachers` where a teacher's outputs come from (a store or a live model),
`objective` how terms add up on a batch. The modules here measure what may be pruned before a student learns.

Not here: the loop that minimises an objective (`potstill.training`).
"""
