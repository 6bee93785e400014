"""How a student is made before it learns.

From layers of its teacher (`student`), a checkpoint, a config at random, static embeddings (`kinds` picks the one that
`distill.student` names); with a smaller vocabulary (`fitted_vocabulary`), a factorized embedding table or narrower
layers. `layer_choice` says which layers are taken by default, and which are worth trying. A new kind of
student is a class in `potstill.config.student_params` and a branch in `kinds`.
"""
