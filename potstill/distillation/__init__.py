"""What a student learns from: losses, a teacher's outputs, and the objectives made of both.

`losses` has pure functions of tensors. `teachers` provides a teacher's outputs, from a store or from a live model.
`objective` combines loss terms on a batch. The modules here measure which parts of a student may be pruned.

Not here: the loop that minimises an objective (`potstill.training`).
"""
